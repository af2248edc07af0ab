//! Runs the passes and writes the container, one tensor at a time.

use std::collections::BTreeMap;
use std::path::Path;

use kinglet_container::gguf::{Value, Writer};
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::blocks::{decode_row, encode_row_weighted};
use kinglet_kernels::{Cpu, Format, Scalar};
use kinglet_model::autoencoder::Autoencoder;
use kinglet_model::linear::{Loader, format_of};
use kinglet_model::{Model, Source, metadata, names, preview};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::bands::{Matrix, Squares};
use crate::error::{QuantError, Result};
use crate::importance::{Importance, Unknown};
use crate::passes::budget::{self, Measure, Offer};
use crate::passes::precision::Choice;
use crate::recipe::Recipe;

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

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Tensors written.
    pub tensors: usize,
    /// Weights in them.
    pub parameters: usize,
    /// Bytes of the tensors in the source.
    pub source_bytes: usize,
    /// Bytes of the tensors in the result.
    pub bytes: usize,
    /// Bits a weight, scales included.
    pub bits_per_weight: f64,
    /// Tensors by type.
    pub types: BTreeMap<String, usize>,
    /// Tensors whose rows the asked type's blocks do not divide: another took its place.
    pub fell_back: Vec<String>,
    /// Largest relative L2 error of a tensor's values, and which one has it.
    pub largest_error: (f64, String),
}

/// Compresses `source` to the GGUF file `out`. `progress` gets the bytes of the source that are
/// done and all of them.
///
/// # Errors
/// [`QuantError`]; `out` is then as it was before.
pub fn compress(
    source: &Source,
    recipe: &Recipe,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    compress_weighted(source, recipe, &Unknown, out, progress)
}

/// As [`compress`], with errors weighted by how much each column matters.
///
/// # Errors
/// [`QuantError`]; `out` is then as it was before.
pub fn compress_weighted(
    source: &Source,
    recipe: &Recipe,
    importance: &dyn Importance,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    source.unpacked()?;
    // Found now, not after hours.
    if let Some(problem) = Model::audit(source, &Scalar).into_iter().next() {
        return Err(problem.into());
    }
    let preview = preview_of(source)?;
    let mut plan = plan(source, recipe)?;
    if let Some(budget) = recipe.precision.budget()? {
        spend(&mut plan, recipe, importance, budget)?;
    }
    let total = plan.iter().map(Item::source_bytes).sum();

    // The report is part of the metadata, which comes before the tensors, so the tensors are
    // encoded twice: once for the errors, once to be written. Memory stays that of some rows.
    let mut report = Report {
        tensors: plan.len(),
        parameters: plan.iter().map(Item::parameters).sum(),
        source_bytes: total,
        bytes: 0,
        bits_per_weight: 0.0,
        types: BTreeMap::new(),
        fell_back: Vec::new(),
        largest_error: (0.0, String::new()),
    };
    let mut hash = Sha256::new();
    let mut done = 0;
    for item in &plan {
        for (name, tensor) in &item.parts {
            hash.update(name.as_bytes());
            hash.update(&tensor.bytes);
        }
        let mut len = 0;
        let error = item.encode(importance, &mut |bytes| {
            len += bytes.len();
            Ok(())
        })?;
        report.bytes += len;
        let format = item.choice.format.name().to_owned();
        *report.types.entry(format).or_default() += 1;
        if item.choice.fell_back {
            report.fell_back.push(item.name.clone());
        }
        if error > report.largest_error.0 {
            report.largest_error = (error, item.name.clone());
        }
        done += item.source_bytes();
        progress(done / 2, total);
    }
    report.bits_per_weight = report.bytes as f64 * 8.0 / report.parameters.max(1) as f64;

    let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let metadata = describe(source, recipe, preview, &report, sha256);
    let tensors: Vec<(String, TensorType, Vec<usize>)> = plan
        .iter()
        .map(|item| Ok((item.name.clone(), kind(&item.choice)?, item.shape.clone())))
        .collect::<Result<_>>()?;
    let mut writer = Writer::create(out, &metadata, &tensors)?;
    let mut written = 0;
    for item in &plan {
        item.encode(importance, &mut |bytes| Ok(writer.part(&item.name, bytes)?))?;
        written += item.source_bytes();
        progress((total + written) / 2, total);
    }
    writer.finish()?;
    Ok(report)
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

fn describe(
    source: &Source,
    recipe: &Recipe,
    preview: Vec<f32>,
    report: &Report,
    sha256: String,
) -> Vec<(String, Value)> {
    let mut config = source.config.clone();
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
    let mixture = recipe.precision.budget.is_some();
    let default = if mixture {
        ""
    } else {
        recipe.precision.default_name()
    };
    put("general.file_type", file_type(default).into());
    put("general.quantization_version", 2.into());
    put(metadata::TOKENIZER, source.tokenizer.as_str().into());
    put("kinglet.recipe", recipe.text.as_str().into());
    let report = serde_json::to_string(report).unwrap_or_default();
    put("kinglet.report", report.into());
    put("kinglet.source.sha256", sha256.into());
    put("kinglet.version", env!("CARGO_PKG_VERSION").into());
    metadata
}

/// A tensor to be written.
struct Item<'a> {
    name: String,
    /// What it is made of: itself, or one tensor for each expert.
    parts: Vec<(&'a str, &'a Tensor)>,
    /// Its sizes: those of a part, padded, behind the number of experts.
    shape: Vec<usize>,
    choice: Choice,
}

