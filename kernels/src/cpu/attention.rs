//! Softmax attention, keys passing by in pieces: as matrix products where there are several queries, by
//! dot products where there are few (decoding).
//!
//! A query keeps the largest score so far, the sum of the exponentials below it and their sum of values;
//! when a larger score comes, both sums shrink by the difference (Milakov and Gimelshein, 2018). No
//! query ever has all its scores in memory.

use super::cache::{Cache, Part};
use super::matmul::Shared;
use super::pool;
use super::set::InstructionSet;
use super::{float, gemm};
use crate::device::{AttentionShape, Mask};
use crate::error::Result;
use crate::scalar::{self, Matrix};

/// Fewer queries than this are done by dot products: laying out the keys would cost more.
pub(crate) const FEW: usize = 4;
/// Queries that one task takes.
const QUERIES: usize = 24;
/// Keys of a piece: a whole number of tiles of every set.
const PIECE: usize = 256;
/// Keys that a task of few queries takes at least.
const LEAST: usize = 512;

/// Everything that a query may look at.
struct Past<'a> {
    /// Keys and values, in order.
    runs: Vec<(Part<'a>, Part<'a>)>,
    /// Values of a token's keys, all heads together.
    width: usize,
    keys: usize,
    /// Keys before the queries' own block.
    before: usize,
}

impl Past<'_> {
    /// How many keys query `i` sees.
    fn visible(&self, mask: Mask, i: usize) -> usize {
        match mask {
            Mask::Full => self.keys,
            Mask::Causal => self.before + i + 1,
        }
    }

    /// Calls `f` with the number, key and value of the keys `from..to` of the head at `at`.
    fn each(
        &self,
        set: InstructionSet,
        (from, to): (usize, usize),
        (at, head_dim): (usize, usize),
        mut f: impl FnMut(usize, &[f32], &[f32]),
    ) {
        let mut room = vec![0.0; 2 * head_dim];
        let (key_room, value_room) = room.split_at_mut(head_dim);
        let mut first = 0;
        for (keys, values) in &self.runs {
            let n = keys.len() / self.width;
            for i in from.max(first)..to.min(first + n) {
                let at = (i - first) * self.width + at;
                let key = keys.row(set, at, head_dim, key_room);
                f(i, key, values.row(set, at, head_dim, value_room));
            }
            first += n;
        }
    }
}

/// What a query has summed up so far.
#[derive(Clone)]
struct Sums {
    /// The largest scaled score.
    largest: f32,
    /// `exp(score - largest)`, summed.
    weight: f32,
    /// The same times the values.
    values: Vec<f32>,
}

pub(super) fn attention(
    set: InstructionSet,
    q: &Matrix,
    past: &[&Cache],
    k: &Matrix,
    v: &Matrix,
    shape: AttentionShape,
) -> Result<Matrix> {
    scalar::check_attention(q, past.iter().map(|c| c.width), k, v, shape)?;
    let width = shape.kv_heads * shape.head_dim;
    let before: usize = past.iter().map(|c| c.tokens()).sum();
    let mut runs: Vec<_> = past.iter().map(|c| c.parts()).collect();
    runs.push((Part::Full(&k.values), Part::Full(&v.values)));
    let past = Past {
        runs,
        width,
        keys: before + k.rows,
        before,
    };
    let mut out = Matrix::new(q.rows, q.cols)?;
    if q.rows == 0 || past.keys == 0 || shape.head_dim == 0 {
        return Ok(out);
    }
    if q.rows < FEW {
        few(set, q, &past, shape, &mut out);
    } else {
        many(set, q, &past, shape, &mut out);
    }
    Ok(out)
}

/// Tasks are heads of keys and, where there are many keys, stretches of them.
fn few(set: InstructionSet, q: &Matrix, past: &Past<'_>, shape: AttentionShape, out: &mut Matrix) {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        mask,
    } = shape;
    let group = heads / kv_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let most = past.keys.div_ceil(LEAST);
    let stretches = (2 * rayon::current_num_threads())
        .div_ceil(kv_heads)
        .clamp(1, most);
    let stretch = past.keys.div_ceil(stretches);
    let one = |task: usize| -> Vec<Sums> {
        let (h, from) = (task / stretches, task % stretches * stretch);
        let nothing = Sums {
            largest: f32::NEG_INFINITY,
            weight: 0.0,
            values: vec![0.0; head_dim],
        };
        let mut sums = vec![nothing; q.rows * group];
        let to = (from + stretch).min(past.keys);
        past.each(
            set,
            (from, to),
            (h * head_dim, head_dim),
            |n, key, value| {
                for (i, sums) in sums.chunks_exact_mut(group).enumerate() {
                    if n >= past.visible(mask, i) {
                        continue;
                    }
                    for (j, sums) in sums.iter_mut().enumerate() {
                        let query = &q.row(i)[(h * group + j) * head_dim..][..head_dim];
                        let mut score = [0.0];
                        gemm::dots(set, query, key, head_dim, &mut score);
                        sums.add(set, scale * score[0], value);
                    }
                }
            },
        );
        sums
    };
    let tasks = kv_heads * stretches;
    let done: Vec<Vec<Sums>> = if past.keys * q.cols * q.rows < 1 << 16 {
        (0..tasks).map(one).collect()
    } else {
        pool::map(tasks, one)
    };
    for (h, stretches) in done.chunks_exact(stretches).enumerate() {
        for at in 0..q.rows * group {
            let all = || stretches.iter().map(|sums| &sums[at]);
            let largest = all().map(|s| s.largest).fold(f32::NEG_INFINITY, f32::max);
            let share = |s: &Sums| (s.largest - largest).exp();
            let weight: f32 = all().map(|s| share(s) * s.weight).sum();
            let (i, head) = (at / group, h * group + at % group);
            let out = &mut out.values[i * q.cols + head * head_dim..][..head_dim];
            for s in all().filter(|s| s.weight > 0.0) {
                float::add_scaled(set, out, share(s) / weight, &s.values);
            }
        }
    }
}

