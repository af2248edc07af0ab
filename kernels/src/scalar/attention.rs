//! Softmax attention and rotary positions.

use rayon::prelude::*;

use super::{KeysValues, Matrix, matmul::dot};
use crate::device::{AttentionShape, Mask};
use crate::error::{KernelError, Result, same};

pub(super) fn attention(
    q: &Matrix,
    past: &[&KeysValues],
    k: &Matrix,
    v: &Matrix,
    shape: AttentionShape,
) -> Result<Matrix> {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        mask,
    } = shape;
    let width = kv_heads * head_dim;
    check(q, past.iter().map(|c| c.width), k, v, shape)?;

    // Runs of keys and values in order; the last one is the queries' own block.
    let mut runs: Vec<(&[f32], &[f32])> =
        past.iter().map(|c| (&c.keys[..], &c.values[..])).collect();
    runs.push((&k.values, &v.values));
    let before: usize = past.iter().map(|c| c.tokens()).sum();

    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut out = Matrix::new(q.rows, q.cols)?;
    out.values
        .par_chunks_mut(q.cols.max(1))
        .enumerate()
        .for_each(|(i, row)| {
            let visible = match mask {
                Mask::Full => before + k.rows,
                Mask::Causal => before + i + 1,
            };
            let mut weights = Vec::with_capacity(visible);
            for h in 0..heads {
                let query = &q.row(i)[h * head_dim..(h + 1) * head_dim];
                let at = h / (heads / kv_heads) * head_dim;
                weights.clear();
                let keys = runs.iter().flat_map(|(k, _)| k.chunks_exact(width));
                weights.extend(
                    keys.take(visible)
                        .map(|key| scale * dot(query, &key[at..at + head_dim])),
                );
                softmax(&mut weights);
                let sum = &mut row[h * head_dim..(h + 1) * head_dim];
                let values = runs.iter().flat_map(|(_, v)| v.chunks_exact(width));
                for (w, value) in weights.iter().zip(values) {
                    for (s, v) in sum.iter_mut().zip(&value[at..at + head_dim]) {
                        *s += w * v;
                    }
                }
            }
        });
    Ok(out)
}

/// Refuses operands that do not fit each other; `past` are the widths of the caches.
pub(crate) fn check(
    q: &Matrix,
    past: impl Iterator<Item = usize>,
    k: &Matrix,
    v: &Matrix,
    shape: AttentionShape,
) -> Result<()> {
    let sizes = |m: &Matrix| (m.rows, m.cols);
    check_shapes(sizes(q), past, sizes(k), sizes(v), shape)
}

/// The same by rows and columns alone.
pub(crate) fn check_shapes(
    q: (usize, usize),
    past: impl Iterator<Item = usize>,
    k: (usize, usize),
    v: (usize, usize),
    shape: AttentionShape,
) -> Result<()> {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        mask,
    } = shape;
    let width = kv_heads * head_dim;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(KernelError::Shape {
            operation: "attention",
            what: "the number of key heads",
            got: kv_heads,
            expected: heads,
        });
    }
    same("attention", "the width of q", q.1, heads * head_dim)?;
    same("attention", "the width of k", k.1, width)?;
    same("attention", "the width of v", v.1, width)?;
    same("attention", "the rows of v", v.0, k.0)?;
    if mask == Mask::Causal {
        same("attention", "the rows of k", k.0, q.0)?;
    }
    for cache in past {
        same("attention", "the width of the cache", cache, width)?;
    }
    Ok(())
}

fn softmax(x: &mut [f32]) {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in x.iter_mut() {
        *v = (*v - largest).exp();
        sum += *v;
    }
    for v in x {
        *v /= sum;
    }
}

/// The frequencies of a head's pairs, for rows of whole heads with one position each.
pub(crate) fn frequencies(
    (rows, cols): (usize, usize),
    positions: &[u32],
    head_dim: usize,
    theta: f32,
) -> Result<Vec<f32>> {
    same("rope", "the number of positions", positions.len(), rows)?;
    if head_dim == 0 || !head_dim.is_multiple_of(2) || !cols.is_multiple_of(head_dim) {
        return Err(KernelError::Shape {
            operation: "rope",
            what: "the head length",
            got: head_dim,
            expected: cols,
        });
    }
    let of = |j: usize| 1.0 / theta.powf((2 * j) as f32 / head_dim as f32);
    Ok((0..head_dim / 2).map(of).collect())
}

pub(super) fn rope(x: &mut Matrix, positions: &[u32], head_dim: usize, theta: f32) -> Result<()> {
    let half = head_dim / 2;
    let frequencies = frequencies((x.rows, x.cols), positions, head_dim, theta)?;
    for (row, position) in x.values.chunks_mut(x.cols).zip(positions) {
        let turns: Vec<(f32, f32)> = frequencies
            .iter()
            .map(|f| (*position as f32 * f).sin_cos())
            .collect();
        for head in row.chunks_mut(head_dim) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (sin, cos)) in first.iter_mut().zip(second).zip(&turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
    Ok(())
}
