//! Runs the passes and writes the container, one tensor at a time.

use std::path::{Path, PathBuf};

use kinglet_container::TensorType;
use kinglet_container::bytes_source::give_back;
use kinglet_container::gguf::{Value, Writer};
use kinglet_kernels::{Cpu, Scalar};
use kinglet_model::autoencoder::Autoencoder;
use kinglet_model::linear::Loader;
use kinglet_model::{Model, Source, metadata, preview};
use sha2::{Digest, Sha256};

use crate::calibration::scenes::Half;
use crate::calibration::{Calibration, calibrate};
use crate::cost::Cost;
use crate::encode;
use crate::error::{QuantError, Result};
use crate::measure::measure;
use crate::passes::precision::Choice;
use crate::plan::{Item, Plan};
use crate::recipe::Recipe;
use crate::report::Report;

/// ggml's number for "mostly Q8_0" and so on, for `general.file_type`.
fn file_type(format: &str) -> u32 {
    match format {
        "F32" => 0,
        "F16" => 1,
        "Q4_0" => 2,
        "Q4_1" => 3,
        "Q8_0" => 7,
        "Q5_0" => 8,
        "Q5_1" => 9,
        "Q2_K" => 10,
        // The next three: ggml's "small" mixtures, which are pure.
        "Q3_K" => 11,
        "Q4_K" => 14,
        "Q5_K" => 16,
        "Q6_K" => 18,
        "BF16" => 32,
        // ggml's LLAMA_FTYPE_GUESSED.
        _ => 1024,
    }
}

/// What can be chosen besides the recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// How many scenes the result is compared with the source on; 0 compares nothing. Both models
    /// are run, so it needs the memory and the time of that.
    pub measure: usize,
}

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Scenes that the source model is watched on.
    Calibrating,
    /// Bytes of the source that are encoded.
    Encoding,
    /// Scenes that both models are compared on.
    Measuring,
}

/// Gets what is being done, how much of it is done, and how much it is.
pub type Progress<'a> = &'a mut dyn FnMut(Work, usize, usize);

/// Compresses `source` to the GGUF file `out`.
///
/// # Errors
/// [`QuantError`]; `out` is then as it was before.
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
    run_passes(source, recipe, &Calibration::none())?
        .0
        .items()?;
    let asked = recipe.calibration.clone().unwrap_or_default();
    asked.scenes(Half::Calibration, asked.count)?;
    asked.scenes(Half::Report, options.measure)?;

    let calibration = if recipe.calibrates() {
        let keep_inputs = recipe.experts.is_some();
        calibrate(source, &asked, keep_inputs, &mut |done, all| {
            progress(Work::Calibrating, done, all);
        })?
    } else {
        Calibration::none()
    };
    let preview = preview_of(source)?;
    let (plan, costs) = run_passes(source, recipe, &calibration)?;
    let mut items = plan.items()?;
    let importance = &calibration.importance;
    if let Some(budget) = recipe.precision.budget()? {
        encode::spend(&mut items, recipe, importance, budget)?;
    }

    // The report is part of the metadata, which comes before the tensors, and it is about them. So
    // they are written to a draft first, which is then copied. Memory stays that of some rows.
    let draft = Draft::beside(out);
    let mut report = Report::new(costs);
    let metadata = describe(source, recipe, &plan, preview, &sha256(source));
    let tensors: Vec<(String, TensorType, Vec<usize>)> = items
        .iter()
        .map(|item| Ok((item.name.clone(), kind(&item.choice)?, item.shape.clone())))
        .collect::<Result<_>>()?;
    let mut writer = Writer::create(&draft.0, &metadata, &tensors)?;
    let total = items.iter().map(Item::source_bytes).sum();
    report.source_bytes = source.tensors.values().map(|t| t.bytes.len()).sum();
    let mut done = 0;
    for item in &items {
        let mut len = 0;
        let error = item.encode(importance, &mut |bytes| {
            len += bytes.len();
            Ok(writer.part(&item.name, bytes)?)
        })?;
        report.count(item, len, error);
        item.give_back();
        done += item.source_bytes();
        progress(Work::Encoding, done, total);
    }
    writer.finish()?;
    report.finish(&plan);

    let drafted = Source::open(&draft.0)?;
    if options.measure > 0 {
        let scenes = asked.scenes(Half::Report, options.measure)?;
        let measures = measure(source, &drafted, &scenes, &mut |done, all| {
            progress(Work::Measuring, done, all);
        })?;
        report.measures = Some(measures);
    }
    let mut metadata = metadata;
    let text = serde_json::to_string(&report).unwrap_or_default();
    metadata.push(("kinglet.report".to_owned(), text.as_str().into()));
    let mut writer = Writer::create(out, &metadata, &tensors)?;
    for (name, _, _) in &tensors {
        let bytes = &drafted.tensor(name)?.bytes;
        writer.tensor(name, bytes)?;
        give_back(bytes);
    }
    writer.finish()?;
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

/// A file beside the result that is deleted in the end.
struct Draft(PathBuf);

impl Draft {
    fn beside(out: &Path) -> Self {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.draft.tmp", std::process::id()));
        Draft(out.with_file_name(name))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It may not be there yet; and nothing can be done if it stays.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The hash of all names and bytes.
pub(crate) fn sha256(source: &Source) -> String {
    let mut hash = Sha256::new();
    for (name, tensor) in &source.tensors {
        hash.update(name.as_bytes());
        hash.update(&tensor.bytes);
        give_back(&tensor.bytes);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
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

fn kind(choice: &Choice) -> Result<TensorType> {
    let name = choice.format.name();
    let mut kinds = TensorType::ALL.iter().copied();
    kinds
        .find(|kind| kind.name() == name)
        .ok_or_else(|| QuantError::Recipe(format!("GGUF has no type \"{name}\"")))
}

/// All metadata but the report.
fn describe(
    source: &Source,
    recipe: &Recipe,
    plan: &Plan<'_>,
    preview: Vec<f32>,
    sha256: &str,
) -> Vec<(String, Value)> {
    let mut config = plan.config.clone();
    config.latent.preview = Some(preview);
    if let Some(name) = &recipe.about.name {
        config.name.clone_from(name);
    }
    let mut metadata = metadata::write(&config);
    let mut put = |key: &str, value: Value| metadata.push((key.to_owned(), value));
    if let Some(license) = &recipe.about.license {
        put("general.license", license.as_str().into());
    }
    // A budget gives a mixture, which has no number.
    let default = match recipe.precision.budget {
        None => recipe.precision.default_name(),
        Some(_) => "",
    };
    put("general.file_type", file_type(default).into());
    put("general.quantization_version", 2.into());
    put(metadata::TOKENIZER, source.tokenizer.as_str().into());
    put("kinglet.recipe", recipe.text.as_str().into());
    put("kinglet.source.sha256", sha256.into());
    put("kinglet.version", env!("CARGO_PKG_VERSION").into());
    metadata
}
