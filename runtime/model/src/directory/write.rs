//! A checkpoint back to the original layout.

use std::fs;
use std::path::{Path, PathBuf};

use kinglet_container::Tensor;
use kinglet_container::tensors::{self, Lazy};
use kinglet_kernels::blocks::decode_row;
use serde::Serialize;

use super::files::{
    AutoencoderFile, DrawFile, EditFile, LanguageFile, RuleFile, TokensFile, TopFile, VisionFile,
};
use crate::config::{EditConfig, ExpertsConfig, LayerConfig, Part, PictureRule};
use crate::error::{ModelError, Result};
use crate::linear::format_of;
use crate::names;
use crate::solver::Sampler;
use crate::source::Source;

/// Writes a checkpoint as an original BAGEL directory: F32, F16 and BF16 tensors as they are, all
/// others as F32. Experts are stored one by one, with the width that they have (see docs/bagel.md on
/// padding). The directory must not exist; it appears when it is whole.
///
/// # Errors
/// [`ModelError`] if it exists or cannot be written, or if the layout cannot say what the model is;
/// nothing is left behind.
pub fn write(source: &Source, directory: &Path) -> Result<()> {
    if directory.exists() {
        return Err(file(directory, "it exists already"));
    }
    let beside = Beside::create(directory)?;
    fill(source, &beside.0)?;
    fs::rename(&beside.0, directory).map_err(|e| file(directory, e))
}

fn fill(source: &Source, folder: &Path) -> Result<()> {
    source.unpacked()?;
    let (mut ema, mut ae) = (Vec::new(), Vec::new());
    for (name, tensor) in &source.tensors {
        if let Some(original) = name.strip_prefix(names::AUTOENCODER_PREFIX) {
            ae.push((original.to_owned(), stored(tensor, name, source)?));
            continue;
        }
        for (name, tensor) in one_by_one(name, tensor) {
            let original =
                names::to_original(&name).ok_or_else(|| ModelError::UnexpectedTensor {
                    source_name: source.name.clone(),
                    tensor: name.clone(),
                })?;
            ema.push((original, stored(&tensor, &name, source)?));
        }
    }
    tensors::write(&folder.join("ema.safetensors"), ema)?;
    if source.config.draws {
        tensors::write(&folder.join("ae.safetensors"), ae)?;
    }
    json(folder, "llm_config.json", &language(source)?)?;
    json(folder, "vit_config.json", &vision(source))?;
    json(folder, "config.json", &top(source))?;
    let path = folder.join("tokenizer.json");
    fs::write(&path, &source.tokenizer).map_err(|e| file(&path, e))
}

/// A folder that is deleted unless it got its final name.
struct Beside(PathBuf);

