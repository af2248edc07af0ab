//! Leaving layers out (docs/model.md, 4.1): those that change least what passes through them.
//!
//! Dropping is per mode. In a pass with latents the picture's two markers run with the understanding
//! weights of *every* layer, also of those that understanding passes leave out. So these weights can
//! be dropped only if the markers take something else: `markers = "generation"` lets them take the
//! layer's generation weights, an approximation whose error the report measures with all others. On
//! kinglet-tiny, one layer of six left out: velocities are 3 to 6 % off if the markers keep their
//! weights and 10 to 16 % if they do not; without its feed-forward network alone, 1 % and 2 to 5 %.

use kinglet_kernels::Device;
use kinglet_model::config::Part;
use kinglet_model::names::GENERATION_SUFFIX;
use kinglet_model::observe::Stage;
use serde::Deserialize;

use super::Pass;
use crate::calibration::Calibration;
use crate::error::{QuantError, Result};
use crate::layers::Layers;
use crate::plan::Plan;

/// `[depth]`: layers that are left out, for each mode.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Depth {
    /// In texts, pictures to understand and decoding.
    pub understand: Option<Drop>,
    /// In passes with latents.
    pub generate: Option<Drop>,
    /// By which score layers are chosen.
    pub score: Score,
    /// What the picture's markers run with where understanding leaves a layer out.
    pub markers: Markers,
}

/// What to leave out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drop {
    /// How many layers.
    pub drop: usize,
    /// Which part of them.
    pub part: PartName,
    /// From which layers to choose.
    #[serde(default)]
    pub layers: Layers,
}

/// A part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartName {
    /// All of it.
    Block,
    /// Its attention.
    Attention,
    /// Its feed-forward network.
    Ffn,
}

impl PartName {
    fn part(self) -> Part {
        match self {
            PartName::Block => Part::Block,
            PartName::Attention => Part::Attention,
            PartName::Ffn => Part::FeedForward,
        }
    }
}

/// How layers are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// As the published code has it: the feed-forward output without the residual.
    Published,
    /// The usual one: what enters against what leaves.
    #[default]
    Residual,
}

/// What markers run with in layers whose understanding weights no other token needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Markers {
    /// Their understanding weights, which are therefore kept: exact.
    #[default]
    Keep,
    /// The layer's generation weights: an approximation.
    Generation,
}

impl Pass for Depth {
    fn name(&self) -> &'static str {
        "depth"
    }

    fn needs_calibration(&self) -> bool {
        // Where all of a list are to go, there is nothing to choose.
        let chooses =
            |drop: &&Drop| !matches!(&drop.layers, Layers::List(l) if l.len() == drop.drop);
        [&self.understand, &self.generate]
            .into_iter()
            .flatten()
            .any(|drop| chooses(&drop))
    }

    fn apply(&self, plan: &mut Plan<'_>, calibration: &Calibration) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if let Some(wanted) = &self.understand {
            let scores = self.scores(wanted, calibration.understand.as_ref());
            let chosen = wanted.choose(plan, "understand", scores.as_deref())?;
            for (layer, _) in &chosen {
                plan.config.language.layers[*layer].skip_understand = Some(wanted.part.part());
            }
            notes.push(wanted.note("understanding", &chosen));
        }
        if let Some(wanted) = &self.generate {
            let scores = self.scores(wanted, calibration.generate.as_ref());
            let chosen = wanted.choose(plan, "generate", scores.as_deref())?;
            for (layer, _) in &chosen {
                plan.config.language.layers[*layer].skip_generate = Some(wanted.part.part());
            }
            notes.push(wanted.note("generation", &chosen));
        }
        let before = plan.tensors.len();
        self.drop_unused(plan);
        notes.push(format!(
            "{} tensors that no pass uses any more are not stored",
            before - plan.tensors.len()
        ));
        if self.markers == Markers::Generation {
            notes.push(
                "picture markers run with generation weights where understanding weights were \
                 dropped: an approximation"
                    .to_owned(),
            );
        }
        Ok(notes)
    }
}

