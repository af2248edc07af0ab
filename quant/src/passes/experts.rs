//! Splitting the generation branch's feed-forward networks into experts (docs/model.md, 4.3).

use kinglet_model::config::ExpertsConfig;
use kinglet_model::names::GENERATION_SUFFIX;
use serde::Deserialize;

use super::{Pass, router, tensor};
use crate::calibration::{Calibration, Score};
use crate::error::{QuantError, Result};
use crate::layers::Layers;
use crate::plan::{Part, Plan};

/// `[experts]`: the dense feed-forward networks of the generation branch become mixtures.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts to choose from.
    pub count: usize,
    /// Experts that are chosen for a token.
    pub active: usize,
    /// Experts' worth of the most important neurons that every token uses.
    #[serde(default)]
    pub shared: usize,
    /// In which layers; the first and the last are better left dense.
    #[serde(default)]
    pub layers: Layers,
    /// How the routers come about.
    #[serde(default)]
    pub router: Router,
    /// What says which neurons matter, so that every expert gets its share of them.
    #[serde(default)]
    pub score: Score,
}

/// How routers come about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Router {
    /// Trained alone on the calibration's data, against the dense network.
    #[default]
    Calibrated,
    /// All zeros: every token takes the first experts. A start for training elsewhere.
    Zero,
}

/// The parts of a dense network.
const DENSE: [&str; 3] = ["ffn_gate", "ffn_up", "ffn_down"];

impl Pass for Experts {
    fn name(&self) -> &'static str {
        "experts"
    }

    fn needs_calibration(&self) -> bool {
        self.router == Router::Calibrated || self.score == Score::Calibrated
    }

    fn apply(&self, plan: &mut Plan<'_>, calibration: &Calibration) -> Result<Vec<String>> {
        let refuse = |text: String| Err(QuantError::Recipe(format!("[experts] {text}")));
        if self.active > self.count || (self.active == 0 && self.shared == 0) {
            return refuse(format!(
                "active is {}, but there are {} experts",
                self.active, self.count
            ));
        }
        let blocks = plan.config.language.blocks;
        let mut notes = Vec::new();
        for layer in self.layers.resolve(blocks, "[experts] layers")? {
            if plan
                .part(&tensor(layer, "ffn_gate_inp", GENERATION_SUFFIX))
                .is_some()
            {
                return refuse(format!("layer {layer} has experts already"));
            }
            if let Some(note) = self.split(plan, calibration, layer)? {
                notes.push(note);
            }
        }
        Ok(notes)
    }
}

impl Experts {
    /// Splits one layer; nothing where an earlier pass left its network out.
    fn split(
        &self,
        plan: &mut Plan<'_>,
        calibration: &Calibration,
        layer: usize,
    ) -> Result<Option<String>> {
        let name = |part: &str| tensor(layer, part, GENERATION_SUFFIX);
        let mut dense = Vec::new();
        for part in DENSE {
            match plan.part(&name(part)) {
                Some(part) => dense.push(part.clone()),
                None => return Ok(None),
            }
        }
        let [gate, up, down] = &dense[..] else {
            return Ok(None);
        };
        let width = down.cols();
        let scores = calibration.scores([gate, up, down], self.score)?;
        let split = partition(&scores, self.count, self.shared).map_err(|e| {
            let text = match e {
                QuantError::Recipe(text) => text,
                e => e.to_string(),
            };
            QuantError::Recipe(format!(
                "[experts] layer {layer}: {text}{}",
                self.counts_that_divide(width)
            ))
        })?;
        let slice = |neurons: &[usize]| {
            [
                gate.with_rows(neurons),
                up.with_rows(neurons),
                down.with_columns(neurons),
            ]
        };
        let experts: Vec<[Part; 3]> = split.experts.iter().map(|e| slice(e)).collect();
        let shared = (!split.shared.is_empty()).then(|| slice(&split.shared));

        let hidden = gate.cols();
        let inputs = match self.router {
            Router::Calibrated => calibration.inputs(layer),
            Router::Zero => &[],
        };
        let trained = router::train(&experts, shared.as_ref(), inputs, hidden, self.active)?;
        let router = |rows: usize, values: &[f32], part: &str| {
            let zeros = vec![0.0; rows * hidden];
            let values = if values.is_empty() { &zeros } else { values };
            vec![Part::made(name(part), values, hidden)]
        };
        let gates = router(self.count, &trained.weights, "ffn_gate_inp");
        plan.tensors.insert(name("ffn_gate_inp"), gates);
        if let Some(shared) = shared {
            let gate = router(1, &[], "ffn_gate_inp_shexp");
            plan.tensors.insert(name("ffn_gate_inp_shexp"), gate);
            for (part, of) in shared.into_iter().zip(DENSE) {
                plan.tensors
                    .insert(name(&format!("{of}_shexp")), vec![part]);
            }
        }
        for (i, of) in DENSE.into_iter().enumerate() {
            plan.tensors.remove(&name(of));
            let parts = experts.iter().map(|e| e[i].clone()).collect();
            plan.tensors.insert(name(&format!("{of}_exps")), parts);
        }
        let config = &mut plan.config.language.layers[layer];
        config.experts = ExpertsConfig {
            count: self.count,
            used: self.active,
            shared: self.shared,
        };
        config.width_generate = None;
        Ok(Some(trained.note(layer, split.experts[0].len())))
    }

