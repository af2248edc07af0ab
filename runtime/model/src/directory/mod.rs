//! The original checkpoint directory: JSON files and safetensors.
//!
//! Fields that the release hard-codes in its scripts have those values as defaults.

mod files;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use kinglet_container::tensors::SafeTensors;
use serde::de::DeserializeOwned;

use crate::config::{
    Config, DrawConfig, EditConfig, ExpertsConfig, LanguageConfig, LatentConfig, LayerConfig, Part,
    PictureRule, Renorm, VisionConfig, VisionTokens,
};
use crate::error::{ModelError, Result};
use crate::names;
use crate::solver::Sampler;
use crate::source::Source;
use files::{LanguageFile, RuleFile, TopFile, VisionFile};
pub use write::write;

/// The largest JSON file that is read: a Qwen2.5 tokenizer has 7 MB.
const LARGEST_JSON: u64 = 64 << 20;

impl RuleFile {
    fn or(&self, defaults: &mut Vec<String>, name: &str, default: PictureRule) -> PictureRule {
        let mut part =
            |field: &str, value, default| or(defaults, &format!("{name}.{field}"), value, default);
        PictureRule {
            max: part("max_image_size", self.max_image_size, default.max),
            min: part("min_image_size", self.min_image_size, default.min),
            stride: part("image_stride", self.image_stride, default.stride),
            max_pixels: part("max_pixels", self.max_pixels, default.max_pixels),
        }
    }
}

/// A value, or the release's own where config.json has none, which is noted.
fn or<T: std::fmt::Debug>(
    defaults: &mut Vec<String>,
    name: &str,
    value: Option<T>,
    default: T,
) -> T {
    value.unwrap_or_else(|| {
        defaults.push(format!("{name} = {default:?}"));
        default
    })
}

/// 14 * 14 * 9 * 1024: the release's bound for both encoders.
const MAX_PIXELS: usize = 1_806_336;

/// Opens an original BAGEL directory.
///
/// # Errors
/// [`ModelError`] if a file is missing or damaged, or if it is a kind that this version cannot run.
pub fn open(directory: &Path) -> Result<Source> {
    let language: LanguageFile = json(directory, "llm_config.json")?;
    let vision: VisionFile = json(directory, "vit_config.json")?;
    let top: TopFile = if directory.join("config.json").exists() {
        json(directory, "config.json")?
    } else {
        TopFile::default()
    };
    let ema = SafeTensors::open(&directory.join("ema.safetensors"))?;
    // One that only understands may have what drawing would need, and need not.
    let draws = top.draws();

    let mut tensors = BTreeMap::new();
    for (original, tensor) in ema.iter() {
        let name = names::from_original(original).ok_or_else(|| unknown(directory, original))?;
        if !draws && names::draws(&name) {
            continue;
        }
        let mut tensor = tensor.clone();
        // Vectors and tables of a real checkpoint have one and two dimensions; a patch embedding
        // stored as a convolution would have four and another order.
        if tensor.shape.len() > 2 {
            return Err(ModelError::TensorShape {
                source_name: directory.display().to_string(),
                tensor: name,
                got: std::mem::take(&mut tensor.shape),
                expected: Vec::new(),
            });
        }
        tensors.insert(name, tensor);
    }
    if draws {
        let ae = SafeTensors::open(&directory.join("ae.safetensors"))?;
        for (original, tensor) in ae.iter() {
            let name = format!("{}{original}", names::AUTOENCODER_PREFIX);
            tensors.insert(name, tensor.clone());
        }
    }

    let mut defaults = Vec::new();
    let config = config(directory, language, vision, top, &tensors, &mut defaults)?;
    config.check(&directory.display().to_string())?;
    Ok(Source {
        name: directory.display().to_string(),
        config,
        tokenizer: text(directory, "tokenizer.json")?,
        tensors,
        defaults,
        packed: None,
    })
}

fn unknown(directory: &Path, tensor: &str) -> ModelError {
    ModelError::Unsupported {
        source_name: directory.display().to_string(),
        what: format!("ema.safetensors holds \"{tensor}\", which is no tensor of a BAGEL model"),
    }
}