impl Depth {
    fn scores(&self, wanted: &Drop, scores: Option<&DepthScores>) -> Option<Vec<f64>> {
        let s = scores?;
        let published = self.score == Score::Published;
        Some(match wanted.part {
            PartName::Attention => s.attention.clone(),
            PartName::Block if published => s.block.clone(),
            PartName::Block => s.block_with_residual.clone(),
            PartName::Ffn if published => s.feed_forward.clone(),
            PartName::Ffn => s.feed_forward_with_residual.clone(),
        })
    }

    /// Drops the weights that no pass uses any more.
    fn drop_unused(&self, plan: &mut Plan<'_>) {
        let layers = plan.config.language.layers.clone();
        let draws = plan.config.draws;
        plan.drop_tensors(|name| {
            let Some((layer, part, generation)) = place(name) else {
                return false;
            };
            let Some(layer) = layers.get(layer) else {
                return false;
            };
            let generates_without = !draws || layer.generates_without(part);
            if generation {
                return generates_without;
            }
            // The markers of a pass with latents need them too.
            layer.understands_without(part)
                && (generates_without || self.markers == Markers::Generation)
        });
    }
}

impl Drop {
    /// The layers to leave out, with their scores: those with the highest.
    fn choose(
        &self,
        plan: &Plan<'_>,
        mode: &str,
        scores: Option<&[f64]>,
    ) -> Result<Vec<(usize, f64)>> {
        let language = &plan.config.language;
        let key = format!("[depth] {mode}");
        let mut candidates: Vec<(usize, f64)> = self
            .layers
            .resolve(language.blocks, &format!("{key}.layers"))?
            .into_iter()
            .filter(|layer| {
                let layer = language.layers[*layer];
                match mode {
                    "generate" => layer.skip_generate.is_none(),
                    _ => layer.skip_understand.is_none(),
                }
            })
            .map(|layer| (layer, scores.map_or(0.0, |s| s[layer])))
            .collect();
        if self.drop > candidates.len() {
            return Err(QuantError::Recipe(format!(
                "{key}: drop is {}, but there are {} layers to choose from",
                self.drop,
                candidates.len()
            )));
        }
        // A stable sort: of equals the first layer comes first.
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
        candidates.truncate(self.drop);
        candidates.sort_by_key(|(layer, _)| *layer);
        Ok(candidates)
    }

    fn note(&self, mode: &str, chosen: &[(usize, f64)]) -> String {
        let part = match self.part {
            PartName::Block => "all",
            PartName::Attention => "the attention",
            PartName::Ffn => "the feed-forward network",
        };
        let layers: Vec<String> = chosen
            .iter()
            .map(|(layer, score)| format!("{layer} ({score:.4})"))
            .collect();
        format!(
            "{mode}: leaves out {part} of layers {} (similarity in brackets)",
            layers.join(", ")
        )
    }
}

/// The layer, the part and whether it is the generation branch's, of a language layer's tensor.
pub(crate) fn place(name: &str) -> Option<(usize, Part, bool)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let module = rest.split('.').next()?;
    let part = match module {
        m if m.starts_with("attn") => Part::Attention,
        m if m.starts_with("ffn") => Part::FeedForward,
        _ => return None,
    };
    Some((
        layer.parse().ok()?,
        part,
        module.ends_with(GENERATION_SUFFIX),
    ))
}

/// Similarities of one layer, summed over tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    block: f64,
    attention: f64,
    feed_forward: f64,
    block_with_residual: f64,
    feed_forward_with_residual: f64,
}

/// Mean cosines over tokens, one for each layer. A layer with a high one changes little.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DepthScores {
    /// Of a layer's input and its feed-forward output, as the published code has it: without the
    /// residual.
    pub block: Vec<f64>,
    /// Of a layer's input and the stream after its attention.
    pub attention: Vec<f64>,
    /// Of the stream after attention and the feed-forward output, without the residual.
    pub feed_forward: Vec<f64>,
    /// Of a layer's input and its output: the usual score.
    pub block_with_residual: Vec<f64>,
    /// Of the stream after attention and the layer's output.
    pub feed_forward_with_residual: Vec<f64>,
}

impl DepthScores {
    /// Every score.
    pub(crate) fn all(&self) -> impl Iterator<Item = f64> {
        let all = [
            &self.block,
            &self.attention,
            &self.feed_forward,
            &self.block_with_residual,
            &self.feed_forward_with_residual,
        ];
        all.into_iter().flatten().copied()
    }
}

