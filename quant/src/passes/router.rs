//! Training a router alone, with the experts as they are (docs/model.md, 4.3).
//!
//! The mixture of a token is the sum of `(1 + logit) * expert(x)` over the experts with the largest
//! logits; it shall be near the dense network, the sum over all. How far it is off depends on the
//! experts only through the products of their outputs with each other, `G[e][f] = expert_e(x) .
//! expert_f(x)`: with `r = chosen * (1 + logit) - 1` the squared error is `r' G r`. So the experts
//! run once, and the training is cheap.

use kinglet_kernels::{Cpu, Device, Format, Role, WeightData};

use crate::error::Result;
use crate::plan::Part;

/// Tokens whose products are made at once.
const CHUNK: usize = 256;
/// Steps of the optimizer.
const STEPS: usize = 600;
/// Tokens of a step.
const BATCH: usize = 256;
/// The largest rate of learning; it falls to zero along a cosine.
const RATE: f32 = 0.01;
/// How soft the choice is for the gradient: the forward pass chooses hard.
const SOFTNESS: f32 = 0.3;
/// What the logits start from: experts that a greedy choice takes, and the others.
const START: f32 = 0.5;
/// Of the tokens, in order: trained on, then used to pick the best step, then held out for the
/// report. They come in the order of the drawings, so these are different drawings.
const SHARES: (f64, f64) = (0.7, 0.85);

/// A trained router.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trained {
    /// `[experts, hidden]`; empty if there was nothing to train on, or nothing to choose.
    pub weights: Vec<f32>,
    /// The relative L2 distance from the dense network's output on held-out tokens, of the router
    /// that is all zeros.
    pub untrained: f64,
    /// The same of this router.
    pub trained: f64,
    /// The same if the experts of each token were chosen greedily knowing all outputs, with the
    /// best factors: what no router can beat by much.
    pub informed: f64,
    /// Tokens that were held out.
    pub held_out: usize,
}

impl Trained {
    /// What the report says.
    pub fn note(&self, layer: usize, width: usize) -> String {
        if self.weights.is_empty() {
            return format!("layer {layer}: experts of {width} neurons, router of zeros");
        }
        format!(
            "layer {layer}: experts of {width} neurons; distance from the dense network on {} \
             held-out tokens {:.3}, with a router of zeros {:.3}, with the best choice {:.3}",
            self.held_out, self.trained, self.untrained, self.informed
        )
    }
}

/// Trains the router of a layer that chooses `used` of `experts` (gate, up and down of each) on the
/// rows `inputs`, `[tokens, hidden]`.
///
/// # Errors
/// What decoding and the device refuse.
pub fn train(
    experts: &[[Part; 3]],
    shared: Option<&[Part; 3]>,
    inputs: &[f32],
    hidden: usize,
    used: usize,
) -> Result<Trained> {
    let tokens = inputs.len() / hidden.max(1);
    if used == experts.len() || used == 0 || tokens < 8 {
        return Ok(Trained::default());
    }
    let products = Products::new(experts, shared, inputs, hidden)?;
    let at = |share: f64| (tokens as f64 * share) as usize;
    let (first, second) = (at(SHARES.0), at(SHARES.1));
    let mut training = Training {
        products: &products,
        inputs,
        hidden,
        used,
        scale: scales(inputs, hidden),
    };
    let weights = training.run(0..first, first..second);
    let held_out = second..tokens;
    Ok(Trained {
        untrained: training.distance(&vec![0.0; weights.len()], held_out.clone()),
        trained: training.distance(&weights, held_out.clone()),
        informed: training.informed(held_out.clone()),
        held_out: held_out.len(),
        weights,
    })
}

/// For every token the products of its experts' outputs with each other.
struct Products {
    experts: usize,
    /// `[tokens, experts, experts]`.
    values: Vec<f32>,
    /// The squared length of the dense network's output of each token.
    dense: Vec<f32>,
}

