//! `kinglet inspect`: say what is in a model. Loading it checks every tensor that the configuration
//! implies, so exit code 0 means that it is sound and whole.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use crate::cli::{Cli, InspectArgs};
use crate::failure::Outcome;
use crate::model;

pub(crate) fn run(cli: &Cli, args: &InspectArgs) -> Outcome {
    let source = model::open(args.file.as_deref().or(cli.model.as_deref()))?;
    model::load(&source)?;

    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    let (mut parameters, mut bytes) = (0, 0);
    for tensor in source.tensors.values() {
        *types.entry(tensor.kind.to_string()).or_default() += 1;
        parameters += tensor.values();
        bytes += tensor.bytes.len();
    }
    let c = &source.config;
    let (l, v, a, d) = (&c.language, &c.vision, &c.latent, &c.draw);
    let mut text = format!("{}: {}, sound and whole\n", source.name, c.name);
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<12}{value}");
    };
    line(
        "tensors",
        format!(
            "{} ({}), {:.1} MB",
            source.tensors.len(),
            list(&types),
            bytes as f64 / 1e6
        ),
    );
    line(
        "parameters",
        format!("{:.2} million", parameters as f64 / 1e6),
    );
    line(
        "language",
        format!(
            "{} layers of {}, feed-forward {}, {} heads ({} for keys), {} tokens, context {}",
            l.blocks, l.hidden, l.feed_forward, l.heads, l.kv_heads, l.vocabulary, l.context_length
        ),
    );
    line(
        "vision",
        format!(
            "{} layers of {}, patches of {} px, pictures of {} to {} px",
            v.blocks, v.hidden, v.patch, v.rule.min, v.rule.max
        ),
    );
    line(
        "drawing",
        format!(
            "up to {} px, {} steps, shift {}, guidance {} ({})",
            a.token_pixels() * a.position_side,
            d.timesteps - 1,
            d.shift,
            d.guidance,
            d.renorm.name()
        ),
    );
    let result = json!({
        "file": source.name,
        "name": c.name,
        "tensors": source.tensors.len(),
        "types": types,
        "parameters": parameters,
        "bytes": bytes,
        "sound": true,
    });
    super::print(cli.json, &result, text.trim_end())
}

fn list(types: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = types.iter().map(|(t, n)| format!("{n} {t}")).collect();
    parts.join(", ")
}
