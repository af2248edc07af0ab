//! `kinglet compress`: make a smaller container of a checkpoint.

use kinglet_model::Source;
use kinglet_quant::{Recipe, compress};
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
    let mut bar = Bar::new("compressing");
    let report = compress(&source, &recipe, &args.output, &mut |done, all| {
        bar.show(done, all)
    })?;
    drop(bar);
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
    super::print(
        cli.json,
        &json!({ "output": args.output, "report": report }),
        &text,
    )
}