impl Products {
    fn new(
        experts: &[[Part; 3]],
        shared: Option<&[Part; 3]>,
        inputs: &[f32],
        hidden: usize,
    ) -> Result<Self> {
        let d = Cpu::from_environment()?;
        let load = |parts: &[Part; 3]| -> Result<[_; 3]> {
            let [gate, up, down] = parts;
            Ok([weight(&d, gate)?, weight(&d, up)?, weight(&d, down)?])
        };
        let loaded = experts.iter().map(load).collect::<Result<Vec<_>>>()?;
        let shared = shared.map(load).transpose()?;
        let count = experts.len();
        let mut products = Products {
            experts: count,
            values: Vec::new(),
            dense: Vec::new(),
        };
        for rows in inputs.chunks(CHUNK * hidden) {
            let x = d.upload(rows, hidden)?;
            let output = |[gate, up, down]: &[_; 3]| -> Result<Vec<f32>> {
                Ok(d.download(&d.matmul(&d.gated(&x, gate, up)?, down, None)?)?)
            };
            let outputs = loaded.iter().map(output).collect::<Result<Vec<_>>>()?;
            let shared = shared.as_ref().map(output).transpose()?;
            for token in 0..rows.len() / hidden {
                let row = |of: &'_ [f32]| of[token * hidden..(token + 1) * hidden].to_vec();
                let mine: Vec<Vec<f32>> = outputs.iter().map(|o| row(o)).collect();
                let mut dense = shared.as_ref().map_or(vec![0.0; hidden], |s| row(s));
                for output in &mine {
                    dense.iter_mut().zip(output).for_each(|(sum, v)| *sum += v);
                }
                products.dense.push(dot(&dense, &dense));
                for a in &mine {
                    products.values.extend(mine.iter().map(|b| dot(a, b)));
                }
            }
        }
        Ok(products)
    }

    fn of(&self, token: usize) -> &[f32] {
        let size = self.experts * self.experts;
        &self.values[token * size..(token + 1) * size]
    }

    /// `G r` of a token.
    fn times(&self, token: usize, r: &[f32]) -> Vec<f32> {
        let rows = self.of(token).chunks_exact(self.experts);
        rows.map(|row| dot(row, r)).collect()
    }
}

fn weight(d: &Cpu, part: &Part) -> Result<<Cpu as Device>::Weight> {
    let bytes: Vec<u8> = part
        .decode()?
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    Ok(d.weight(WeightData {
        role: Role::Matrix,
        format: Format::F32,
        rows: part.rows(),
        cols: part.cols(),
        bytes: bytes.into(),
    })?)
}

struct Training<'a> {
    products: &'a Products,
    inputs: &'a [f32],
    hidden: usize,
    used: usize,
    /// What makes every column of the inputs as large as the others, so that one rate of learning
    /// suits all.
    scale: Vec<f32>,
}