impl Sums {
    fn add(&mut self, set: InstructionSet, score: f32, value: &[f32]) {
        if score > self.largest {
            let factor = (self.largest - score).exp();
            self.largest = score;
            self.weight *= factor;
            for v in &mut self.values {
                *v *= factor;
            }
        }
        let weight = (score - self.largest).exp();
        self.weight += weight;
        float::add_scaled(set, &mut self.values, weight, value);
    }
}

/// Keys and values of one head, laid out for products.
struct Head {
    /// `[tile of keys][value of a key][key of the tile]`
    keys: Vec<f32>,
    /// `[key][value, filled up to whole tiles]`
    values: Vec<f32>,
}

fn many(set: InstructionSet, q: &Matrix, past: &Past<'_>, shape: AttentionShape, out: &mut Matrix) {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        mask,
    } = shape;
    let group = heads / kv_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let tile = gemm::tile(set);
    let tiles = head_dim.div_ceil(tile);
    let laid: Vec<Head> = pool::map(kv_heads, |h| {
        Head::new(set, past, (h * head_dim, head_dim), tile)
    });
    let shared = Shared(out.values.as_mut_ptr());
    let chunks = q.rows.div_ceil(QUERIES);
    pool::for_each(heads * chunks, |task| {
        let (h, chunk) = (task / chunks, task % chunks);
        let head = &laid[h / group];
        let first = chunk * QUERIES;
        let queries: Vec<&[f32]> = (first..(first + QUERIES).min(q.rows))
            .map(|i| &q.row(i)[h * head_dim..][..head_dim])
            .collect();
        let n = queries.len();
        let seen = past.visible(mask, first + n - 1);
        let mut scores = vec![0.0; n * PIECE];
        let mut products = vec![0.0; n * tile];
        let mut largest = vec![f32::NEG_INFINITY; n];
        let mut weight = vec![0.0; n];
        // `[tile of values][query][value of the tile]`
        let mut sums = vec![0.0; tiles * n * tile];
        for from in (0..seen).step_by(PIECE) {
            let to = (from + PIECE).min(seen);
            for at in (from..to).step_by(tile) {
                let keys = &head.keys[at * head_dim..][..head_dim * tile];
                products.fill(0.0);
                gemm::gemm(set, keys, tile, head_dim, &queries, &mut products);
                let products = products.chunks_exact(tile);
                for (scores, products) in scores.chunks_exact_mut(PIECE).zip(products) {
                    scores[at - from..][..tile].copy_from_slice(products);
                }
            }
            for (i, scores) in scores.chunks_exact_mut(PIECE).enumerate() {
                let end = past.visible(mask, first + i).clamp(from, to) - from;
                let (scores, hidden) = scores.split_at_mut(end);
                hidden.fill(0.0);
                let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max) * scale;
                if most > largest[i] {
                    let factor = (largest[i] - most).exp();
                    largest[i] = most;
                    weight[i] *= factor;
                    for t in 0..tiles {
                        for v in &mut sums[(t * n + i) * tile..][..tile] {
                            *v *= factor;
                        }
                    }
                }
                if end > 0 {
                    float::exponentials(set, scores, scale, -largest[i], &mut weight[i]);
                }
            }
            let scores: Vec<&[f32]> = (scores.chunks_exact(PIECE))
                .map(|scores| &scores[..to - from])
                .collect();
            for (t, sums) in sums.chunks_exact_mut(n * tile).enumerate() {
                let values = &head.values[from * tiles * tile + t * tile..];
                gemm::gemm(set, values, tiles * tile, to - from, &scores, sums);
            }
        }
        for (t, sums) in sums.chunks_exact_mut(n * tile).enumerate() {
            let valid = tile.min(head_dim - t * tile);
            for (i, sums) in sums.chunks_exact_mut(tile).enumerate() {
                for v in sums.iter_mut() {
                    *v /= weight[i];
                }
                let at = (first + i) * q.cols + h * head_dim + t * tile;
                // SAFETY: the query and the head are within `out`, and no other task has them.
                unsafe { shared.write(at, &sums[..valid]) };
            }
        }
    });
}

impl Head {
    fn new(
        set: InstructionSet,
        past: &Past<'_>,
        (at, head_dim): (usize, usize),
        tile: usize,
    ) -> Self {
        let padded = head_dim.next_multiple_of(tile);
        let mut keys = vec![0.0; past.keys.next_multiple_of(tile) * head_dim];
        // The last row of values is followed by a whole tile.
        let mut values = vec![0.0; past.keys * padded + tile];
        past.each(set, (0, past.keys), (at, head_dim), |i, k, v| {
            let place = &mut keys[i / tile * tile * head_dim + i % tile..];
            for (place, k) in place.iter_mut().step_by(tile).zip(k) {
                *place = *k;
            }
            values[i * padded..][..head_dim].copy_from_slice(v);
        });
        Head { keys, values }
    }
}
