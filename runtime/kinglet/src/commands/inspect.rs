//! `kinglet inspect`: say what is in a model. Every tensor is checked against what the
//! configuration implies, so exit code 0 means that it is sound and whole.

use std::collections::BTreeMap;
use std::fmt::Write;

use kinglet_kernels::{Cpu, Scalar};
use kinglet_model::Model;
use kinglet_model::config::{LayerConfig, Part};
use serde_json::json;

use crate::cli::{Cli, InspectArgs};
use crate::failure::{Failure, Outcome};
use crate::model;

pub(crate) fn run(cli: &Cli, args: &InspectArgs) -> Outcome {
    let source = model::open(args.file.as_deref().or(cli.model.as_deref()))?;
    let mut problems = match source.packed {
        None => Model::audit(&source, &Scalar),
        Some(_) => Model::audit(&source, &Cpu::from_environment()?),
    };
    if args.deep {
        problems.extend(source.not_finite()?);
    }
    if let Some(first) = problems.first() {
        if cli.json {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let result = json!({ "file": source.name, "sound": false, "problems": problems });
            super::print(true, &result, "")?;
        }
        let more = match problems.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more; --json lists them)"),
        };
        return Err(Failure::new(format_args!("{first}{more}")));
    }
    if !source.defaults.is_empty() {
        eprintln!(
            "config.json leaves out what the release's scripts set, which is taken: {}",
            source.defaults.join(", ")
        );
    }

    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    let (mut parameters, mut bytes) = (0, 0);
    for (name, tensor) in &source.tensors {
        *types.entry(tensor.kind.to_string()).or_default() += 1;
        parameters += source.stored(name)?.shape.iter().product::<usize>();
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
    if let Some(packed) = &source.packed {
        line(
            "packed",
            format!("{} tensors for {}", packed.tensors.len(), packed.layout),
        );
    }
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
    let sparse = l.layers.iter().filter(|layer| layer.experts.count > 0);
    if let Some(experts) = sparse.clone().map(|layer| layer.experts).next() {
        let text = format!(
            "{} layers with {} experts, {} active, {} shared",
            sparse.count(),
            experts.count,
            experts.used,
            experts.shared
        );
        line("experts", text);
    }
    let skipped = |part: fn(&LayerConfig) -> Option<Part>| {
        l.layers
            .iter()
            .filter(|layer| part(layer).is_some())
            .count()
    };
    let (understand, generate) = (skipped(|l| l.skip_understand), skipped(|l| l.skip_generate));
    if understand + generate > 0 {
        let text = format!("parts of {understand} layers to understand, of {generate} to draw");
        line("left out", text);
    }
    let tokens = v.tokens.map_or(String::new(), |t| {
        let tokens = if t.count == 1 { "token" } else { "tokens" };
        format!(", {} {tokens} a picture from layer {} on", t.count, t.from)
    });
    line(
        "vision",
        format!(
            "{} layers of {}, patches of {} px, pictures of {} to {} px{tokens}",
            v.blocks, v.hidden, v.patch, v.rule.min, v.rule.max
        ),
    );
    line(
        "drawing",
        if !c.draws {
            "none: it understands only".to_owned()
        } else {
            format!(
                "up to {} px, {} steps, shift {}, guidance {} ({})",
                a.token_pixels() * a.position_side,
                d.timesteps - 1,
                d.shift,
                d.guidance,
                d.renorm.name()
            )
        },
    );
    let result = json!({
        "file": source.name,
        "name": c.name,
        "tensors": source.tensors.len(),
        "types": types,
        "parameters": parameters,
        "bytes": bytes,
        "layout": source.packed.as_ref().map(|packed| &packed.layout),
        "draws": c.draws,
        "sound": true,
        "defaults": source.defaults,
    });
    super::print(cli.json, &result, text.trim_end())
}

fn list(types: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = types.iter().map(|(t, n)| format!("{n} {t}")).collect();
    parts.join(", ")
}