/// Every tensor of the source, the experts of a layer joined to one.
fn plan<'a>(source: &'a Source, recipe: &Recipe) -> Result<Vec<Item<'a>>> {
    let mut items: BTreeMap<String, Vec<(usize, &str, &Tensor)>> = BTreeMap::new();
    for (name, tensor) in &source.tensors {
        let (joined, expert) = names::split_expert(name).unwrap_or_else(|| (name.clone(), 0));
        items
            .entry(joined)
            .or_default()
            .push((expert, name, tensor));
    }
    let mut plan = Vec::new();
    for (name, mut parts) in items {
        parts.sort_by_key(|(expert, _, _)| *expert);
        let parts: Vec<(&str, &Tensor)> = parts.into_iter().map(|(_, n, t)| (n, t)).collect();
        let mut shape = parts[0].1.shape.clone();
        for (name, tensor) in &parts {
            if tensor.shape != shape {
                return Err(QuantError::Recipe(format!(
                    "tensor \"{name}\" is {:?}, but the other experts of its layer are {shape:?}",
                    tensor.shape
                )));
            }
        }
        let joined = names::is_experts(&name);
        if joined && shape.len() == 2 {
            shape.insert(0, parts.len());
        }
        if joined {
            pad(&name, &mut shape, recipe)?;
        }
        let choice = recipe.precision.choose(&name, &shape)?;
        plan.push(Item {
            name,
            parts,
            shape,
            choice,
        });
    }
    Ok(plan)
}

/// Experts whose width the block format does not divide get neurons of zeros, which add nothing:
/// `silu(0) * 0 = 0`. All three matrices of an expert take the width that its last one needs.
fn pad(name: &str, shape: &mut [usize], recipe: &Recipe) -> Result<()> {
    let down = name.replace("ffn_gate_exps", "ffn_down_exps");
    let down = down.replace("ffn_up_exps", "ffn_down_exps");
    let block = recipe.precision.wanted(&down)?.block_values();
    let inner = if name == down {
        shape.len() - 1
    } else {
        shape.len() - 2
    };
    shape[inner] = shape[inner].next_multiple_of(block);
    Ok(())
}

