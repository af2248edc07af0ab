//! Training a router alone, with the experts as they are (docs/model.md, 4.3).
//!
//! The mixture of a token is the sum of `(1 + logit) * expert(x)` over the experts with the largest
//! logits; it shall be near the dense network, the sum over all. How far it is off depends on the
//! experts only through the products of their outputs with each other, `G[e][f] = expert_e(x) .
//! expert_f(x)`: with `r = chosen * (1 + logit) - 1` the squared error is `r' G r`. So the experts
//! run once.
//!
//! The logits are a linear map of the input, found by ridge regression: what it shall predict, how
//! much it is held back and how large the logits are is what does best on tokens that it was not
//! fitted on. (Descending along the error itself, with a soft choice for the gradient, was tried
//! from there: it fits the tokens at hand better and others worse.)

use std::ops::Range;

use kinglet_kernels::{Cpu, Device, Format, Role, WeightData};

use crate::error::Result;
use crate::plan::Part;

/// Tokens whose products are made at once.
const CHUNK: usize = 256;
/// How much the regression is held back, as a share of the inputs' mean square.
const RIDGES: [f64; 4] = [0.003, 0.03, 0.1, 0.3];
/// The standard deviation of the logits. Their order chooses experts whatever their size; their size
/// says how unequal the factors of the chosen ones are.
const SIZES: [f32; 6] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.5];
/// What is added to an expert's square length before its logarithm is taken, as a share of the mean.
const FLOOR: f32 = 0.01;
/// Of the tokens, in order: fitted on, then used to pick the best fit, then held out for the
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
    let training = Training {
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
    /// Weights for the inputs as they are: those that do best on `validation`, then fitted on both.
    fn run(&self, first: Range<usize>, validation: Range<usize>) -> Vec<f32> {
        let mut best = (f64::INFINITY, 0, 0, 0.0);
        let sums = self.sums(first.clone());
        for (r, ridge) in RIDGES.into_iter().enumerate() {
            for (t, weights) in sums.solve(ridge).into_iter().enumerate() {
                for size in SIZES {
                    let distance = self.distance(&scaled_by(&weights, size), validation.clone());
                    if distance < best.0 {
                        best = (distance, r, t, size);
                    }
                }
            }
        }
        let (_, ridge, target, size) = best;
        let both = self.sums(first.start..validation.end);
        let mut fitted = both.solve(RIDGES[ridge]);
        scaled_by(&fitted.swap_remove(target), size)
    }

    /// What the regression needs of these tokens.
    fn sums(&self, tokens: Range<usize>) -> Sums {
        let (h, experts) = (self.hidden, self.products.experts);
        let mut sums = Sums {
            tokens: tokens.len(),
            square: vec![0.0; h * h],
            targets: [vec![0.0; experts * h], vec![0.0; experts * h]],
            scale: self.scale.clone(),
        };
        let dense = &self.products.dense[tokens.clone()];
        let mean = dense.iter().sum::<f32>() / (dense.len() * experts).max(1) as f32;
        for token in tokens {
            let x: Vec<f64> = self.scaled(token).into_iter().map(f64::from).collect();
            add_products(&mut sums.square, &x, &x);
            let products = self.products.of(token);
            let lengths = (0..experts).map(|e| products[e * experts + e]);
            let lengths = centred(lengths.map(|l| (l + FLOOR * mean).max(f32::MIN_POSITIVE).ln()));
            let (chosen, _) = self.greedy(token);
            let chosen = centred(chosen.into_iter().map(|c| f32::from(u8::from(c))));
            add_products(&mut sums.targets[0], &lengths, &x);
            add_products(&mut sums.targets[1], &chosen, &x);
        }
        sums
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

    fn scaled(&self, token: usize) -> Vec<f32> {
        let x = &self.inputs[token * self.hidden..(token + 1) * self.hidden];
        x.iter().zip(&self.scale).map(|(x, s)| x * s).collect()
    }

    /// The relative L2 distance from the dense network, of weights for the inputs as they are.
    fn distance(&self, weights: &[f32], tokens: Range<usize>) -> f64 {
        self.mean(tokens, |token| {
            let x = &self.inputs[token * self.hidden..(token + 1) * self.hidden];
            self.error(token, weights, x)
        })
    }

    fn informed(&self, tokens: Range<usize>) -> f64 {
        self.mean(tokens, |token| self.greedy(token).1)
    }

    fn error(&self, token: usize, weights: &[f32], x: &[f32]) -> f32 {
        let logits = logits(weights, x);
        let chosen = choose(&logits, self.used);
        let r = residual(&logits, &chosen);
        dot(&r, &self.products.times(token, &r))
    }

    fn mean(&self, tokens: Range<usize>, error: impl Fn(usize) -> f32) -> f64 {
        let all: f64 = tokens
            .clone()
            .map(|t| f64::from(self.products.dense[t]))
            .sum();
        let off: f64 = tokens.map(|t| f64::from(error(t)).max(0.0)).sum();
        (off / all.max(f64::MIN_POSITIVE)).sqrt()
    }
}

/// Ridge regression of two targets, the logarithm of each expert's length and whether a greedy choice
/// takes it, on the scaled inputs.
struct Sums {
    tokens: usize,
    /// `X' X`, `[hidden, hidden]`.
    square: Vec<f64>,
    /// `T' X`, `[experts, hidden]` each.
    targets: [Vec<f64>; 2],
    scale: Vec<f32>,
}

impl Sums {
    /// `T' X (X' X + ridge)^-1` for the inputs as they are, of each target, `[experts, hidden]`; the
    /// logits of these tokens have about the standard deviation 1.
    fn solve(&self, ridge: f64) -> Vec<Vec<f32>> {
        let h = self.scale.len();
        let mut square = self.square.clone();
        // The scaled inputs' mean square is 1 in every column.
        (0..h).for_each(|i| square[i * h + i] += self.tokens as f64 * ridge);
        cholesky(&mut square, h);
        let solved = self.targets.iter().map(|right| {
            let mut weights = right.clone();
            weights
                .chunks_exact_mut(h)
                .for_each(|row| solve(&square, row));
            // The logits' mean square: w' X'X w of each expert, over tokens and experts.
            let squares: f64 = weights
                .chunks_exact(h)
                .zip(right.chunks_exact(h))
                .map(|(w, r)| {
                    let shrunk = w.iter().map(|w| w * w).sum::<f64>() * self.tokens as f64 * ridge;
                    w.iter().zip(r).map(|(w, r)| w * r).sum::<f64>() - shrunk
                })
                .sum();
            let values = (self.tokens * right.len() / h.max(1)).max(1) as f64;
            let deviation = (squares / values).sqrt().max(f64::MIN_POSITIVE);
            let scale = self.scale.iter().cycle();
            weights
                .iter()
                .zip(scale)
                .map(|(w, s)| (w / deviation) as f32 * s)
                .collect()
        });
        solved.collect()
    }
}

fn scaled_by(weights: &[f32], factor: f32) -> Vec<f32> {
    weights.iter().map(|w| w * factor).collect()
}

/// Values less their mean.
fn centred(values: impl Iterator<Item = f32>) -> Vec<f64> {
    let values: Vec<f64> = values.map(f64::from).collect();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    values.into_iter().map(|v| v - mean).collect()
}

/// Adds `a[i] * b[j]` to a matrix.
fn add_products(sums: &mut [f64], a: &[f64], b: &[f64]) {
    for (row, a) in sums.chunks_exact_mut(b.len()).zip(a) {
        row.iter_mut().zip(b).for_each(|(s, b)| *s += a * b);
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

/// The `used` largest logits, of equals the first, as the kernels choose.
fn choose(logits: &[f32], used: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let mut chosen = vec![false; logits.len()];
    for e in &order[..used] {
        chosen[*e] = true;
    }
    chosen
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Experts of one neuron each on two inputs; which matter depends on the input's sign.
    #[test]
    fn a_trained_router_is_nearer_to_the_dense_network_than_zeros() {
        const HIDDEN: usize = 8;
        let part = |at: usize, rows: usize, value: f32| {
            let mut values = vec![0.0; HIDDEN];
            values[at] = value;
            Part::made("m".to_owned(), &values, HIDDEN / rows)
        };
        let expert = |e: usize| {
            let direction = e / 2;
            let sign = if e.is_multiple_of(2) { 4.0 } else { -4.0 };
            let down = part(direction, HIDDEN, 1.0);
            [part(direction, 1, sign), part(direction, 1, sign), down]
        };
        let experts: Vec<[Part; 3]> = (0..8).map(expert).collect();
        let inputs: Vec<f32> = (0..400 * HIDDEN)
            .map(|i| ((i * i) as f32 * 0.37).sin())
            .collect();
        let trained = train(&experts, None, &inputs, HIDDEN, 4).unwrap();
        assert_eq!(trained.weights.len(), 8 * HIDDEN);
        assert!(trained.trained < 0.5 * trained.untrained, "{trained:?}");
        assert!(trained.informed <= trained.trained + 1e-3, "{trained:?}");
    }

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
