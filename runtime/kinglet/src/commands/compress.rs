//! `kinglet compress`: make a smaller container of a checkpoint, one that loads at once, or a graph for
//! an accelerator.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use kinglet_kernels::InstructionSet;
use kinglet_model::Source;
use kinglet_quant::onnx::{Graph, export};
use kinglet_quant::pack::{pack, target};
use kinglet_quant::{Options, Recipe, Report, Work, compress, report};
use serde_json::{Map, Value, json};

use crate::bar::Bar;
use crate::cli::{Cli, CompressArgs};
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::model;

pub(crate) fn run(cli: &Cli, args: &CompressArgs) -> Outcome {
    if let Some(graph) = args.export_onnx {
        return exported(cli, args, graph);
    }
    // Only a graph can be made of the model that would be used.
    let Some(checkpoint) = &args.checkpoint else {
        return Err(Failure::new("a checkpoint is needed"));
    };
    let set = args.pack.as_deref().map(target).transpose()?;
    let (report, packed) = match (&args.recipe, set) {
        (Some(recipe), None) => (
            Some(compressed(args, checkpoint, recipe, &args.output)?),
            None,
        ),
        (Some(recipe), Some(set)) => {
            let beside = Beside::of(&args.output);
            let report = compressed(args, checkpoint, recipe, &beside.0)?;
            (Some(report), Some(packed(&beside.0, set, &args.output)?))
        }
        (None, Some(set)) => (None, Some(packed(checkpoint, set, &args.output)?)),
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
        if let Some(m) = &report.measures {
            text += &format!(
                "\nagainst its source on {} scenes: {:.1} % of tokens agree, divergence {:.4}, \
                 pictures {:.1} dB",
                m.scenes,
                100.0 * m.agreement,
                m.divergence,
                m.pictures.iter().sum::<f64>() / m.pictures.len().max(1) as f64,
            );
        }
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

fn exported(cli: &Cli, args: &CompressArgs, graph: Graph) -> Outcome {
    let source = model::open(args.checkpoint.as_deref().or(cli.model.as_deref()))?;
    let mut bar = Bar::new("writing");
    let written = export(&source, graph, args.size, &args.output, &mut |done, all| {
        bar.show(done, all);
    })?;
    drop(bar);
    let value = |(name, shape): &(String, Vec<usize>)| format!("{name} {shape:?}");
    let text = format!(
        "{}: {}, {} to {}, {} nodes, {:.1} MB, operator set {}",
        args.output.display(),
        written.graph,
        value(&written.input),
        value(&written.output),
        written.nodes,
        written.bytes as f64 / 1e6,
        written.operator_set,
    );
    super::print(
        cli.json,
        &json!({ "output": args.output, "onnx": written }),
        &text,
    )
}

fn compressed(args: &CompressArgs, checkpoint: &Path, recipe: &Path, to: &Path) -> Outcome<Report> {
    let refuse =
        |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", recipe.display()));
    let text = std::fs::read_to_string(recipe).map_err(|e| refuse(&e))?;
    let recipe = Recipe::parse(&text).map_err(|e| refuse(&e))?;
    let source = Source::open(checkpoint)?;
    let measure = args
        .measure
        .unwrap_or(match recipe.calibrates() && recipe.draws() {
            true => 4,
            false => 0,
        });
    let scores = args.scores.as_deref().map(scores).transpose()?;
    interrupt::explained(to)?;
    let mut bar = None;
    let report = compress(
        &source,
        &recipe,
        to,
        &Options { measure, scores },
        &mut |work, done, all| {
            // One bar after another; the old one ends before the new one is drawn.
            if bar.as_ref().is_none_or(|(of, _)| *of != work) {
                drop(bar.take());
            }
            match new_bar(work) {
                Some(new) => bar.get_or_insert_with(|| (work, new())).1.show(done, all),
                None => eprintln!("kinglet: {}", said(work, to, done, all)),
            }
        },
    )?;
    drop(bar);
    interrupt::over();
    if let Some(path) = &args.report {
        let name = args
            .output
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        std::fs::write(path, report::page(&name, &report))
            .map_err(|e| Failure::new(format_args!("{}: {e}", path.display())))?;
    }
    Ok(report)
}

/// The bar of a kind of work, if it has one.
fn new_bar(work: Work) -> Option<fn() -> Bar> {
    Some(match work {
        Work::Checking => || Bar::of_bytes("checking"),
        Work::Calibrating => || Bar::new("calibrating"),
        Work::Encoding => || Bar::of_bytes("compressing"),
        Work::Measuring => || Bar::new("measuring"),
        Work::Resuming { .. } | Work::Replacing => return None,
    })
}

/// What is said once.
fn said(work: Work, to: &Path, done: usize, all: usize) -> String {
    let to = to.display();
    match work {
        Work::Replacing => format!(
            "{to}.partial was of another checkpoint, recipe or version: starting from the beginning"
        ),
        Work::Resuming { damaged: true } => format!(
            "{to}.partial is damaged: going on behind the {done} of {all} tensors before that"
        ),
        _ => format!("going on with {to}.partial: {done} of {all} tensors are there"),
    }
}

/// The most bytes of a file with scores: they become part of the container's header.
const MOST_SCORES: u64 = 1 << 20;

fn scores(path: &Path) -> Outcome<Map<String, Value>> {
    let refuse = |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", path.display()));
    let file = File::open(path).map_err(|e| refuse(&e))?;
    let mut text = String::new();
    let read = file.take(MOST_SCORES + 1).read_to_string(&mut text);
    if read.map_err(|e| refuse(&e))? as u64 > MOST_SCORES {
        return Err(refuse(&format_args!("more than {MOST_SCORES} bytes")));
    }
    serde_json::from_str(&text).map_err(|e| refuse(&e))
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
        name.push(".unpacked");
        Beside(output.with_file_name(name))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may never have come to be.
        let _ = std::fs::remove_file(&self.0);
    }
}