fn config(
    directory: &Path,
    language: LanguageFile,
    vision: VisionFile,
    top: TopFile,
    tensors: &BTreeMap<String, kinglet_container::Tensor>,
    defaults: &mut Vec<String>,
) -> Result<Config> {
    let draws = top.draws();
    // The release says 27 layers and stores 26: what is stored counts.
    let blocks = (0..)
        .take_while(|i| tensors.contains_key(&format!("v.blk.{i}.ln1.weight")))
        .count();
    let sampler = match &top.draw.sampler {
        None => Sampler::Euler,
        Some(name) => Sampler::from_name(name).ok_or_else(|| ModelError::Unsupported {
            source_name: directory.join("config.json").display().to_string(),
            what: format!("the sampler \"{name}\" is not known"),
        })?,
    };
    let renorm = |name: &Option<String>, default| match name {
        None => Ok(default),
        Some(name) => Renorm::from_name(name).ok_or_else(|| ModelError::Unsupported {
            source_name: directory.join("config.json").display().to_string(),
            what: format!("the renorm kind \"{name}\" is not known"),
        }),
    };
    let of_edits = top.edit.unwrap_or_default();
    let reference = EditConfig::default();
    let edit = EditConfig {
        guidance: of_edits.cfg_text_scale.unwrap_or(reference.guidance),
        picture_guidance: of_edits.cfg_img_scale.unwrap_or(reference.picture_guidance),
        renorm: renorm(&of_edits.cfg_renorm_type, reference.renorm)?,
    };
    let renorm = renorm(&top.draw.cfg_renorm_type, Renorm::Global)?;
    let mut layers: Vec<LayerConfig> = (0..language.num_hidden_layers.min(LARGEST_LAYERS))
        .map(|i| layer(&language, tensors, i))
        .collect();
    for (field, names, set) in [
        (
            "skip_understand",
            &top.skip_understand,
            (|l, part| l.skip_understand = part) as fn(&mut LayerConfig, Option<Part>),
        ),
        ("skip_generate", &top.skip_generate, |l, part| {
            l.skip_generate = part;
        }),
    ] {
        let Some(names) = names else { continue };
        skips(&mut layers, names, set).ok_or_else(|| ModelError::Config {
            source_name: directory.join("config.json").display().to_string(),
            field: field.to_owned(),
            value: format!("{names:?}"),
            expected: "one of \"\", \"block\", \"attn\", \"mlp\" for each layer".to_owned(),
        })?;
    }
    let blocks_of_language = layers.len();
    let widths = |field: &str, widths: &Option<Vec<usize>>| match widths {
        None => Ok(vec![language.intermediate_size; blocks_of_language]),
        Some(widths) if widths.len() == blocks_of_language => Ok(widths.clone()),
        Some(widths) => Err(ModelError::Config {
            source_name: directory.join("config.json").display().to_string(),
            field: field.to_owned(),
            value: format!("{widths:?}"),
            expected: "a size for each layer".to_owned(),
        }),
    };
    let widths_understand = widths("widths_understand", &top.widths_understand)?;
    let widths_generate = widths("widths_generate", &top.widths_generate)?;
    let folder = directory.canonicalize().ok();
    let folder_name = folder.as_deref().and_then(Path::file_name);
    let mut config = Config {
        name: top
            .name
            .or_else(|| folder_name.map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "bagel".to_owned()),
        language: LanguageConfig {
            blocks: language.num_hidden_layers,
            hidden: language.hidden_size,
            feed_forward: language.intermediate_size,
            heads: language.num_attention_heads,
            kv_heads: language.num_key_value_heads,
            vocabulary: language.vocab_size,
            context_length: language.max_position_embeddings,
            rms_epsilon: language.rms_norm_eps,
            rope_base: language.rope_theta,
            layers,
        },
        vision: VisionConfig {
            blocks,
            hidden: vision.hidden_size,
            feed_forward: vision.intermediate_size,
            heads: vision.num_attention_heads,
            patch: vision.patch_size,
            position_side: or(
                defaults,
                "vit_max_num_patch_per_side",
                top.vit_max_num_patch_per_side,
                70,
            ),
            epsilon: vision.layer_norm_eps,
            rule: top.vit_transform.or(
                defaults,
                "vit_transform",
                PictureRule {
                    max: 980,
                    min: 224,
                    stride: 14,
                    max_pixels: MAX_PIXELS,
                },
            ),
            tokens: top.vision_tokens.map(|t| VisionTokens {
                count: t.count,
                from: t.from_layer,
            }),
        },
        latent: LatentConfig {
            channels: or(
                defaults,
                "vae_config.z_channels",
                top.vae_config.z_channels,
                16,
            ),
            downsample: or(
                defaults,
                "vae_config.downsample",
                top.vae_config.downsample,
                8,
            ),
            patch: or(defaults, "latent_patch_size", top.latent_patch_size, 2),
            position_side: or(defaults, "max_latent_size", top.max_latent_size, 64),
            scale: or(
                defaults,
                "vae_config.scale_factor",
                top.vae_config.scale_factor,
                0.3611,
            ),
            shift: or(
                defaults,
                "vae_config.shift_factor",
                top.vae_config.shift_factor,
                0.1159,
            ),
            groups: or(
                defaults,
                "vae_config.num_groups",
                top.vae_config.num_groups,
                32,
            ),
            rule: top.vae_transform.or(
                defaults,
                "vae_transform",
                PictureRule {
                    max: 1024,
                    min: 512,
                    stride: 16,
                    max_pixels: MAX_PIXELS,
                },
            ),
            preview: None,
        },
        draw: DrawConfig {
            timesteps: or(defaults, "draw.num_timesteps", top.draw.num_timesteps, 50),
            shift: or(
                defaults,
                "draw.timestep_shift",
                top.draw.timestep_shift,
                3.0,
            ),
            guidance: or(
                defaults,
                "draw.cfg_text_scale",
                top.draw.cfg_text_scale,
                4.0,
            ),
            interval: or(
                defaults,
                "draw.cfg_interval",
                top.draw.cfg_interval,
                (0.4, 1.0),
            ),
            renorm,
            renorm_min: or(
                defaults,
                "draw.cfg_renorm_min",
                top.draw.cfg_renorm_min,
                0.0,
            ),
            sampler,
        },
        edit,
        draws,
    };
    config
        .language
        .set_widths(&widths_understand, &widths_generate);
    Ok(config)
}

