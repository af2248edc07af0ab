//! Every size and default of a model.

use crate::error::{ModelError, Result};
use crate::preview;
use crate::solver::Sampler;

/// A whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the model is called.
    pub name: String,
    /// The language half: a Qwen2 decoder with two sets of weights.
    pub language: LanguageConfig,
    /// The vision encoder.
    pub vision: VisionConfig,
    /// Latents and their autoencoder.
    pub latent: LatentConfig,
    /// The defaults of a drawing.
    pub draw: DrawConfig,
    /// Those of an edit where they differ.
    pub edit: EditConfig,
    /// Whether it has what drawing needs: the generation branch, the projections of latents and the
    /// autoencoder. Without them it understands only.
    pub draws: bool,
}

/// The language half.
#[derive(Debug, Clone, PartialEq)]
pub struct LanguageConfig {
    /// Layers.
    pub blocks: usize,
    /// Values of a token's state.
    pub hidden: usize,
    /// Values inside a dense feed-forward network, where a layer says nothing else.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Epsilon of every RMS norm.
    pub rms_epsilon: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// What is special about each layer, `blocks` of them.
    pub layers: Vec<LayerConfig>,
}

/// What is special about a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerConfig {
    /// What is left out in understanding passes (texts, pictures to understand, decoding).
    pub skip_understand: Option<Part>,
    /// What is left out in passes with latents.
    pub skip_generate: Option<Part>,
    /// The experts of its sparse feed-forward networks; `count` is 0 where they are dense.
    pub experts: ExpertsConfig,
    /// Values inside the understanding branch's dense feed-forward network, if not the model's own.
    pub width_understand: Option<usize>,
    /// Values inside the generation branch's dense feed-forward network, if not the model's own.
    pub width_generate: Option<usize>,
}

impl LayerConfig {
    /// Whether understanding passes leave this part out.
    pub fn understands_without(&self, part: Part) -> bool {
        self.skip_understand.is_some_and(|skip| skip.covers(part))
    }

    /// Whether passes with latents leave this part out.
    pub fn generates_without(&self, part: Part) -> bool {
        self.skip_generate.is_some_and(|skip| skip.covers(part))
    }
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// Experts to choose from.
    pub count: usize,
    /// Experts that are chosen for a token.
    pub used: usize,
    /// Experts that were joined to the one that every token uses; 0 = there is none.
    pub shared: usize,
}

/// A part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The whole layer.
    Block,
    /// Its attention.
    Attention,
    /// Its feed-forward network.
    FeedForward,
}

impl Part {
    /// The name in metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Block => "block",
            Part::Attention => "attn",
            Part::FeedForward => "mlp",
        }
    }

    /// Whether leaving this out leaves `part` out.
    pub fn covers(self, part: Part) -> bool {
        self == Part::Block || self == part
    }

    /// The part with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Part::Block, Part::Attention, Part::FeedForward]
            .into_iter()
            .find(|p| p.name() == name)
    }
}

impl LanguageConfig {
    /// Values of one head.
    pub const fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Values of a token's keys (and of its values).
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim()
    }

    /// Values inside the dense feed-forward networks of each layer's understanding branch.
    pub fn widths_understand(&self) -> Vec<usize> {
        let width = |l: &LayerConfig| l.width_understand.unwrap_or(self.feed_forward);
        self.layers.iter().map(width).collect()
    }

    /// Values inside the dense feed-forward networks of each layer's generation branch.
    pub fn widths_generate(&self) -> Vec<usize> {
        let width = |l: &LayerConfig| l.width_generate.unwrap_or(self.feed_forward);
        self.layers.iter().map(width).collect()
    }

    /// Sets the widths of all layers, one entry a layer. The model's own becomes the largest of the
    /// understanding branch, so that equal widths make equal configurations.
    pub fn set_widths(&mut self, understand: &[usize], generate: &[usize]) {
        let own = understand.iter().copied().max();
        self.feed_forward = own.unwrap_or(self.feed_forward);
        let own = self.feed_forward;
        let other = |width: usize| (width != own).then_some(width);
        for ((layer, u), g) in self.layers.iter_mut().zip(understand).zip(generate) {
            layer.width_understand = other(*u);
            layer.width_generate = other(*g);
        }
    }
}