impl Training<'_> {
    /// Weights for the inputs as they are: the best of `validation`.
    fn run(
        &mut self,
        training: std::ops::Range<usize>,
        validation: std::ops::Range<usize>,
    ) -> Vec<f32> {
        let experts = self.products.experts;
        let mut weights = self.start(training.clone());
        let mut best = (f64::INFINITY, weights.clone());
        let mut adam = Adam::new(weights.len());
        let dense = &self.products.dense[training.clone()];
        let mean: f32 = dense.iter().sum::<f32>() / dense.len().max(1) as f32;
        for step in 0..=STEPS {
            if step % (STEPS / 20) == 0 {
                let distance = self.distance_of_scaled(&weights, validation.clone());
                if distance < best.0 {
                    best = (distance, weights.clone());
                }
            }
            let mut gradient = vec![0.0; weights.len()];
            for i in 0..BATCH {
                // A stride without a factor in common spreads a batch over the drawings.
                let token = training.start + (step * BATCH + i) * 7919 % training.len();
                let x = self.scaled(token);
                let logits = logits(&weights, &x);
                let slope = self.slope(token, &logits, 1.0 / (mean * BATCH as f32));
                for (row, slope) in gradient.chunks_exact_mut(self.hidden).zip(slope) {
                    row.iter_mut().zip(&x).for_each(|(g, x)| *g += slope * x);
                }
            }
            let progress = step as f32 / STEPS as f32;
            let rate = RATE * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos());
            adam.step(&mut weights, &gradient, rate);
        }
        let mut weights = best.1;
        for row in weights.chunks_exact_mut(self.hidden) {
            row.iter_mut().zip(&self.scale).for_each(|(w, s)| *w *= s);
        }
        debug_assert_eq!(weights.len(), experts * self.hidden);
        weights
    }

    /// Ridge regression onto the choice that a greedy selection would make: `W = T'X (X'X + aI)^-1`.
    fn start(&self, training: std::ops::Range<usize>) -> Vec<f32> {
        let (h, experts) = (self.hidden, self.products.experts);
        let mut square = vec![0.0f64; h * h];
        let mut right = vec![0.0f64; experts * h];
        for token in training.clone() {
            let x = self.scaled(token);
            for (row, a) in square.chunks_exact_mut(h).zip(&x) {
                let a = f64::from(*a);
                row.iter_mut()
                    .zip(&x)
                    .for_each(|(s, b)| *s += a * f64::from(*b));
            }
            let (chosen, _) = self.greedy(token);
            for (row, chosen) in right.chunks_exact_mut(h).zip(chosen) {
                let target = f64::from(if chosen { START } else { -START });
                row.iter_mut()
                    .zip(&x)
                    .for_each(|(s, b)| *s += target * f64::from(*b));
            }
        }
        // The inputs' mean square is 1 in every column.
        let ridge = training.len() as f64 * 0.03;
        (0..h).for_each(|i| square[i * h + i] += ridge);
        cholesky(&mut square, h);
        for row in right.chunks_exact_mut(h) {
            solve(&square, row);
        }
        right.into_iter().map(|v| v as f32).collect()
    }

    /// The experts that leave the least error one after another, and the error with the best
    /// factors on the way.
    fn greedy(&self, token: usize) -> (Vec<bool>, f32) {
        let experts = self.products.experts;
        let products = self.products.of(token);
        let mut chosen = vec![false; experts];
        let mut r = vec![-1.0f32; experts];
        for _ in 0..self.used {
            let slopes = self.products.times(token, &r);
            let gain = |e: usize| -> f32 {
                let own = products[e * experts + e].max(f32::MIN_POSITIVE);
                slopes[e] * slopes[e] / own
            };
            let best = (0..experts)
                .filter(|e| !chosen[*e])
                .max_by(|a, b| gain(*a).total_cmp(&gain(*b)));
            let Some(best) = best else { break };
            chosen[best] = true;
            // All factors so far anew: a few rounds of descent one by one.
            for _ in 0..4 {
                for e in (0..experts).filter(|e| chosen[*e]) {
                    let row = &products[e * experts..(e + 1) * experts];
                    let own = row[e].max(f32::MIN_POSITIVE);
                    r[e] -= dot(row, &r) / own;
                }
            }
        }
        let error = dot(&r, &self.products.times(token, &r));
        (chosen, error)
    }

    /// The derivative of a token's squared error by its logits, times `factor`. The choice is hard;
    /// for the derivative it counts as a sigmoid around the border between chosen and not.
    fn slope(&self, token: usize, logits: &[f32], factor: f32) -> Vec<f32> {
        let (chosen, border) = choose(logits, self.used);
        let pull = self.products.times(token, &residual(logits, &chosen));
        let slope = |e: usize| {
            let soft = 1.0 / (1.0 + (-(logits[e] - border) / SOFTNESS).exp());
            let choice = (1.0 + logits[e]) * soft * (1.0 - soft) / SOFTNESS;
            let direct = if chosen[e] { 1.0 } else { 0.0 };
            2.0 * factor * pull[e] * (direct + choice)
        };
        (0..logits.len()).map(slope).collect()
    }

    fn scaled(&self, token: usize) -> Vec<f32> {
        let x = &self.inputs[token * self.hidden..(token + 1) * self.hidden];
        x.iter().zip(&self.scale).map(|(x, s)| x * s).collect()
    }

    fn distance_of_scaled(&self, weights: &[f32], tokens: std::ops::Range<usize>) -> f64 {
        self.mean(tokens, |token| {
            self.error(token, weights, &self.scaled(token))
        })
    }

    /// The relative L2 distance from the dense network, of weights for the inputs as they are.
    fn distance(&self, weights: &[f32], tokens: std::ops::Range<usize>) -> f64 {
        self.mean(tokens, |token| {
            let x = &self.inputs[token * self.hidden..(token + 1) * self.hidden];
            self.error(token, weights, x)
        })
    }

    fn informed(&self, tokens: std::ops::Range<usize>) -> f64 {
        self.mean(tokens, |token| self.greedy(token).1)
    }

    fn error(&self, token: usize, weights: &[f32], x: &[f32]) -> f32 {
        let logits = logits(weights, x);
        let (chosen, _) = choose(&logits, self.used);
        let r = residual(&logits, &chosen);
        dot(&r, &self.products.times(token, &r))
    }

    fn mean(&self, tokens: std::ops::Range<usize>, error: impl Fn(usize) -> f32) -> f64 {
        let all: f64 = tokens
            .clone()
            .map(|t| f64::from(self.products.dense[t]))
            .sum();
        let off: f64 = tokens.map(|t| f64::from(error(t)).max(0.0)).sum();
        (off / all.max(f64::MIN_POSITIVE)).sqrt()
    }
}