    /// For a refusal: numbers of experts near the one that was asked for which would do.
    fn counts_that_divide(&self, width: usize) -> String {
        let fits = |count: usize| {
            let rest = width - width * self.shared / (self.shared + count);
            rest.is_multiple_of(count)
        };
        let below = (1..self.count).rev().find(|n| fits(*n));
        let above = (self.count + 1..=width).find(|n| fits(*n));
        let near: Vec<String> = [below, above]
            .into_iter()
            .flatten()
            .map(|n| n.to_string())
            .collect();
        match near.is_empty() {
            true => String::new(),
            false => format!("; {} would do", near.join(" or ")),
        }
    }
}

/// Which neurons of a dense network belong to which expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Neurons of the expert that every token uses, the most important first.
    pub shared: Vec<usize>,
    /// Neurons of each of the other experts, in the order of their importance.
    pub experts: Vec<Vec<usize>>,
}

/// Splits neurons by their importance: the most important go to the shared experts, the rest is
/// laid out in rows of `experts`, every other row reversed (a snake), and an expert takes a column.
///
/// # Errors
/// [`QuantError::Recipe`] if there are no experts, a score is not finite, or the neurons do not come
/// out even.
pub fn partition(scores: &[f32], experts: usize, shared: usize) -> Result<Partition> {
    let refuse = |text: String| Err(QuantError::Recipe(text));
    if experts == 0 {
        return refuse("a split into 0 experts".to_owned());
    }
    if let Some(neuron) = scores.iter().position(|s| !s.is_finite()) {
        return refuse(format!(
            "the importance of neuron {neuron} is {}",
            scores[neuron]
        ));
    }
    let common = scores.len() * shared / (shared + experts);
    let rest = scores.len() - common;
    if !rest.is_multiple_of(experts) {
        return refuse(format!(
            "{rest} neurons cannot be split evenly among {experts} experts"
        ));
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // A stable sort: of equals the first neuron comes first.
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (most, rest) = order.split_at(common);
    let mut split = vec![Vec::new(); experts];
    for (i, row) in rest.chunks(experts).enumerate() {
        for (column, neuron) in row.iter().enumerate() {
            let expert = if i % 2 == 0 {
                column
            } else {
                experts - 1 - column
            };
            split[expert].push(*neuron);
        }
    }
    Ok(Partition {
        shared: most.to_vec(),
        experts: split,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snake_gives_every_expert_its_share_of_importance() {
        let scores = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
        let split = partition(&scores, 2, 0).unwrap();
        assert_eq!(split.experts, [[0, 3, 4, 7], [1, 2, 5, 6]]);
        let split = partition(&scores, 2, 2).unwrap();
        assert_eq!(split.shared, [0, 1, 2, 3]);
        assert_eq!(split.experts, [[4, 7], [5, 6]]);
    }

    #[test]
    fn uneven_splits_and_scores_that_are_no_numbers_are_refused() {
        assert!(partition(&[1.0; 7], 2, 0).is_err());
        assert!(partition(&[1.0; 8], 0, 1).is_err());
        assert!(partition(&[1.0, f32::NAN], 2, 0).is_err());
    }
}
