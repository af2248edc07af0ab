//! The configuration as GGUF metadata, both ways.

use kinglet_container::gguf::{Gguf, Value};

use crate::config::{
    Config, DrawConfig, EditConfig, ExpertsConfig, LanguageConfig, LatentConfig, LayerConfig, Part,
    PictureRule, Renorm, VisionConfig, VisionTokens,
};
use crate::error::{ModelError, Result};
use crate::solver::Sampler;

/// The architecture's name.
pub const ARCHITECTURE: &str = "bagel";
/// The key that holds tokenizer.json.
pub const TOKENIZER: &str = "tokenizer.huggingface.json";
/// More layers than any model has.
const LARGEST_LAYERS: usize = 4096;
/// Whether the model draws; left out, it does.
const DRAWS: &str = "parts.draw";
/// Tokens that a picture's patches become; left out, they stay patches.
const TOKENS: &str = "vision.tokens";
/// The first layer that has these.
const TOKENS_FROM: &str = "vision.tokens_from";

/// The metadata of a configuration, in the order in which it is written.
pub fn write(config: &Config) -> Vec<(String, Value)> {
    let Config {
        name,
        language: l,
        vision: v,
        latent: a,
        draw: d,
        edit,
        draws,
    } = config;
    let mut out: Vec<(String, Value)> = vec![
        ("general.architecture".to_owned(), ARCHITECTURE.into()),
        ("general.name".to_owned(), name.as_str().into()),
    ];
    let mut put = |key: &str, value: Value| out.push((format!("{ARCHITECTURE}.{key}"), value));
    let size = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));

    put("block_count", size(l.blocks));
    put("embedding_length", size(l.hidden));
    // A number as long as all layers have the same, else one entry a layer.
    let sizes = |all: Vec<usize>| Value::Array(all.into_iter().map(size).collect());
    let (understand, generate) = (l.widths_understand(), l.widths_generate());
    let even = understand.iter().all(|w| *w == l.feed_forward);
    let differs = understand != generate;
    put(
        "feed_forward_length",
        if even {
            size(l.feed_forward)
        } else {
            sizes(understand)
        },
    );
    if differs {
        put("feed_forward_length_gen", sizes(generate));
    }
    put("context_length", size(l.context_length));
    put("vocab_size", size(l.vocabulary));
    put("attention.head_count", size(l.heads));
    put("attention.head_count_kv", size(l.kv_heads));
    put("attention.layer_norm_rms_epsilon", l.rms_epsilon.into());
    put("rope.freq_base", l.rope_base.into());

    if l.layers
        .iter()
        .any(|layer| *layer != LayerConfig::default())
    {
        let numbers = |f: fn(&ExpertsConfig) -> usize| {
            Value::Array(
                l.layers
                    .iter()
                    .map(|layer| size(f(&layer.experts)))
                    .collect(),
            )
        };
        put("expert_count", numbers(|e| e.count));
        put("expert_used_count", numbers(|e| e.used));
        put("expert_shared_count", numbers(|e| e.shared));
        let parts = |f: fn(&LayerConfig) -> Option<Part>| {
            let name = |layer| f(layer).map_or("", Part::name).into();
            Value::Array(l.layers.iter().map(name).collect())
        };
        put("skip.understand", parts(|layer| layer.skip_understand));
        put("skip.generate", parts(|layer| layer.skip_generate));
    }

    put("vision.block_count", size(v.blocks));
    put("vision.embedding_length", size(v.hidden));
    put("vision.feed_forward_length", size(v.feed_forward));
    put("vision.attention.head_count", size(v.heads));
    put("vision.attention.layer_norm_epsilon", v.epsilon.into());
    put("vision.patch_size", size(v.patch));
    put("vision.position_side", size(v.position_side));
    if let Some(tokens) = v.tokens {
        put(TOKENS, size(tokens.count));
        put(TOKENS_FROM, size(tokens.from));
    }

    put("latent.channels", size(a.channels));
    put("latent.downsample", size(a.downsample));
    put("latent.patch_size", size(a.patch));
    put("latent.position_side", size(a.position_side));
    put("latent.scale_factor", a.scale.into());
    put("latent.shift_factor", a.shift.into());
    put("latent.group_count", size(a.groups));
    if let Some(map) = &a.preview {
        let values = map.iter().map(|v| (*v).into()).collect();
        put("latent.preview", Value::Array(values));
    }

    for (part, rule) in [("vision", v.rule), ("latent", a.rule)] {
        put(&format!("{part}.picture_max"), size(rule.max));
        put(&format!("{part}.picture_min"), size(rule.min));
        put(&format!("{part}.picture_stride"), size(rule.stride));
        put(&format!("{part}.picture_pixels"), size(rule.max_pixels));
    }

    put("draw.timesteps", size(d.timesteps));
    put("draw.shift", d.shift.into());
    put("draw.guidance", d.guidance.into());
    let interval = vec![d.interval.0.into(), d.interval.1.into()];
    put("draw.guidance_interval", Value::Array(interval));
    put("draw.renorm", d.renorm.name().into());
    put("draw.renorm_min", d.renorm_min.into());
    put("draw.sampler", d.sampler.name().into());
    // Left out where it is the reference's, which is all that earlier versions know.
    if *edit != EditConfig::default() {
        put("edit.guidance", edit.guidance.into());
        put("edit.picture_guidance", edit.picture_guidance.into());
        put("edit.renorm", edit.renorm.name().into());
    }
    // Left out where it draws: earlier versions know nothing else.
    if !draws {
        put(DRAWS, Value::Bool(false));
    }
    out
}

