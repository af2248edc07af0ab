//! Softmax attention: as matrix products where there are several queries, by dot products where there
//! are few (decoding).

use rayon::prelude::*;

use super::float;
use super::matmul::Shared;
use super::set::InstructionSet;
use crate::device::{AttentionShape, Mask};
use crate::error::Result;
use crate::scalar::{self, KeysValues, Matrix};

/// Fewer queries than this are done by dot products: laying out the keys would cost more.
const FEW: usize = 4;
/// Queries that one task takes.
const QUERIES: usize = 24;

/// Keys and values of one head, laid out for products.
struct Head {
    /// `[tile of keys][value of a key][key of the tile]`
    keys: Vec<f32>,
    /// `[key][value, filled up to whole tiles]`
    values: Vec<f32>,
}

pub(super) fn attention(
    set: InstructionSet,
    q: &Matrix,
    past: &[&KeysValues],
    k: &Matrix,
    v: &Matrix,
    shape: AttentionShape,
) -> Result<Matrix> {
    scalar::check_attention(q, past, k, v, shape)?;
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        mask,
    } = shape;
    let width = kv_heads * head_dim;
    let mut runs: Vec<(&[f32], &[f32])> = past.iter().map(|c| c.slices()).collect();
    runs.push((&k.values, &v.values));
    let before: usize = past.iter().map(|c| c.tokens()).sum();
    let keys = before + k.rows;
    let visible = |i: usize| match mask {
        Mask::Full => keys,
        Mask::Causal => before + i + 1,
    };
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut out = Matrix::new(q.rows, q.cols)?;
    if q.rows == 0 || keys == 0 || head_dim == 0 {
        return Ok(out);
    }
    let group = heads / kv_heads;

    if q.rows < FEW {
        out.values
            .par_chunks_mut(head_dim)
            .with_min_len((1 << 15) / (keys * head_dim).max(1) + 1)
            .enumerate()
            .for_each(|(at, out)| {
                let (i, h) = (at / heads, at % heads);
                let query = &q.row(i)[h * head_dim..][..head_dim];
                let from = h / group * head_dim;
                let mut weights = vec![0.0; visible(i)];
                let mut rest = &mut weights[..];
                for (keys, _) in &runs {
                    let n = (keys.len() / width).min(rest.len());
                    let (part, after) = rest.split_at_mut(n);
                    if n > 0 {
                        float::dots(set, query, &keys[from..], width, part);
                    }
                    rest = after;
                }
                float::softmax(set, &mut weights, scale);
                let values = runs.iter().flat_map(|(_, v)| v.chunks_exact(width));
                for (w, value) in weights.iter().zip(values) {
                    float::add_scaled(set, out, *w, &value[from..from + head_dim]);
                }
            });
        return Ok(out);
    }

    let tile = float::tile(set);
    let padded = head_dim.next_multiple_of(tile);
    let laid: Vec<Head> = (0..kv_heads)
        .into_par_iter()
        .map(|h| Head::new(&runs, width, h * head_dim, head_dim, tile, padded))
        .collect();
    let shared = Shared(out.values.as_mut_ptr());
    let chunks = q.rows.div_ceil(QUERIES);
    (0..heads * chunks).into_par_iter().for_each(|task| {
        let (h, chunk) = (task / chunks, task % chunks);
        let head = &laid[h / group];
        let first = chunk * QUERIES;
        let queries: Vec<&[f32]> = (first..(first + QUERIES).min(q.rows))
            .map(|i| &q.row(i)[h * head_dim..][..head_dim])
            .collect();
        let seen = visible(first + queries.len() - 1);
        let mut weights = vec![0.0; queries.len() * keys];
        let mut products = vec![0.0; queries.len() * tile];
        for (t, keys_of_tile) in head.keys.chunks_exact(head_dim * tile).enumerate() {
            let from = t * tile;
            if from >= seen {
                break;
            }
            products.fill(0.0);
            float::gemm(set, keys_of_tile, tile, head_dim, &queries, &mut products);
            let n = tile.min(keys - from);
            for (weights, products) in weights
                .chunks_exact_mut(keys)
                .zip(products.chunks_exact(tile))
            {
                weights[from..from + n].copy_from_slice(&products[..n]);
            }
        }
        for (i, weights) in weights.chunks_exact_mut(keys).enumerate() {
            let (seen, hidden) = weights.split_at_mut(visible(first + i));
            float::softmax(set, seen, scale);
            hidden.fill(0.0);
        }
        let weights: Vec<&[f32]> = weights.chunks_exact(keys).map(|w| &w[..seen]).collect();
        for from in (0..head_dim).step_by(tile) {
            products.fill(0.0);
            float::gemm(
                set,
                &head.values[from..],
                padded,
                seen,
                &weights,
                &mut products,
            );
            let n = tile.min(head_dim - from);
            for (i, products) in products.chunks_exact(tile).enumerate() {
                let at = (first + i) * q.cols + h * head_dim + from;
                // SAFETY: the query and the head are within `out`, and no other task has them.
                unsafe { shared.write(at, &products[..n]) };
            }
        }
    });
    Ok(out)
}

impl Head {
    fn new(
        runs: &[(&[f32], &[f32])],
        width: usize,
        from: usize,
        head_dim: usize,
        tile: usize,
        padded: usize,
    ) -> Self {
        let all = |part: fn(&(&[f32], &[f32])) -> usize| runs.iter().map(part).sum::<usize>();
        let count = all(|r| r.0.len()) / width;
        let mut keys = vec![0.0; count.div_ceil(tile) * tile * head_dim];
        // The last row of values is followed by a whole tile.
        let mut values = vec![0.0; count * padded + tile];
        let rows = runs
            .iter()
            .flat_map(|(k, v)| k.chunks_exact(width).zip(v.chunks_exact(width)));
        for (i, (k, v)) in rows.enumerate() {
            let place = &mut keys[i / tile * tile * head_dim + i % tile..];
            for (j, k) in k[from..from + head_dim].iter().enumerate() {
                place[j * tile] = *k;
            }
            values[i * padded..][..head_dim].copy_from_slice(&v[from..from + head_dim]);
        }
        Head { keys, values }
    }
}
