//! Parts of a model that an accelerator computes.

use std::path::PathBuf;

use kinglet_kernels::Device;
use kinglet_model::{Model, Part};

use crate::failure::Outcome;

/// `PART=FILE`
pub(crate) fn parse(text: &str) -> Result<(Part, PathBuf), String> {
    let parts = [Part::Vision, Part::Decoder];
    let named = text.split_once('=').and_then(|(name, file)| {
        let part = parts.into_iter().find(|part| part.name() == name)?;
        (!file.is_empty()).then(|| (part, PathBuf::from(file)))
    });
    named.ok_or_else(|| {
        let [vision, decoder] = parts.map(Part::name);
        format!("{vision}=FILE or {decoder}=FILE is expected")
    })
}

/// Opens graphs and lets them compute their parts of a model.
pub(crate) fn hand_over<D: Device>(model: &Model<D>, graphs: &[(Part, PathBuf)]) -> Outcome {
    for (part, file) in graphs {
        let graph = kinglet_boards::graph::open(file)?;
        let (runs_on, shape) = (graph.runs_on().to_owned(), graph.input().shape.clone());
        model.hand_over(*part, graph)?;
        tracing::info!(part = part.name(), runs_on, input = ?shape, "handed over");
    }
    Ok(())
}

/// Says what has become of the graphs since it was last asked.
pub(crate) fn tell<D: Device>(model: &Model<D>) {
    for news in model.graph_news() {
        tracing::warn!("{news}");
    }
}