/// The vision encoder (SigLIP with NaViT packing).
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Layers that are stored and run.
    pub blocks: usize,
    /// Values of a patch's state.
    pub hidden: usize,
    /// Values inside a feed-forward network.
    pub feed_forward: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the two position tables in patches.
    pub position_side: usize,
    /// Epsilon of every layer norm.
    pub epsilon: f32,
    /// How pictures are resized for this encoder.
    pub rule: PictureRule,
    /// How a picture's patches become fewer tokens; none if they do not.
    pub tokens: Option<VisionTokens>,
}

/// How a picture's patches become fewer tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisionTokens {
    /// Tokens of a picture, its markers not counted.
    pub count: usize,
    /// The first layer of the language half that has these in place of the patches: 0 = no layer sees patches.
    pub from: usize,
}

/// Latents and the autoencoder that makes them.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentConfig {
    /// Channels of a latent.
    pub channels: usize,
    /// Pixels a latent pixel stands for, along each side.
    pub downsample: usize,
    /// Latent pixels of a token along each side.
    pub patch: usize,
    /// Side of the position table in tokens.
    pub position_side: usize,
    /// `latent = scale * (z - shift)`.
    pub scale: f32,
    /// See `scale`.
    pub shift: f32,
    /// Groups of the autoencoder's norms.
    pub groups: usize,
    /// How pictures are resized for this encoder.
    pub rule: PictureRule,
    /// The map from latents to colours ([`crate::preview`]), if the container has one.
    pub preview: Option<Vec<f32>>,
}

impl LatentConfig {
    /// Pixels a token stands for, along each side.
    pub const fn token_pixels(&self) -> usize {
        self.downsample * self.patch
    }

    /// Values of a token.
    pub const fn token_values(&self) -> usize {
        self.channels * self.patch * self.patch
    }
}

/// How a picture is resized (docs/model.md, 3.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureRule {
    /// Largest long side.
    pub max: usize,
    /// Smallest short side.
    pub min: usize,
    /// Both sides become multiples of this.
    pub stride: usize,
    /// Largest number of pixels.
    pub max_pixels: usize,
}

/// The defaults of a drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawConfig {
    /// Points in time, the end included: one more than there are steps.
    pub timesteps: usize,
    /// Timestep shift `s`: `t' = s t / (1 + (s - 1) t)`.
    pub shift: f32,
    /// Text guidance scale.
    pub guidance: f32,
    /// Guidance is applied where `low < t' <= high`.
    pub interval: (f32, f32),
    /// How a guided velocity is scaled back.
    pub renorm: Renorm,
    /// The least factor of scaling back; 1 turns it off.
    pub renorm_min: f32,
    /// How steps are taken.
    pub sampler: Sampler,
}

/// The guidance of an edit; points of time, shift and sampler are those of a drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EditConfig {
    /// Text guidance scale.
    pub guidance: f32,
    /// Picture guidance scale; 1 is none.
    pub picture_guidance: f32,
    /// How a guided velocity is scaled back.
    pub renorm: Renorm,
}

impl Default for EditConfig {
    /// The reference's.
    fn default() -> Self {
        EditConfig {
            guidance: 4.0,
            picture_guidance: 2.0,
            renorm: Renorm::TextChannel,
        }
    }
}

/// How a guided velocity is scaled back to the plain one's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renorm {
    /// One factor for the picture.
    Global,
    /// One factor a token.
    Channel,
    /// One factor a token, after text guidance and before picture guidance.
    TextChannel,
}

