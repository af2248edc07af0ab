//! `kinglet compress`: make a smaller container of a checkpoint, or one that loads at once.

use std::path::{Path, PathBuf};

use kinglet_kernels::InstructionSet;
use kinglet_model::Source;
use kinglet_quant::pack::{pack, target};
use kinglet_quant::{Recipe, Report, compress};
use serde_json::json;

use crate::bar::Bar;
use crate::cli::{Cli, CompressArgs};
use crate::failure::{Failure, Outcome};

pub(crate) fn run(cli: &Cli, args: &CompressArgs) -> Outcome {
    let set = args.pack.as_deref().map(target).transpose()?;
    let (report, packed) = match (&args.recipe, set) {
        (Some(recipe), None) => (Some(compressed(args, recipe, &args.output)?), None),
        (Some(recipe), Some(set)) => {
            let beside = Beside::of(&args.output);
            let report = compressed(args, recipe, &beside.0)?;
            (Some(report), Some(packed(&beside.0, set, &args.output)?))
        }
        (None, Some(set)) => (None, Some(packed(&args.checkpoint, set, &args.output)?)),
        (None, None) => return Err(Failure::new("--recipe or --pack is needed")),
    };
    let mut text = args.output.display().to_string();
    if let Some(report) = &report {
        text += &format!(
            ": {} tensors, {:.1} of {:.1} MB, {:.2} bits a weight, largest error {:.1e} ({})",
            report.tensors,
            report.bytes as f64 / 1e6,
            report.source_bytes as f64 / 1e6,
            report.bits_per_weight,
            report.largest_error.0,
            report.largest_error.1,
        );
    }
    if let (Some((tensors, bytes)), Some(set)) = (packed, set) {
        text += &format!(
            ": {tensors} tensors packed for {set}, {:.1} MB",
            bytes as f64 / 1e6
        );
    }
    let packed = packed.map(|(tensors, bytes)| json!({ "tensors": tensors, "bytes": bytes }));
    super::print(
        cli.json,
        &json!({ "output": args.output, "report": report, "packed": packed }),
        &text,
    )
}

fn compressed(args: &CompressArgs, recipe: &Path, to: &Path) -> Outcome<Report> {
    let refuse =
        |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", recipe.display()));
    let text = std::fs::read_to_string(recipe).map_err(|e| refuse(&e))?;
    let recipe = Recipe::parse(&text).map_err(|e| refuse(&e))?;
    let source = Source::open(&args.checkpoint)?;
    let mut bar = Bar::new("compressing");
    let mut show = |done, all| bar.show(done, all);
    Ok(compress(&source, &recipe, to, &mut show)?)
}

fn packed(from: &Path, set: InstructionSet, to: &Path) -> Outcome<(usize, usize)> {
    let mut bar = Bar::new("packing");
    Ok(pack(from, set, to, &mut |done, all| bar.show(done, all))?)
}

/// The container before it is packed; removed in the end.
struct Beside(PathBuf);

impl Beside {
    fn of(output: &Path) -> Self {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.unpacked.tmp", std::process::id()));
        Beside(output.with_file_name(name))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may never have come to be.
        let _ = std::fs::remove_file(&self.0);
    }
}