impl Item<'_> {
    fn source_bytes(&self) -> usize {
        self.parts.iter().map(|(_, t)| t.bytes.len()).sum()
    }

    fn parameters(&self) -> usize {
        self.parts.iter().map(|(_, t)| t.values()).sum()
    }

    /// Rows of one matrix: of an expert, or of all.
    fn rows(&self) -> usize {
        match &self.shape[..] {
            [.., rows, _] => *rows,
            _ => 1,
        }
    }

    fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Encodes the tensor, giving its bytes to `sink`. Returns the relative L2 error.
    fn encode(
        &self,
        importance: &dyn Importance,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<f64> {
        let to = self.choice.format;
        let mut padding = Vec::new();
        let zeros = vec![0.0; self.cols()];
        encode_row_weighted(to, &zeros, None, &mut padding)?;
        let mut squares = Squares::default();
        for (name, tensor) in &self.parts {
            let stored = Stored::new(name, tensor)?;
            let weights = self.weights(name, importance);
            // After the last row of each expert come its padding rows.
            for expert in 0..stored.all_rows / stored.rows.max(1) {
                let first = expert * stored.rows;
                let matrix = Matrix {
                    name,
                    rows: stored.rows,
                    cols: self.cols(),
                    read: &|i, out| stored.read(first + i, out),
                    importance: weights.as_deref(),
                };
                squares.add(matrix.encode(to, sink)?);
                for _ in stored.rows..self.rows() {
                    sink(&padding)?;
                }
            }
        }
        Ok(squares.error())
    }

    /// How much each column matters, padding not at all.
    fn weights(&self, part: &str, importance: &dyn Importance) -> Option<Vec<f32>> {
        let mut weights = importance.columns(part)?;
        weights.resize(self.cols(), 0.0);
        Some(weights)
    }

    /// The types that it can have, measured on some of its rows.
    fn offers(&self, importance: &dyn Importance) -> Result<Vec<Offer>> {
        let mut measure = Measure::new(self.cols());
        let mut row = vec![0.0; self.cols()];
        for (name, tensor) in &self.parts {
            let stored = Stored::new(name, tensor)?;
            let weights = self.weights(name, importance);
            for i in budget::rows(stored.all_rows) {
                stored.read(i, &mut row)?;
                measure.row(&row, weights.as_deref())?;
            }
        }
        measure.offers(self.all_rows())
    }

    /// The product of all sizes but the last.
    fn all_rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

/// Chooses the types that the budget decides on.
fn spend(
    plan: &mut [Item],
    recipe: &Recipe,
    importance: &dyn Importance,
    budget: usize,
) -> Result<()> {
    let offers = |item: &Item| {
        if recipe.precision.is_open(&item.name, &item.shape) {
            return item.offers(importance);
        }
        let format = item.choice.format;
        let bytes = format.row_bytes(item.cols())? * item.all_rows();
        Ok(vec![Offer {
            format,
            bytes,
            error: 0.0,
        }])
    };
    let offers: Vec<Vec<Offer>> = plan.par_iter().map(offers).collect::<Result<_>>()?;
    for (item, offer) in plan.iter_mut().zip(budget::spend(&offers, budget)?) {
        if item.choice.format != offer.format {
            item.choice = Choice {
                format: offer.format,
                fell_back: false,
            };
        }
    }
    Ok(())
}

/// A tensor of the source, row by row.
struct Stored<'a> {
    tensor: &'a Tensor,
    format: Format,
    row_bytes: usize,
    cols: usize,
    /// Rows of one matrix.
    rows: usize,
    all_rows: usize,
}

impl<'a> Stored<'a> {
    fn new(name: &str, tensor: &'a Tensor) -> Result<Self> {
        let format = format_of(tensor.kind).ok_or_else(|| QuantError::Type {
            tensor: name.to_owned(),
            kind: tensor.kind.to_string(),
        })?;
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let row_bytes = format.row_bytes(cols)?;
        let rows = match &tensor.shape[..] {
            [.., rows, _] => *rows,
            _ => 1,
        };
        Ok(Stored {
            tensor,
            format,
            row_bytes,
            cols,
            rows,
            all_rows: tensor.bytes.len() / row_bytes.max(1),
        })
    }

    /// Row `i`, what is behind it in `out` being left alone.
    fn read(&self, i: usize, out: &mut [f32]) -> Result<()> {
        let bytes = &self.tensor.bytes[i * self.row_bytes..(i + 1) * self.row_bytes];
        Ok(decode_row(self.format, bytes, &mut out[..self.cols])?)
    }
}
