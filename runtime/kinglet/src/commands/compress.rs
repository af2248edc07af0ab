//! `kinglet compress`: make a smaller container of a checkpoint.

use kinglet_model::Source;
use kinglet_quant::{Options, Recipe, Work, compress, report};
use serde_json::json;

use crate::bar::Bar;
use crate::cli::{Cli, CompressArgs};
use crate::failure::{Failure, Outcome};

pub(crate) fn run(cli: &Cli, args: &CompressArgs) -> Outcome {
    let refuse =
        |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", args.recipe.display()));
    let text = std::fs::read_to_string(&args.recipe).map_err(|e| refuse(&e))?;
    let recipe = Recipe::parse(&text).map_err(|e| refuse(&e))?;
    let source = Source::open(&args.checkpoint)?;
    let options = Options {
        measure: args
            .measure
            .unwrap_or(if recipe.calibrates() { 4 } else { 0 }),
    };
    let mut bar = None;
    let report = compress(
        &source,
        &recipe,
        &args.output,
        &options,
        &mut |work, done, all| {
            let what = match work {
                Work::Calibrating => "calibrating",
                Work::Encoding => "compressing",
                Work::Measuring => "measuring",
            };
            // One bar after another; the old one ends before the new one is drawn.
            if bar.as_ref().is_none_or(|(of, _)| *of != work) {
                drop(bar.take());
            }
            let (_, bar) = bar.get_or_insert_with(|| (work, Bar::new(what)));
            bar.show(done, all);
        },
    )?;
    drop(bar);
    if let Some(path) = &args.report {
        let name = args
            .output
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        std::fs::write(path, report::page(&name, &report))
            .map_err(|e| Failure::new(format_args!("{}: {e}", path.display())))?;
    }
    let text = format!(
        "{}: {} tensors, {:.1} of {:.1} MB, {:.2} bits a weight, largest error {:.1e} ({})",
        args.output.display(),
        report.tensors,
        report.bytes as f64 / 1e6,
        report.source_bytes as f64 / 1e6,
        report.bits_per_weight,
        report.largest_error.0,
        report.largest_error.1,
    );
    let text = match &report.measures {
        None => text,
        Some(m) => format!(
            "{text}\nagainst its source on {} scenes: {:.1} % of tokens agree, divergence {:.4}, \
             pictures {:.1} dB",
            m.scenes,
            100.0 * m.agreement,
            m.divergence,
            m.pictures.iter().sum::<f64>() / m.pictures.len().max(1) as f64,
        ),
    };
    super::print(
        cli.json,
        &json!({ "output": args.output, "report": report }),
        &text,
    )
}