/// Reads a configuration and checks it.
///
/// # Errors
/// [`ModelError`] naming the key that is missing or cannot be.
pub fn read(gguf: &Gguf) -> Result<Config> {
    let architecture = gguf.require("general.architecture", "a string", |v| v.as_str())?;
    if architecture != ARCHITECTURE {
        return Err(ModelError::Unsupported {
            source_name: gguf.name().to_owned(),
            what: format!(
                "its architecture is \"{architecture}\"; only \"{ARCHITECTURE}\" can be run"
            ),
        });
    }
    let reader = Reader { gguf };
    let sampler = reader.string("draw.sampler")?;
    let renorm = reader.string("draw.renorm")?;
    let blocks = reader.size("block_count")?;
    let understand = reader.widths("feed_forward_length", blocks)?;
    let generate = match reader.has("feed_forward_length_gen") {
        true => reader.widths("feed_forward_length_gen", blocks)?,
        false => understand.clone(),
    };
    let mut config = Config {
        name: gguf
            .find("general.name")
            .and_then(|v| v.as_str())
            .unwrap_or(ARCHITECTURE)
            .to_owned(),
        language: LanguageConfig {
            blocks,
            hidden: reader.size("embedding_length")?,
            feed_forward: understand.iter().copied().max().unwrap_or(0),
            heads: reader.size("attention.head_count")?,
            kv_heads: reader.size("attention.head_count_kv")?,
            vocabulary: reader.size("vocab_size")?,
            context_length: reader.size("context_length")?,
            rms_epsilon: reader.float("attention.layer_norm_rms_epsilon")?,
            rope_base: reader.float("rope.freq_base")?,
            layers: reader.layers(blocks)?,
        },
        vision: VisionConfig {
            blocks: reader.size("vision.block_count")?,
            hidden: reader.size("vision.embedding_length")?,
            feed_forward: reader.size("vision.feed_forward_length")?,
            heads: reader.size("vision.attention.head_count")?,
            patch: reader.size("vision.patch_size")?,
            position_side: reader.size("vision.position_side")?,
            epsilon: reader.float("vision.attention.layer_norm_epsilon")?,
            rule: reader.rule("vision")?,
            tokens: reader.tokens()?,
        },
        latent: LatentConfig {
            channels: reader.size("latent.channels")?,
            downsample: reader.size("latent.downsample")?,
            patch: reader.size("latent.patch_size")?,
            position_side: reader.size("latent.position_side")?,
            scale: reader.float("latent.scale_factor")?,
            shift: reader.float("latent.shift_factor")?,
            groups: reader.size("latent.group_count")?,
            rule: reader.rule("latent")?,
            preview: reader.preview()?,
        },
        draw: DrawConfig {
            timesteps: reader.size("draw.timesteps")?,
            shift: reader.float("draw.shift")?,
            guidance: reader.float("draw.guidance")?,
            interval: reader.pair("draw.guidance_interval")?,
            renorm: Renorm::from_name(&renorm)
                .ok_or_else(|| reader.unknown("renorm kind", &renorm))?,
            renorm_min: reader.float("draw.renorm_min")?,
            sampler: Sampler::from_name(&sampler)
                .ok_or_else(|| reader.unknown("sampler", &sampler))?,
        },
        edit: reader.edit()?,
        draws: reader.draws()?,
    };
    config.language.set_widths(&understand, &generate);
    config.check(gguf.name())?;
    Ok(config)
}

struct Reader<'a> {
    gguf: &'a Gguf,
}

