//! Narrower feed-forward networks (docs/model.md, 4.2): the neurons that matter least are left out.

use kinglet_model::names::GENERATION_SUFFIX;
use serde::Deserialize;

use super::{Pass, tensor};
use crate::calibration::{Calibration, Score};
use crate::error::{QuantError, Result};
use crate::layers::Layers;
use crate::plan::Plan;

/// `[width]`: neurons that are left out, for each branch.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Width {
    /// Of the understanding branch.
    pub understand: Option<Keep>,
    /// Of the generation branch.
    pub generate: Option<Keep>,
    /// What says which neurons matter.
    pub score: Score,
}

/// What to keep.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The share of a layer's neurons. Their number is rounded up to what the block format of the
    /// last matrix divides.
    pub keep: f64,
    /// In which layers.
    #[serde(default)]
    pub layers: Layers,
}

impl Pass for Width {
    fn name(&self) -> &'static str {
        "width"
    }

    fn needs_calibration(&self) -> bool {
        [&self.understand, &self.generate]
            .into_iter()
            .flatten()
            .any(|k| k.keep < 1.0 && self.score == Score::Calibrated)
    }

    fn apply(&self, plan: &mut Plan<'_>, calibration: &Calibration) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let mut understand = plan.config.language.widths_understand();
        let mut generate = plan.config.language.widths_generate();
        for (keep, mode, suffix, widths) in [
            (&self.understand, "understand", "", &mut understand),
            (&self.generate, "generate", GENERATION_SUFFIX, &mut generate),
        ] {
            let Some(keep) = keep else { continue };
            notes.extend(narrow(
                plan,
                (calibration, self.score),
                keep,
                mode,
                suffix,
                widths,
            )?);
        }
        plan.config.language.set_widths(&understand, &generate);
        Ok(notes)
    }
}

fn narrow(
    plan: &mut Plan<'_>,
    (calibration, score): (&Calibration, Score),
    keep: &Keep,
    mode: &str,
    suffix: &str,
    widths: &mut [usize],
) -> Result<Vec<String>> {
    let refuse = |text: String| Err(QuantError::Recipe(format!("[width] {mode}: {text}")));
    if !(keep.keep > 0.0 && keep.keep <= 1.0) {
        return refuse(format!(
            "keep is {}, a share above 0 and up to 1 is expected",
            keep.keep
        ));
    }
    let blocks = plan.config.language.blocks;
    let (mut before, mut after) = (0, 0);
    for layer in keep
        .layers
        .resolve(blocks, &format!("[width] {mode}.layers"))?
    {
        let [gate, up, down] = ["ffn_gate", "ffn_up", "ffn_down"].map(|p| tensor(layer, p, suffix));
        let Some(part) = plan.part(&down) else {
            if plan.part(&tensor(layer, "ffn_gate_inp", suffix)).is_some() {
                return refuse(format!("layer {layer} has experts already"));
            }
            // Left out by an earlier pass.
            continue;
        };
        let width = part.cols();
        let kept = kept(width, keep.keep, plan.block_values(&down)?);
        let scores = match [&gate, &up].map(|name| plan.part(name)) {
            [Some(gate), Some(up)] => calibration.scores([gate, up, part], score)?,
            _ => continue,
        };
        let neurons = most_important(&scores, kept);
        for (name, columns) in [(&gate, false), (&up, false), (&down, true)] {
            for part in plan.tensors.get_mut(name).into_iter().flatten() {
                *part = match columns {
                    true => part.with_columns(&neurons),
                    false => part.with_rows(&neurons),
                };
            }
        }
        widths[layer] = kept;
        before += width;
        after += kept;
    }
    Ok(vec![format!("{mode}: keeps {after} of {before} neurons")])
}

/// How many of `width` neurons are kept.
fn kept(width: usize, share: f64, block: usize) -> usize {
    // A share such as 0.7 is not exact; a hair below a whole number is that number.
    let kept = (width as f64 * share + 1e-9) as usize;
    kept.max(1).next_multiple_of(block).min(width)
}

/// The `count` neurons with the highest scores, ascending; of equals the first.
fn most_important(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_neurons_suits_the_block_format() {
        assert_eq!(kept(18944, 0.5, 256), 9472);
        assert_eq!(kept(768, 0.3, 32), 256);
        assert_eq!(kept(768, 0.3, 1), 230);
        assert_eq!(kept(10, 0.7, 1), 7);
        assert_eq!(kept(160, 0.9, 256), 160);
        assert_eq!(most_important(&[1.0, 3.0, 2.0, 3.0], 3), [1, 2, 3]);
    }
}
