//! What a graph makes of its constants the library computes while it reads the graph: a file of 200 bytes can ask for
//! gigabytes. Here shapes are known before values.

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{TVec, TractResult};
use tract_onnx::tract_hir::infer::{DimFact, Factoid, InferenceFact, InferenceModel};

/// The most values that a node of a graph may give, and that all of its constants may have.
pub(super) const MOST_VALUES: usize = 64 << 20;
/// The most nodes of a graph.
const MOST_NODES: usize = 20_000;

/// What can be seen before anything is computed.
pub(super) fn check_file(proto: &ModelProto) -> Result<(), String> {
    let graph = proto.graph.as_ref().ok_or("is no ONNX file")?;
    if graph.node.len() > MOST_NODES {
        let count = graph.node.len();
        return Err(format!("has {count} nodes; {MOST_NODES} are accepted"));
    }
    for tensor in &graph.initializer {
        let values = tensor
            .dims
            .iter()
            .try_fold(1i64, |all, d| all.checked_mul(*d).filter(|_| *d >= 0));
        if values.is_none_or(|v| v > MOST_VALUES as i64) {
            let name: String = tensor.name.chars().take(100).collect();
            return Err(format!("has a tensor \"{name}\" of {:?}", tensor.dims));
        }
        // Other files are not read.
        if !tensor.external_data.is_empty() {
            return Err("keeps its weights in other files; one file is expected".to_owned());
        }
    }
    Ok(())
}

/// Walks through a graph as the library will, with an eye on how much each node is about to give. What is wrong
/// with the graph in other ways the library says better.
pub(super) fn check_graph(model: &InferenceModel) -> Result<(), String> {
    let mut model = model.clone();
    let mut constants = 0;
    for node in model.eval_order().unwrap_or_default() {
        let Ok(large) = step(&mut model, node, &mut constants) else {
            return Ok(());
        };
        if let Some(shape) = large {
            return Err(format!(
                "computes {shape} values; {MOST_VALUES} at once, and of all its constants, are accepted"
            ));
        }
    }
    Ok(())
}

/// What is known of a node's outputs, from what is known of its inputs. Returns a shape that is too large.
fn step(
    model: &mut InferenceModel,
    node: usize,
    constants: &mut usize,
) -> TractResult<Option<String>> {
    let mut op = model.node(node).op.clone();
    let outlets = op.observe_outlets(model, model.node(node))?;
    let observed = outlets.iter().map(|o| model.outlet_fact(*o).cloned());
    let observed: TVec<InferenceFact> = observed.collect::<TractResult<_>>()?;
    let (inputs, outputs) = model.node_facts(node)?;
    let owned = |facts: TVec<&InferenceFact>| -> TVec<InferenceFact> {
        facts.into_iter().cloned().collect()
    };
    let (inputs, outputs) = (owned(inputs), owned(outputs));
    let (known, given, _) = op.infer_facts(
        inputs.iter().collect(),
        outputs.iter().collect(),
        observed.iter().collect(),
    )?;
    let constant = known.iter().all(|fact| fact.value.is_concrete());
    for fact in &given {
        let dims = sides(fact);
        let values = dims
            .iter()
            .flatten()
            .try_fold(1i64, |all, d| all.checked_mul(*d));
        let values = values.and_then(|v| usize::try_from(v).ok());
        *constants += values.filter(|_| constant).unwrap_or_default();
        if values.is_none_or(|v| v > MOST_VALUES) || *constants > MOST_VALUES {
            return Ok(Some(shape(&dims)));
        }
    }
    let (_, given, _) = op.infer(
        inputs.iter().collect(),
        outputs.iter().collect(),
        observed.iter().collect(),
    )?;
    for (slot, fact) in given.into_iter().enumerate() {
        model.set_outlet_fact((node, slot).into(), fact)?;
    }
    Ok(None)
}

/// The sides of a tensor; none where one is not known.
pub(super) fn sides(fact: &InferenceFact) -> Vec<Option<i64>> {
    let side = |d: DimFact| d.concretize()?.to_i64().ok();
    fact.shape.dims().cloned().map(side).collect()
}

/// A shape in words.
pub(super) fn shape(dims: &[Option<i64>]) -> String {
    let dim = |d: &Option<i64>| d.map_or_else(|| "?".to_owned(), |d| d.to_string());
    format!("[{}]", dims.iter().map(dim).collect::<Vec<_>>().join(", "))
}