impl Renorm {
    /// The reference implementation's name.
    pub const fn name(self) -> &'static str {
        match self {
            Renorm::Global => "global",
            Renorm::Channel => "channel",
            Renorm::TextChannel => "text_channel",
        }
    }

    /// The kind with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Renorm::Global, Renorm::Channel, Renorm::TextChannel]
            .into_iter()
            .find(|r| r.name() == name)
    }
}

/// The largest value accepted for any one size: sizes are multiplied with each other, and this
/// keeps every product of four far from overflow.
const LARGEST_SIZE: usize = 1 << 24;

impl Config {
    /// Checks what the code relies on; `source` is the file's name for the error.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the first field that cannot be.
    pub fn check(&self, source: &str) -> Result<()> {
        let l = &self.language;
        let v = &self.vision;
        let a = &self.latent;
        let sizes = [
            ("number of layers", l.blocks),
            ("hidden size", l.hidden),
            ("intermediate size", l.feed_forward),
            ("number of attention heads", l.heads),
            ("number of key-value heads", l.kv_heads),
            ("vocabulary size", l.vocabulary),
            ("context length", l.context_length),
            ("vision: number of layers", v.blocks),
            ("vision: hidden size", v.hidden),
            ("vision: intermediate size", v.feed_forward),
            ("vision: number of attention heads", v.heads),
            ("vision: patch size", v.patch),
            ("vision: side of the position table", v.position_side),
            ("latent channels", a.channels),
            ("latent downsampling", a.downsample),
            ("latent patch size", a.patch),
            ("side of the latent position table", a.position_side),
            ("groups of the autoencoder's norms", a.groups),
            ("timesteps", self.draw.timesteps),
        ];
        for (field, value) in sizes {
            if value == 0 || value > LARGEST_SIZE {
                return Err(refuse(source, field, value, "a positive size is expected"));
            }
        }
        if let Some(tokens) = v.tokens {
            let places = v.position_side.saturating_mul(v.position_side);
            if tokens.count == 0 || tokens.count > places {
                let text = format!("1 to {places} are expected, as many as a picture has patches");
                return Err(refuse(source, "vision: tokens", tokens.count, &text));
            }
            if tokens.from >= l.blocks {
                let text = format!("there are {} layers", l.blocks);
                return Err(refuse(
                    source,
                    "vision: first layer with tokens",
                    tokens.from,
                    &text,
                ));
            }
        }
        if !l.hidden.is_multiple_of(2 * l.heads) {
            let text = format!("{} heads of an even length must divide it", l.heads);
            return Err(refuse(source, "hidden size", l.hidden, &text));
        }
        if l.layers.len() != l.blocks {
            let text = format!("there are {} layers", l.blocks);
            return Err(refuse(
                source,
                "number of layer descriptions",
                l.layers.len(),
                &text,
            ));
        }
        for layer in &l.layers {
            let e = layer.experts;
            if e.used > e.count || e.count > LARGEST_SIZE {
                let text = format!("there are {} experts", e.count);
                return Err(refuse(source, "number of experts used", e.used, &text));
            }
        }
        for width in l.widths_understand().into_iter().chain(l.widths_generate()) {
            if width == 0 || width > LARGEST_SIZE {
                let field = "intermediate size of a layer";
                return Err(refuse(source, field, width, "a positive size is expected"));
            }
        }
        if !l.heads.is_multiple_of(l.kv_heads) {
            let text = format!("it must divide the {} query heads", l.heads);
            return Err(refuse(
                source,
                "number of key-value heads",
                l.kv_heads,
                &text,
            ));
        }
        if !v.hidden.is_multiple_of(v.heads) {
            let text = format!("{} heads must divide it", v.heads);
            return Err(refuse(source, "vision: hidden size", v.hidden, &text));
        }
        // Each size is bounded, their products are not, and on a board of 32 bits even less.
        let product = |field: &str, sizes: &[usize]| {
            let product = sizes.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
            product
                .filter(|n| *n <= LARGEST_SIZE)
                .ok_or_else(|| refuse(source, field, format!("{sizes:?}"), "it is too large"))
        };
        product("values of a latent token", &[a.channels, a.patch, a.patch])?;
        product("values of a patch", &[3, v.patch, v.patch])?;
        let vision = product(
            "pixels of the position table's side",
            &[v.patch, v.position_side],
        )?;
        let sides = [a.downsample, a.patch, a.position_side];
        let latent = product("pixels of the latent position table's side", &sides)?;
        for (field, rule, side) in [
            ("the picture rule of the vision encoder", v.rule, vision),
            ("the picture rule of the latents", a.rule, latent),
        ] {
            if rule.min == 0 || rule.stride == 0 || rule.min > rule.max || rule.max > side {
                let got = format!("{}..{} by {}", rule.min, rule.max, rule.stride);
                let text = format!("sides from 1 to {side} pixels, the least first, are expected");
                return Err(refuse(source, field, got, &text));
            }
        }
        for (field, stride, unit) in [
            ("stride of the vision encoder", v.rule.stride, v.patch),
            ("stride of the latents", a.rule.stride, a.token_pixels()),
        ] {
            if !stride.is_multiple_of(unit) {
                let text = format!("a multiple of {unit} is expected");
                return Err(refuse(source, field, stride, &text));
            }
        }
        if let Some(map) = &a.preview {
            let expected = preview::values(a);
            if map.len() != expected || map.iter().any(|v| !v.is_finite()) {
                let text = format!("{expected} finite numbers are expected");
                return Err(refuse(source, "the map of previews", map.len(), &text));
            }
        }
        let d = &self.draw;
        for (field, value) in [
            ("RMS norm epsilon", l.rms_epsilon),
            ("rotary base", l.rope_base),
            ("vision: layer norm epsilon", v.epsilon),
            ("latent scale factor", a.scale),
            ("timestep shift", d.shift),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(refuse(
                    source,
                    field,
                    value,
                    "a positive number is expected",
                ));
            }
        }
        for (field, value) in [
            ("latent shift factor", a.shift),
            ("guidance scale", d.guidance),
            ("guidance interval", d.interval.0),
            ("guidance interval", d.interval.1),
            ("least renorm factor", d.renorm_min),
            ("edit: guidance scale", self.edit.guidance),
            ("edit: picture guidance scale", self.edit.picture_guidance),
        ] {
            if !value.is_finite() {
                return Err(refuse(source, field, value, "a finite number is expected"));
            }
        }
        if d.timesteps < 2 {
            return Err(refuse(
                source,
                "timesteps",
                d.timesteps,
                "at least 2 are expected",
            ));
        }
        Ok(())
    }
}

fn refuse(source: &str, field: &str, value: impl ToString, expected: &str) -> ModelError {
    ModelError::Config {
        source_name: source.to_owned(),
        field: field.to_owned(),
        value: value.to_string(),
        expected: expected.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::Source;

    #[test]
    fn products_of_sizes_that_are_too_large_are_refused() {
        let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/kinglet-tiny.gguf");
        let sound = Source::open(bundled.as_ref()).unwrap().config;
        sound.check("sound").unwrap();
        let mut hostile = sound.clone();
        hostile.latent.downsample = super::LARGEST_SIZE;
        hostile.latent.patch = super::LARGEST_SIZE;
        hostile.latent.position_side = super::LARGEST_SIZE;
        assert!(hostile.check("latent").is_err(), "2^72");
        let mut hostile = sound;
        hostile.vision.patch = super::LARGEST_SIZE;
        hostile.vision.position_side = super::LARGEST_SIZE;
        let refused = hostile.check("vision").unwrap_err().to_string();
        assert!(refused.contains("too large"), "{refused}");
    }
}
