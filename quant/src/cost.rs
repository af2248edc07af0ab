//! What a model costs to store and to run, from its tensors' shapes alone (docs/model.md, 5).

use kinglet_model::Config;
use kinglet_model::config::Part;
use kinglet_model::names;
use serde::Serialize;

use crate::passes::depth::place;
use crate::plan::Plan;

/// Tokens of the prompt that a drawing's step is counted with.
pub const PROMPT_TOKENS: usize = 64;
/// Tokens of the context that a decoded token is counted with.
pub const CONTEXT_TOKENS: usize = 512;

/// What a model costs after a pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// After which pass; `source` before the first.
    pub pass: String,
    /// Bytes of all tensors: in the source's types, after `precision` in the new ones.
    pub bytes: usize,
    /// Weights that are stored.
    pub parameters: usize,
    /// Weights of the language layers that an understanding token passes through.
    pub active_understand: usize,
    /// Weights of the language layers that a latent token passes through.
    pub active_generate: usize,
    /// Operations (two for each multiplication with addition) of a decoded token after a context of
    /// 512 tokens, output layer included.
    pub token_operations: f64,
    /// Operations of one pass of a drawing's step at the model's own size after a prompt of 64
    /// tokens; a step with guidance has two.
    pub step_operations: f64,
    /// What the pass says about its work.
    pub notes: Vec<String>,
}

impl Cost {
    /// What the plan costs as it is.
    pub fn of(plan: &Plan<'_>, pass: &str, notes: Vec<String>) -> Self {
        let l = &plan.config.language;
        let (mut understand, mut generate, mut markers) = (0.0, 0.0, 0.0);
        for (name, parts) in &plan.tensors {
            let Some((layer, part, generation)) = place(name) else {
                continue;
            };
            let Some(layer) = l.layers.get(layer) else {
                continue;
            };
            let stored: usize = parts.iter().map(crate::plan::Part::values).sum();
            let mut active = stored as f64;
            if names::is_experts(name) {
                active *= layer.experts.used as f64 / layer.experts.count.max(1) as f64;
            }
            match (generation, layer.generates_without(part)) {
                (true, false) => generate += active,
                (false, false) => markers += active,
                _ => {}
            }
            if !generation && !layer.understands_without(part) {
                understand += active;
            }
        }
        let attentions = |without: fn(&kinglet_model::config::LayerConfig) -> bool| {
            l.layers.iter().filter(|layer| !without(layer)).count() as f64
        };
        let hidden = l.hidden as f64;
        let latents = latent_tokens(&plan.config) as f64;
        let block = latents + 2.0;
        let head = (l.vocabulary * l.hidden) as f64;
        let read = attentions(|l| l.understands_without(Part::Attention));
        let drawn = attentions(|l| l.generates_without(Part::Attention));
        let keys = block + PROMPT_TOKENS as f64;
        let all = plan.tensors.values().flatten();
        Cost {
            pass: pass.to_owned(),
            bytes: all.clone().map(crate::plan::Part::stored_bytes).sum(),
            parameters: all.map(crate::plan::Part::values).sum(),
            active_understand: understand as usize,
            active_generate: generate as usize,
            token_operations: 2.0 * (understand + head)
                + 4.0 * CONTEXT_TOKENS as f64 * hidden * read,
            step_operations: match plan.config.draws {
                true => {
                    2.0 * (latents * generate + 2.0 * markers) + 4.0 * block * keys * hidden * drawn
                }
                false => 0.0,
            },
            notes,
        }
    }
}

/// Latent tokens of a drawing of the model's own size.
fn latent_tokens(config: &Config) -> usize {
    let side = config.latent.rule.max / config.latent.token_pixels().max(1);
    side * side
}
