//! Everything that is drawn by lot, from a seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::error::{ModelError, Result};

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this.
    pub temperature: f32,
    /// Only the likeliest tokens whose probabilities reach this sum are drawn from; 1 is all.
    pub top_p: f32,
    /// Where chance comes from.
    pub seed: u64,
}

/// Chooses tokens.
pub(crate) struct Sampler {
    sampling: Option<(f32, f32, ChaCha8Rng)>,
}

impl Sampler {
    /// # Errors
    /// [`ModelError::Request`] for a temperature that is not positive or a `top_p` outside 0 to 1.
    pub(crate) fn new(sampling: Option<&Sampling>) -> Result<Self> {
        let refuse = |what, got: f32, expected: &str| {
            Err(ModelError::Request {
                what,
                got: got.to_string(),
                expected: expected.to_owned(),
            })
        };
        let Some(s) = sampling else {
            return Ok(Sampler { sampling: None });
        };
        if !(s.temperature.is_finite() && s.temperature > 0.0) {
            return refuse(
                "the temperature",
                s.temperature,
                "a positive number is expected",
            );
        }
        if !(s.top_p > 0.0 && s.top_p <= 1.0) {
            return refuse("top-p", s.top_p, "a share above 0 and up to 1 is expected");
        }
        let rng = ChaCha8Rng::seed_from_u64(s.seed);
        Ok(Sampler {
            sampling: Some((s.temperature, s.top_p, rng)),
        })
    }

    pub(crate) fn choose(&mut self, logits: &[f32]) -> u32 {
        let best = likeliest(logits);
        let Some((temperature, top_p, rng)) = &mut self.sampling else {
            return best;
        };
        let largest = logits[best as usize];
        let weight = |l: &f32| ((l - largest) / *temperature).exp();
        let mut tokens: Vec<(u32, f32)> = (0..).zip(logits.iter().map(weight)).collect();
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
        let all: f32 = tokens.iter().map(|(_, w)| w).sum();
        let mut kept = 0.0;
        let enough = tokens.iter().position(|(_, w)| {
            kept += w;
            kept >= *top_p * all
        });
        tokens.truncate(enough.map_or(tokens.len(), |i| i + 1));
        let sum: f32 = tokens.iter().map(|(_, w)| w).sum();
        let mut left = rng.random::<f32>() * sum;
        for (token, weight) in &tokens {
            left -= weight;
            if left <= 0.0 {
                return *token;
            }
        }
        best
    }
}

/// The index of the largest logit; the first of equals.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// Normally distributed values.
pub(crate) fn normal(seed: u64, len: usize) -> Vec<f32> {
    let rng = ChaCha8Rng::seed_from_u64(seed);
    StandardNormal.sample_iter(rng).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(temperature: f32, top_p: f32) -> Vec<f32> {
        let sampling = Sampling {
            temperature,
            top_p,
            seed: 5,
        };
        let mut sampler = Sampler::new(Some(&sampling)).unwrap();
        let logits = [0.0, 2.0f32.ln(), 5.0f32.ln()];
        let mut counts = [0; 3];
        for _ in 0..8000 {
            counts[sampler.choose(&logits) as usize] += 1;
        }
        counts.map(|c| c as f32 / 8000.0).to_vec()
    }

    #[test]
    fn tokens_come_as_often_as_their_probabilities_say() {
        for (got, expected) in shares(1.0, 1.0)
            .iter()
            .zip([1.0 / 8.0, 2.0 / 8.0, 5.0 / 8.0])
        {
            assert!((got - expected).abs() < 0.03, "{got} is not {expected}");
        }
        // Logits halved in weight: probabilities go as square roots.
        let sum = 1.0 + 2.0f32.sqrt() + 5.0f32.sqrt();
        assert!((shares(2.0, 1.0)[0] - 1.0 / sum).abs() < 0.03);
    }

    #[test]
    fn top_p_leaves_the_unlikely_out() {
        assert_eq!(shares(1.0, 0.5), [0.0, 0.0, 1.0]);
        assert_eq!(shares(1.0, 0.8)[0], 0.0);
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for (temperature, top_p) in [(0.0, 1.0), (f32::NAN, 1.0), (1.0, 0.0), (1.0, 1.1)] {
            let sampling = Sampling {
                temperature,
                top_p,
                seed: 0,
            };
            assert!(Sampler::new(Some(&sampling)).is_err());
        }
    }
}