impl Reader<'_> {
    fn get<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T> {
        let key = format!("{ARCHITECTURE}.{key}");
        Ok(self.gguf.require(&key, expected, convert)?)
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.get(key, "a size", |v| usize::try_from(v.as_u64()?).ok())
    }

    fn float(&self, key: &str) -> Result<f32> {
        self.get(key, "a float", Value::as_f32)
    }

    fn string(&self, key: &str) -> Result<String> {
        self.get(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    fn draws(&self) -> Result<bool> {
        let boolean = |v: &Value| match v {
            Value::Bool(v) => Some(*v),
            _ => None,
        };
        match self.has(DRAWS) {
            true => self.get(DRAWS, "a boolean", boolean),
            false => Ok(true),
        }
    }

    fn tokens(&self) -> Result<Option<VisionTokens>> {
        Ok(match self.has(TOKENS) {
            true => Some(VisionTokens {
                count: self.size(TOKENS)?,
                from: self.size(TOKENS_FROM)?,
            }),
            false => None,
        })
    }

    /// The guidance of edits; the reference's where the file says nothing.
    fn edit(&self) -> Result<EditConfig> {
        if !self.has("edit.guidance") {
            return Ok(EditConfig::default());
        }
        let renorm = self.get("edit.renorm", "a string", |v| Some(v.as_str()?.to_owned()))?;
        Ok(EditConfig {
            guidance: self.float("edit.guidance")?,
            picture_guidance: self.float("edit.picture_guidance")?,
            renorm: Renorm::from_name(&renorm)
                .ok_or_else(|| self.unknown("renorm kind", &renorm))?,
        })
    }

    fn has(&self, key: &str) -> bool {
        self.gguf.find(&format!("{ARCHITECTURE}.{key}")).is_some()
    }

    /// One size for each layer: an array of them, or one number for all.
    fn widths(&self, key: &str, blocks: usize) -> Result<Vec<usize>> {
        let blocks = blocks.min(LARGEST_LAYERS);
        self.get(key, "a size, or an array with one a layer", |v| {
            let number = |v: &Value| usize::try_from(v.as_u64()?).ok();
            match v.as_array() {
                Some(values) if values.len() == blocks => values.iter().map(number).collect(),
                Some(_) => None,
                None => Some(vec![number(v)?; blocks]),
            }
        })
    }

    /// The arrays with one entry a layer; left out, all layers are plain.
    fn layers(&self, blocks: usize) -> Result<Vec<LayerConfig>> {
        // Every layer has tensors of its own, so there cannot be more than a file may announce.
        let mut layers = vec![LayerConfig::default(); blocks.min(LARGEST_LAYERS)];
        let mut array = |key: &str, set: &mut dyn FnMut(&mut LayerConfig, &Value) -> Option<()>| {
            if !self.has(key) {
                return Ok(());
            }
            self.get(key, "an array with one entry a layer", |v| {
                let values = v.as_array().filter(|values| values.len() == layers.len())?;
                layers
                    .iter_mut()
                    .zip(values)
                    .try_for_each(|(layer, v)| set(layer, v))
            })
        };
        let number = |v: &Value| usize::try_from(v.as_u64()?).ok();
        array("expert_count", &mut |l, v| {
            l.experts.count = number(v)?;
            Some(())
        })?;
        array("expert_used_count", &mut |l, v| {
            l.experts.used = number(v)?;
            Some(())
        })?;
        array("expert_shared_count", &mut |l, v| {
            l.experts.shared = number(v)?;
            Some(())
        })?;
        let part = |v: &Value| match v.as_str()? {
            "" => Some(None),
            name => Part::from_name(name).map(Some),
        };
        array("skip.understand", &mut |l, v| {
            l.skip_understand = part(v)?;
            Some(())
        })?;
        array("skip.generate", &mut |l, v| {
            l.skip_generate = part(v)?;
            Some(())
        })?;
        Ok(layers)
    }

    /// The map of previews; a container may have none.
    fn preview(&self) -> Result<Option<Vec<f32>>> {
        let key = "latent.preview";
        if !self.has(key) {
            return Ok(None);
        }
        self.get(key, "an array of floats", |v| {
            v.as_array()?.iter().map(Value::as_f32).collect()
        })
        .map(Some)
    }

    fn pair(&self, key: &str) -> Result<(f32, f32)> {
        self.get(key, "an array of two floats", |v| match v.as_array()? {
            [low, high] => Some((low.as_f32()?, high.as_f32()?)),
            _ => None,
        })
    }

    fn rule(&self, part: &str) -> Result<PictureRule> {
        Ok(PictureRule {
            max: self.size(&format!("{part}.picture_max"))?,
            min: self.size(&format!("{part}.picture_min"))?,
            stride: self.size(&format!("{part}.picture_stride"))?,
            max_pixels: self.size(&format!("{part}.picture_pixels"))?,
        })
    }

    fn unknown(&self, what: &str, name: &str) -> ModelError {
        ModelError::Unsupported {
            source_name: self.gguf.name().to_owned(),
            what: format!("the {what} \"{name}\" is not known"),
        }
    }
}
