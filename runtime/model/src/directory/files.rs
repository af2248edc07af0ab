//! The JSON files of a checkpoint directory.

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(super) struct LanguageFile {
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_key_value_heads: usize,
    pub(super) vocab_size: usize,
    #[serde(default = "context_length")]
    pub(super) max_position_embeddings: usize,
    #[serde(default = "epsilon")]
    pub(super) rms_norm_eps: f32,
    #[serde(default = "rope_theta")]
    pub(super) rope_theta: f32,
    #[serde(default = "shared_experts")]
    pub(super) num_shared_experts: usize,
    #[serde(default = "top_k")]
    pub(super) top_k: usize,
    /// For others: this reader counts what is stored.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) num_experts: Option<usize>,
    /// See `num_experts`: the layers whose generation branch has experts.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) transformed_gen: Option<Vec<usize>>,
    /// See `num_experts`: the layers whose understanding branch has experts.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) transformed_und: Option<Vec<usize>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct VisionFile {
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_attention_heads: usize,
    #[serde(default = "patch_size")]
    pub(super) patch_size: usize,
    #[serde(default = "epsilon")]
    pub(super) layer_norm_eps: f32,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(super) struct TopFile {
    pub(super) name: Option<String>,
    /// Whether it draws; a directory that says nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) visual_gen: Option<bool>,
    pub(super) vit_max_num_patch_per_side: Option<usize>,
    pub(super) latent_patch_size: Option<usize>,
    pub(super) max_latent_size: Option<usize>,
    pub(super) vae_config: AutoencoderFile,
    pub(super) vae_transform: RuleFile,
    pub(super) vit_transform: RuleFile,
    pub(super) draw: DrawFile,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) edit: Option<EditFile>,
    /// How patches become fewer tokens: Kinglet's own as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vision_tokens: Option<TokensFile>,
    /// What layers leave out, one entry a layer (see [`LayerConfig`]): a field of Kinglet's own, as
    /// `name` and `draw` are.
    ///
    /// [`LayerConfig`]: crate::config::LayerConfig
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) skip_understand: Option<Vec<String>>,
    /// See `skip_understand`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) skip_generate: Option<Vec<String>>,
    /// The width of each layer's feed-forward network where they differ: Kinglet's own as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) widths_understand: Option<Vec<usize>>,
    /// See `widths_understand`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) widths_generate: Option<Vec<usize>>,
}

impl TopFile {
    pub(super) fn draws(&self) -> bool {
        self.visual_gen.unwrap_or(true)
    }
}

/// See [`VisionTokens`](crate::config::VisionTokens).
#[derive(Serialize, Deserialize)]
pub(super) struct TokensFile {
    pub(super) count: usize,
    #[serde(default)]
    pub(super) from_layer: usize,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(super) struct AutoencoderFile {
    pub(super) downsample: Option<usize>,
    pub(super) z_channels: Option<usize>,
    pub(super) num_groups: Option<usize>,
    pub(super) scale_factor: Option<f32>,
    pub(super) shift_factor: Option<f32>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(super) struct RuleFile {
    pub(super) max_image_size: Option<usize>,
    pub(super) min_image_size: Option<usize>,
    pub(super) image_stride: Option<usize>,
    pub(super) max_pixels: Option<usize>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(super) struct DrawFile {
    pub(super) num_timesteps: Option<usize>,
    pub(super) timestep_shift: Option<f32>,
    pub(super) cfg_text_scale: Option<f32>,
    pub(super) cfg_interval: Option<(f32, f32)>,
    pub(super) cfg_renorm_type: Option<String>,
    pub(super) cfg_renorm_min: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sampler: Option<String>,
}

/// The guidance of edits: Kinglet's own, as `draw` is. What is left out is the reference's.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(super) struct EditFile {
    pub(super) cfg_text_scale: Option<f32>,
    pub(super) cfg_img_scale: Option<f32>,
    pub(super) cfg_renorm_type: Option<String>,
}

fn context_length() -> usize {
    32_768
}
fn epsilon() -> f32 {
    1e-6
}
fn rope_theta() -> f32 {
    1_000_000.0
}
/// The adapted code's own default where the field is absent.
fn shared_experts() -> usize {
    1
}
/// See [`shared_experts`].
fn top_k() -> usize {
    2
}
fn patch_size() -> usize {
    14
}