/// More layers than any model has.
const LARGEST_LAYERS: usize = 4096;

/// Which layers are sparse is what is stored, not what the configuration lists.
fn layer(
    language: &LanguageFile,
    tensors: &BTreeMap<String, kinglet_container::Tensor>,
    i: usize,
) -> LayerConfig {
    let router = ["", names::GENERATION_SUFFIX]
        .iter()
        .find_map(|suffix| tensors.get(&format!("blk.{i}.ffn_gate_inp{suffix}.weight")));
    let experts = match router {
        None => ExpertsConfig::default(),
        Some(router) => ExpertsConfig {
            count: router.shape.first().copied().unwrap_or(0),
            used: language.top_k,
            shared: language.num_shared_experts,
        },
    };
    LayerConfig {
        experts,
        ..LayerConfig::default()
    }
}

/// Sets what layers leave out; none if the names do not fit.
fn skips(
    layers: &mut [LayerConfig],
    names: &[String],
    set: fn(&mut LayerConfig, Option<Part>),
) -> Option<()> {
    if names.len() != layers.len() {
        return None;
    }
    for (layer, name) in layers.iter_mut().zip(names) {
        let part = match name.as_str() {
            "" => None,
            name => Some(Part::from_name(name)?),
        };
        set(layer, part);
    }
    Some(())
}

fn text(directory: &Path, file: &str) -> Result<String> {
    let path = directory.join(file);
    let refuse = |reason: String| ModelError::File {
        path: path.display().to_string(),
        reason,
    };
    let len = std::fs::metadata(&path)
        .map_err(|e| refuse(e.to_string()))?
        .len();
    if len > LARGEST_JSON {
        return Err(refuse(format!(
            "it has {len} bytes, at most {LARGEST_JSON} are read"
        )));
    }
    std::fs::read_to_string(&path).map_err(|e| refuse(e.to_string()))
}

fn json<T: DeserializeOwned>(directory: &Path, file: &str) -> Result<T> {
    serde_json::from_str(&text(directory, file)?).map_err(|e| ModelError::File {
        path: directory.join(file).display().to_string(),
        reason: e.to_string(),
    })
}