/// Watches passes of a model and scores its layers. Give [`Watcher::see`] to the passes as observer.
pub struct Watcher<'a, D: Device> {
    device: &'a D,
    hidden: usize,
    input: Vec<f32>,
    after_attention: Vec<f32>,
    layers: Vec<(Sums, usize)>,
    failed: Option<kinglet_kernels::KernelError>,
}

impl<'a, D: Device> Watcher<'a, D> {
    /// For a model with this hidden size and number of layers.
    pub fn new(device: &'a D, hidden: usize, layers: usize) -> Self {
        Watcher {
            device,
            hidden,
            input: Vec::new(),
            after_attention: Vec::new(),
            layers: vec![(Sums::default(), 0); layers],
            failed: None,
        }
    }

    /// Takes a stage's result.
    pub fn see(&mut self, stage: Stage, x: &D::Buffer) {
        let relevant = matches!(
            stage,
            Stage::LanguageInput
                | Stage::PictureTokens
                | Stage::LanguageAttention(_)
                | Stage::LanguageLayer(_)
        );
        if !relevant || self.failed.is_some() {
            return;
        }
        let x = match self.device.download(x) {
            Ok(x) => x,
            Err(e) => {
                self.failed = Some(e);
                return;
            }
        };
        match stage {
            Stage::LanguageAttention(_) => self.after_attention = x,
            Stage::LanguageLayer(layer) => {
                self.score(layer, &x);
                self.input = x;
            }
            _ => self.input = x,
        }
    }

    fn score(&mut self, layer: usize, output: &[f32]) {
        let Some((sums, tokens)) = self.layers.get_mut(layer) else {
            return;
        };
        let rows = |x: &'_ [f32]| -> Vec<Vec<f32>> {
            x.chunks_exact(self.hidden).map(<[f32]>::to_vec).collect()
        };
        let (inputs, middles, outputs) =
            (rows(&self.input), rows(&self.after_attention), rows(output));
        for ((a, r), y) in inputs.iter().zip(&middles).zip(&outputs) {
            let f: Vec<f32> = y.iter().zip(r).map(|(y, r)| y - r).collect();
            sums.block += cosine(a, &f);
            sums.attention += cosine(a, r);
            sums.feed_forward += cosine(r, &f);
            sums.block_with_residual += cosine(a, y);
            sums.feed_forward_with_residual += cosine(r, y);
            *tokens += 1;
        }
    }

    /// The scores of everything that was seen.
    ///
    /// # Errors
    /// What the device refused while results were read.
    pub fn scores(self) -> std::result::Result<DepthScores, kinglet_kernels::KernelError> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let mean = |f: fn(&Sums) -> f64| {
            let share = |(sums, tokens): &(Sums, usize)| f(sums) / (*tokens).max(1) as f64;
            self.layers.iter().map(share).collect()
        };
        Ok(DepthScores {
            block: mean(|s| s.block),
            attention: mean(|s| s.attention),
            feed_forward: mean(|s| s.feed_forward),
            block_with_residual: mean(|s| s.block_with_residual),
            feed_forward_with_residual: mean(|s| s.feed_forward_with_residual),
        })
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    product(a, b)
        / (product(a, a) * product(b, b))
            .sqrt()
            .max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_told_apart_by_layer_part_and_branch() {
        let cases = [
            ("blk.3.attn_q.bias", Some((3, Part::Attention, false))),
            (
                "blk.3.attn_q_norm_gen.weight",
                Some((3, Part::Attention, true)),
            ),
            (
                "blk.0.ffn_gate_exps_gen.weight",
                Some((0, Part::FeedForward, true)),
            ),
            (
                "blk.0.ffn_gate_exps_gen.7.weight",
                Some((0, Part::FeedForward, true)),
            ),
            ("blk.0.ffn_norm.weight", Some((0, Part::FeedForward, false))),
            ("v.blk.0.ffn_up.weight", None),
            ("output_norm_gen.weight", None),
        ];
        for (name, expected) in cases {
            assert_eq!(place(name), expected, "{name}");
        }
    }
}