/// One over the root mean square of every column.
fn scales(inputs: &[f32], hidden: usize) -> Vec<f32> {
    let mut squares = vec![0.0f64; hidden];
    for row in inputs.chunks_exact(hidden) {
        for (sum, v) in squares.iter_mut().zip(row) {
            *sum += f64::from(*v).powi(2);
        }
    }
    let rows = (inputs.len() / hidden).max(1) as f64;
    squares
        .into_iter()
        .map(|sum| match sum > 0.0 {
            true => (sum / rows).sqrt().recip() as f32,
            false => 0.0,
        })
        .collect()
}

fn logits(weights: &[f32], x: &[f32]) -> Vec<f32> {
    weights
        .chunks_exact(x.len())
        .map(|row| dot(row, x))
        .collect()
}

/// The `used` largest logits, of equals the first, as the kernels choose; and the value halfway
/// between the least that is chosen and the largest that is not.
fn choose(logits: &[f32], used: usize) -> (Vec<bool>, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let mut chosen = vec![false; logits.len()];
    for e in &order[..used] {
        chosen[*e] = true;
    }
    let border = 0.5 * (logits[order[used - 1]] + logits[order[used]]);
    (chosen, border)
}

fn residual(logits: &[f32], chosen: &[bool]) -> Vec<f32> {
    let one = |(logit, chosen): (&f32, &bool)| if *chosen { *logit } else { -1.0 };
    logits.iter().zip(chosen).map(one).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side: what the compiler can keep in one register.
    let mut sums = [0.0f32; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The Cholesky factor of a symmetric positive matrix, in its lower half.
fn cholesky(a: &mut [f64], n: usize) {
    for j in 0..n {
        for i in j..n {
            let (low, high) = a.split_at(i * n);
            let row_j = if i == j {
                &high[..n]
            } else {
                &low[j * n..(j + 1) * n]
            };
            let sum: f64 = high[..j].iter().zip(&row_j[..j]).map(|(a, b)| a * b).sum();
            let value = high[j] - sum;
            a[i * n + j] = if i == j {
                value.max(f64::MIN_POSITIVE).sqrt()
            } else {
                value / a[j * n + j]
            };
        }
    }
}

/// Solves `L L' x = b` in `b`'s place.
fn solve(l: &[f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| l[i * n + k] * b[k]).sum();
        b[i] = (b[i] - sum) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| l[k * n + i] * b[k]).sum();
        b[i] = (b[i] - sum) / l[i * n + i];
    }
}

/// Adam (Kingma and Ba, 2015).
struct Adam {
    mean: Vec<f32>,
    square: Vec<f32>,
    steps: i32,
}

impl Adam {
    fn new(len: usize) -> Self {
        Adam {
            mean: vec![0.0; len],
            square: vec![0.0; len],
            steps: 0,
        }
    }

    fn step(&mut self, weights: &mut [f32], gradient: &[f32], rate: f32) {
        const MEAN: f32 = 0.9;
        const SQUARE: f32 = 0.99;
        self.steps += 1;
        let (m, s) = (1.0 - MEAN.powi(self.steps), 1.0 - SQUARE.powi(self.steps));
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((w, g), (mean, square)) in weights.iter_mut().zip(gradient).zip(moments) {
            *mean = MEAN * *mean + (1.0 - MEAN) * g;
            *square = SQUARE * *square + (1.0 - SQUARE) * g * g;
            *w -= rate * (*mean / m) / ((*square / s).sqrt() + 1e-8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_of_equations_is_solved() {
        let mut a = vec![4.0, 2.0, 0.0, 2.0, 5.0, 1.0, 0.0, 1.0, 3.0];
        cholesky(&mut a, 3);
        let mut b = vec![10.0, 17.0, 7.0];
        solve(&a, &mut b);
        let back = [
            4.0 * b[0] + 2.0 * b[1],
            2.0 * b[0] + 5.0 * b[1] + b[2],
            b[1] + 3.0 * b[2],
        ];
        for (got, expected) in back.iter().zip([10.0, 17.0, 7.0]) {
            assert!((got - expected).abs() < 1e-9, "{back:?}");
        }
    }
}
