//! Runs the passes and writes the container, one tensor at a time, so that it may be interrupted at
//! any time.

use std::path::Path;

use kinglet_container::gguf::{Layout, Left, Partial};
use kinglet_kernels::{Cpu, Scalar};
use kinglet_model::autoencoder::Autoencoder;
use kinglet_model::linear::Loader;
use kinglet_model::{Model, Source, preview};
use serde_json::{Map, Value};

use crate::calibration::scenes::Half;
use crate::calibration::{Calibrate, Calibration, calibrate};
use crate::cost::Cost;
use crate::describe::{self, REPORT, describe};
use crate::encode;
use crate::error::{QuantError, Result};
use crate::measure::measure;
use crate::plan::{Item, Plan};
use crate::recipe::Recipe;
use crate::report::Report;
use crate::scan::scan;

/// What can be chosen besides the recipe.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// How many scenes the result is compared with the source on; 0 compares nothing. Both models
    /// are run, so it needs the memory and the time of that.
    pub measure: usize,
    /// Scores that somebody measured with such a container: they go into its report as they are.
    pub scores: Option<Map<String, Value>>,
}

/// What takes time, and what is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Bytes of the source that are read once, for their checksum and for values that are no numbers.
    Checking,
    /// Scenes that the source model is watched on.
    Calibrating,
    /// Tensors that an interrupted run left and that are kept. With `damaged` there was more, which
    /// is not what was written and is done again.
    Resuming {
        /// Whether something was damaged.
        damaged: bool,
    },
    /// What a run with another source, recipe or version left was removed.
    Replacing,
    /// Bytes of the source that are encoded.
    Encoding,
    /// Scenes that both models are compared on.
    Measuring,
}

/// Gets what is being done, how much of it is done, and how much it is.
pub type Progress<'a> = &'a mut dyn FnMut(Work, usize, usize);