impl Beside {
    fn create(directory: &Path) -> Result<Self> {
        let mut name = directory.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let path = directory.with_file_name(name);
        fs::create_dir(&path).map_err(|e| file(directory, e))?;
        Ok(Beside(path))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After the renaming there is nothing of this name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn file(path: &Path, reason: impl ToString) -> ModelError {
    ModelError::File {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

fn json(folder: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let path = folder.join(name);
    let text = serde_json::to_string_pretty(value).map_err(|e| file(&path, e))?;
    fs::write(&path, text).map_err(|e| file(&path, e))
}

/// Joined experts as one tensor each; everything else as it is.
fn one_by_one(name: &str, tensor: &Tensor) -> Vec<(String, Tensor)> {
    let ([count, shape @ ..], true) = (&tensor.shape[..], names::is_experts(name)) else {
        return vec![(name.to_owned(), tensor.clone())];
    };
    let len = tensor.bytes.len() / (*count).max(1);
    (0..*count)
        .map(|e| {
            let one = Tensor {
                kind: tensor.kind,
                shape: shape.to_vec(),
                bytes: tensor.bytes.slice(e * len..(e + 1) * len),
            };
            (names::expert(name, e), one)
        })
        .collect()
}

/// A tensor as it is written: decoded, where the layout has no such type.
fn stored(tensor: &Tensor, name: &str, source: &Source) -> Result<Lazy> {
    if let Some(stored) = Lazy::stored(tensor.clone()) {
        return Ok(stored);
    }
    let Tensor { kind, shape, bytes } = tensor.clone();
    let format = format_of(kind).ok_or_else(|| ModelError::TensorType {
        source_name: source.name.clone(),
        tensor: name.to_owned(),
        kind: kind.to_string(),
    })?;
    let cols = shape.last().copied().unwrap_or(1);
    let row_bytes = format.row_bytes(cols)?;
    Ok(Lazy::f32(shape, move || {
        let mut out = Vec::with_capacity(bytes.len() * 4);
        let mut row = vec![0.0; cols];
        for stored in bytes.chunks_exact(row_bytes.max(1)) {
            // The length of a row was computed above, which is all that could be wrong.
            let _ = decode_row(format, stored, &mut row);
            out.extend(row.iter().flat_map(|v| v.to_le_bytes()));
        }
        out
    }))
}

fn language(source: &Source) -> Result<LanguageFile> {
    let l = &source.config.language;
    // The layout has one number for all layers.
    let mut sparse = l.layers.iter().map(|l| l.experts).filter(|e| e.count > 0);
    let first = sparse.next();
    let ExpertsConfig {
        count,
        used,
        shared,
    } = first.unwrap_or_default();
    if sparse.any(|e| (e.count, e.used, e.shared) != (count, used, shared)) {
        return Err(ModelError::Unsupported {
            source_name: source.name.clone(),
            what: "its layers use different numbers of experts, which a directory cannot say"
                .to_owned(),
        });
    }
    let routed = |suffix: &str| -> Option<Vec<usize>> {
        let router = |i: &usize| format!("blk.{i}.ffn_gate_inp{suffix}.weight");
        let has = |i: &usize| source.tensors.contains_key(&router(i));
        let layers: Vec<usize> = (0..l.blocks).filter(has).collect();
        (!layers.is_empty()).then_some(layers)
    };
    Ok(LanguageFile {
        hidden_size: l.hidden,
        intermediate_size: l.feed_forward,
        num_hidden_layers: l.blocks,
        num_attention_heads: l.heads,
        num_key_value_heads: l.kv_heads,
        vocab_size: l.vocabulary,
        max_position_embeddings: l.context_length,
        rms_norm_eps: l.rms_epsilon,
        rope_theta: l.rope_base,
        num_shared_experts: shared,
        top_k: used,
        num_experts: first.map(|_| count),
        transformed_gen: routed(names::GENERATION_SUFFIX),
        transformed_und: routed(""),
    })
}

fn vision(source: &Source) -> VisionFile {
    let v = &source.config.vision;
    VisionFile {
        hidden_size: v.hidden,
        intermediate_size: v.feed_forward,
        num_attention_heads: v.heads,
        patch_size: v.patch,
        layer_norm_eps: v.epsilon,
    }
}

fn top(source: &Source) -> TopFile {
    let config = &source.config;
    let (a, d, layers) = (&config.latent, &config.draw, &config.language.layers);
    let skips = |part: fn(&LayerConfig) -> Option<Part>| {
        let any = layers.iter().any(|l| part(l).is_some());
        let name = |l| part(l).map_or("", Part::name).to_owned();
        any.then(|| layers.iter().map(name).collect())
    };
    let own = |widths: Vec<usize>| {
        let differs = widths.iter().any(|w| *w != config.language.feed_forward);
        differs.then_some(widths)
    };
    TopFile {
        name: Some(config.name.clone()),
        visual_gen: (!config.draws).then_some(false),
        vit_max_num_patch_per_side: Some(config.vision.position_side),
        latent_patch_size: Some(a.patch),
        max_latent_size: Some(a.position_side),
        vae_config: AutoencoderFile {
            downsample: Some(a.downsample),
            z_channels: Some(a.channels),
            num_groups: Some(a.groups),
            scale_factor: Some(a.scale),
            shift_factor: Some(a.shift),
        },
        vae_transform: rule(a.rule),
        vit_transform: rule(config.vision.rule),
        draw: DrawFile {
            num_timesteps: Some(d.timesteps),
            timestep_shift: Some(d.shift),
            cfg_text_scale: Some(d.guidance),
            cfg_interval: Some(d.interval),
            cfg_renorm_type: Some(d.renorm.name().to_owned()),
            cfg_renorm_min: Some(d.renorm_min),
            sampler: (d.sampler != Sampler::Euler).then(|| d.sampler.name().to_owned()),
        },
        edit: (config.edit != EditConfig::default()).then(|| EditFile {
            cfg_text_scale: Some(config.edit.guidance),
            cfg_img_scale: Some(config.edit.picture_guidance),
            cfg_renorm_type: Some(config.edit.renorm.name().to_owned()),
        }),
        vision_tokens: config.vision.tokens.map(|t| TokensFile {
            count: t.count,
            from_layer: t.from,
        }),
        skip_understand: skips(|l| l.skip_understand),
        skip_generate: skips(|l| l.skip_generate),
        widths_understand: own(config.language.widths_understand()),
        widths_generate: own(config.language.widths_generate()),
    }
}

fn rule(rule: PictureRule) -> RuleFile {
    RuleFile {
        max_image_size: Some(rule.max),
        min_image_size: Some(rule.min),
        image_stride: Some(rule.stride),
        max_pixels: Some(rule.max_pixels),
    }
}
