//! Runs the passes and writes the container, one tensor at a time.

use std::collections::BTreeMap;
use std::path::Path;

use kinglet_container::gguf::{Value, Writer};
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::blocks::{decode_row, encode_row_weighted};
use kinglet_kernels::{Cpu, Scalar};
use kinglet_model::autoencoder::Autoencoder;
use kinglet_model::linear::{Loader, format_of};
use kinglet_model::{Model, Source, metadata, names, preview};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{QuantError, Result};
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
    source.unpacked()?;
    // Found now, not after hours.
    if let Some(problem) = Model::audit(source, &Scalar).into_iter().next() {
        return Err(problem.into());
    }
    let preview = preview_of(source)?;
    let plan = plan(source, recipe)?;
    let total = plan.iter().map(Item::source_bytes).sum();

    // The report is part of the metadata, which comes before the tensors, so the tensors are
    // encoded twice: once for the errors, once to be written. Memory stays that of one tensor.
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
        let (bytes, error) = item.encode()?;
        report.bytes += bytes.len();
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
        let (bytes, _) = item.encode()?;
        writer.tensor(&item.name, &bytes)?;
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
    put(
        "general.file_type",
        file_type(&recipe.precision.default).into(),
    );
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

    /// The tensor in its new format, and the relative L2 error of that.
    fn encode(&self) -> Result<(Vec<u8>, f64)> {
        let to = self.choice.format;
        let padded = self.shape.last().copied().unwrap_or(1);
        let rows = match &self.shape[..] {
            [.., rows, _] => *rows,
            _ => 1,
        };
        let (mut off, mut all) = (0.0, 0.0);
        let mut out = Vec::new();
        let mut row = vec![0.0; padded];
        let mut back = vec![0.0; padded];
        for (name, tensor) in &self.parts {
            let from = format_of(tensor.kind).ok_or_else(|| QuantError::Type {
                tensor: (*name).to_owned(),
                kind: tensor.kind.to_string(),
            })?;
            let cols = tensor.shape.last().copied().unwrap_or(1);
            let stored_rows = match &tensor.shape[..] {
                [.., rows, _] => *rows,
                _ => 1,
            };
            let stored = tensor.bytes.chunks_exact(from.row_bytes(cols)?);
            for (i, bytes) in stored.enumerate() {
                decode_row(from, bytes, &mut row[..cols])?;
                let start = out.len();
                encode_row_weighted(to, &row, None, &mut out)?;
                decode_row(to, &out[start..], &mut back)?;
                // A value may also be too large for the type that was chosen.
                let holds = |a: f32, b: f32| (a - b).is_finite() && a.abs() <= to.largest();
                let bad = row.iter().zip(&back).position(|(a, b)| !holds(*a, *b));
                if let Some(at) = bad {
                    return Err(QuantError::NotFinite {
                        tensor: (*name).to_owned(),
                        row: i,
                        value: row[at],
                        format: to,
                    });
                }
                for (a, b) in row.iter().zip(&back) {
                    off += f64::from(a - b).powi(2);
                    all += f64::from(*a).powi(2);
                }
                // After the last row of each expert come its padding rows.
                if (i + 1).is_multiple_of(stored_rows) {
                    let zeros = vec![0.0; padded];
                    for _ in stored_rows..rows {
                        encode_row_weighted(to, &zeros, None, &mut out)?;
                    }
                }
            }
        }
        let error = if all > 0.0 { (off / all).sqrt() } else { 0.0 };
        Ok((out, error))
    }
}