/// Compresses `source` to the GGUF file `out`. While it works, `out.partial` and `out.partial.journal`
/// lie beside it; after an interruption the same call goes on from there and makes the same bytes.
///
/// # Errors
/// [`QuantError`]; `out` is then as it was before. [`QuantError::Interrupted`] if another call may go
/// on; otherwise nothing is left behind.
pub fn compress(
    source: &Source,
    recipe: &Recipe,
    out: &Path,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Report> {
    source.unpacked()?;
    // Found now, not after hours.
    if let Some(problem) = Model::audit(source, &Scalar).into_iter().next() {
        return Err(problem.into());
    }
    let items = run_passes(source, recipe, &Calibration::rehearsal())?
        .0
        .items()?;
    let least = encode::least(&items, recipe)?;
    if let Some(budget) = recipe.precision.budget()?.filter(|b| *b < least) {
        return Err(QuantError::Budget { budget, least });
    }
    let draws = source.config.draws && recipe.draws();
    if recipe.calibrates() && !source.config.draws {
        let text = "it calibrates, which needs a checkpoint that draws";
        return Err(QuantError::Recipe(text.to_owned()));
    }
    if options.measure > 0 && !draws {
        let text = "the result cannot draw, so it cannot be measured: that compares drawings";
        return Err(QuantError::Recipe(text.to_owned()));
    }
    let asked = recipe.calibration.clone().unwrap_or_default();
    asked.scenes(Half::Calibration, asked.count)?;
    asked.scenes(Half::Report, options.measure)?;
    let mut partial = Partial::claim(out)?;
    partial.fits(least as u64)?;

    let finished =
        written(source, recipe, &asked, options, &mut partial, progress).and_then(|report| {
            let text = serde_json::to_string(&report).unwrap_or_default();
            partial.finish(REPORT, &text)?;
            Ok(report)
        });
    finished.map_err(|e| match e {
        QuantError::Container(e) if partial.is_begun() && e.is_io() => QuantError::Interrupted {
            partial: partial.beside().display().to_string(),
            source: e,
        },
        e => {
            partial.discard();
            e
        }
    })
}

/// Writes everything but the report.
fn written(
    source: &Source,
    recipe: &Recipe,
    asked: &Calibrate,
    options: &Options,
    partial: &mut Partial,
    progress: Progress<'_>,
) -> Result<Report> {
    let sha256 = scan(source, &mut |done, all| progress(Work::Checking, done, all))?;
    let calibration = if recipe.calibrates() {
        let keep_inputs = recipe.experts.is_some();
        calibrate(source, asked, keep_inputs, &mut |done, all| {
            progress(Work::Calibrating, done, all);
        })?
    } else {
        Calibration::none()
    };
    let preview = match source.config.draws && recipe.draws() {
        true => Some(preview_of(source)?),
        false => None,
    };
    let (plan, costs) = run_passes(source, recipe, &calibration)?;
    let mut items = plan.items()?;
    let importance = &calibration.importance;
    if let Some(budget) = recipe.precision.budget()? {
        encode::spend(&mut items, recipe, importance, budget)?;
    }

    // The report is part of the metadata, which comes before the tensors, and it is about them: it
    // gets room now and is put there in the end.
    let mut report = Report::new(costs);
    report.source_bytes = source.tensors.values().map(|t| t.bytes.len()).sum();
    report.scores.clone_from(&options.scores);
    let room = report.room(&items, &plan, options.measure)?;
    let mut metadata = describe(source, recipe, &plan, preview, &sha256);
    metadata.push((REPORT.to_owned(), " ".repeat(room).into()));
    let layout = Layout::new(partial.path(), &metadata, &describe::tensors(&items)?)?;
    let lens: Vec<usize> = layout.tensors().iter().map(|(_, len)| *len).collect();
    let left = partial.begin(layout, &calibration.digest())?;
    let errors = kept_errors(left, items.len(), progress);

    let all = items.iter().map(Item::source_bytes).sum();
    let mut done = 0;
    for (i, (item, len)) in items.iter().zip(lens).enumerate() {
        let of_source = item.source_bytes();
        let error = match errors.get(i) {
            Some(error) => *error,
            None => {
                let mut out = 0;
                let error = item.encode(importance, &mut |bytes| {
                    out += bytes.len();
                    partial.part(&item.name, bytes)?;
                    let share = out as f64 / len.max(1) as f64;
                    progress(
                        Work::Encoding,
                        done + (of_source as f64 * share) as usize,
                        all,
                    );
                    Ok(())
                })?;
                partial.enter(&format!("{:016x}", error.to_bits()))?;
                item.give_back();
                error
            }
        };
        report.count(item, len, error);
        done += of_source;
        progress(Work::Encoding, done, all);
    }
    partial.sync()?;
    report.finish(&plan);
    if options.measure > 0 {
        let scenes = asked.scenes(Half::Report, options.measure)?;
        let result = Source::open(partial.beside())?;
        let measures = measure(source, &result, &scenes, &mut |done, all| {
            progress(Work::Measuring, done, all);
        })?;
        report.measures = Some(measures);
    }
    Ok(report)
}

/// The errors of the tensors that an interrupted run left, which stand in its notes.
fn kept_errors(left: Left, all: usize, progress: Progress<'_>) -> Vec<f64> {
    let damaged = matches!(left, Left::Damaged(_));
    let notes = match left {
        Left::Nothing => return Vec::new(),
        Left::Other => {
            progress(Work::Replacing, 0, all);
            return Vec::new();
        }
        Left::Done(notes) | Left::Damaged(notes) => notes,
    };
    progress(Work::Resuming { damaged }, notes.len(), all);
    // What is no number was entered by nobody: such a line would have another checksum.
    let error = |note: &String| f64::from_bits(u64::from_str_radix(note, 16).unwrap_or_default());
    notes.iter().map(error).collect()
}

/// What a recipe makes of a checkpoint, without making it: shapes and types, and thus bytes, are known
/// from the header alone (with a budget, some rows of each matrix are read). Errors are left zero.
///
/// # Errors
/// As [`compress`] before it works.
pub fn predict(source: &Source, recipe: &Recipe) -> Result<Report> {
    source.unpacked()?;
    let (plan, costs) = run_passes(source, recipe, &Calibration::rehearsal())?;
    let mut items = plan.items()?;
    if let Some(budget) = recipe.precision.budget()? {
        encode::spend(&mut items, recipe, &Calibration::none().importance, budget)?;
    }
    let mut report = Report::new(costs);
    report.source_bytes = source.tensors.values().map(|t| t.bytes.len()).sum();
    for item in &items {
        report.count(item, item.bytes()?, 0.0);
    }
    report.finish(&plan);
    Ok(report)
}

/// The plan after all passes, and what the model costs after each.
fn run_passes<'a>(
    source: &Source,
    recipe: &'a Recipe,
    calibration: &Calibration,
) -> Result<(Plan<'a>, Vec<Cost>)> {
    let mut plan = Plan::new(source, recipe)?;
    let mut costs = vec![Cost::of(&plan, "source", Vec::new())];
    for pass in recipe.passes() {
        let notes = pass.apply(&mut plan, calibration)?;
        costs.push(Cost::of(&plan, pass.name(), notes));
    }
    plan.config.check("the result")?;
    Ok((plan, costs))
}

/// The map of previews: the source's own, or one fitted on its autoencoder.
fn preview_of(source: &Source) -> Result<Vec<f32>> {
    if let Some(map) = &source.config.latent.preview {
        return Ok(map.clone());
    }
    let device = Cpu::best();
    let loader = Loader {
        device: &device,
        source,
        audit: None,
    };
    let autoencoder = Autoencoder::load(loader, &source.config)?;
    Ok(preview::fit(&device, &autoencoder, &source.config)?)
}
