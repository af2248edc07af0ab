//! Activations as small integers: blocks of 32 signed bytes with one scale.

use rayon::prelude::*;

use super::float;
use super::pack::{BLOCK, Layout};
use super::set::InstructionSet;

/// Rows of activations, quantized.
#[derive(Debug, Clone)]
pub(super) struct Activations {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `[rows, cols]`; where the layout's groups are 8 long, rows come in pairs: for every group of
    /// 8 values those of the first row, then those of the second (an odd number is filled up).
    pub(super) q: Vec<i8>,
    /// `[rows, cols / 32]`
    pub(super) scale: Vec<f32>,
    /// `scale` times the sum of the integers of each half of a block: `[rows, cols / 16]`
    pub(super) sums: Vec<f32>,
}

/// Whether rows come in pairs.
pub(super) const fn paired(layout: Layout) -> bool {
    layout.group == 8
}

impl Activations {
    /// Quantizes rows of `cols` values, a multiple of 32: `scale = max|x| / 127`, integers rounded to
    /// the nearest.
    pub(super) fn new(set: InstructionSet, x: &[f32], cols: usize) -> Self {
        let layout = Layout::of(set);
        let rows = x.len() / cols.max(1);
        let kept = if paired(layout) {
            rows.next_multiple_of(2)
        } else {
            rows
        };
        let blocks = cols / BLOCK;
        let mut out = Activations {
            rows,
            cols,
            q: vec![0; kept * cols],
            scale: vec![0.0; kept * blocks],
            sums: vec![0.0; kept * 2 * blocks],
        };
        if cols == 0 {
            return out;
        }
        // A few rows are done before threads have woken up.
        if rows < 8 {
            let integers = x.chunks(cols).zip(out.q.chunks_mut(cols));
            let scales = out.scale.chunks_mut(blocks);
            let scales = scales.zip(out.sums.chunks_mut(2 * blocks));
            for ((x, q), (scale, sums)) in integers.zip(scales) {
                float::quantize(set, x, q, scale, sums);
            }
        } else {
            let integers = x.par_chunks(cols).zip(out.q.par_chunks_mut(cols));
            let scales = out.scale.par_chunks_mut(blocks);
            let scales = scales.zip(out.sums.par_chunks_mut(2 * blocks));
            integers.zip(scales).for_each(|((x, q), (scale, sums))| {
                float::quantize(set, x, q, scale, sums);
            });
        }
        if paired(layout) {
            interleave(&mut out.q, cols);
        }
        out
    }

    /// Some of the rows. Not for paired layouts.
    pub(super) fn gather(&self, layout: Layout, ids: &[u32]) -> Self {
        let blocks = self.cols / BLOCK;
        let pick = |from: &[f32], width: usize| {
            let mut out = Vec::with_capacity(ids.len() * width);
            for id in ids {
                out.extend_from_slice(&from[*id as usize * width..][..width]);
            }
            out
        };
        let mut scale = pick(&self.scale, blocks);
        let mut sums = pick(&self.sums, 2 * blocks);
        let mut q = Vec::with_capacity(ids.len() * self.cols);
        if paired(layout) {
            for id in ids {
                let id = *id as usize;
                let pair = &self.q[id / 2 * 2 * self.cols..][..2 * self.cols];
                for group in pair.chunks_exact(16) {
                    q.extend_from_slice(&group[id % 2 * 8..][..8]);
                }
            }
            if ids.len() % 2 == 1 {
                q.resize(q.len() + self.cols, 0);
                scale.resize(scale.len() + blocks, 0.0);
                sums.resize(sums.len() + 2 * blocks, 0.0);
            }
            interleave(&mut q, self.cols);
        } else {
            for id in ids {
                q.extend_from_slice(&self.q[*id as usize * self.cols..][..self.cols]);
            }
        }
        Activations {
            rows: ids.len(),
            cols: self.cols,
            q,
            scale,
            sums,
        }
    }
}

/// Rows in pairs: 8 values of the first, 8 of the second, and so on.
fn interleave(q: &mut [i8], cols: usize) {
    let mut mixed = vec![0; 2 * cols];
    for pair in q.chunks_exact_mut(2 * cols) {
        let (first, second) = pair.split_at(cols);
        for (i, out) in mixed.chunks_exact_mut(16).enumerate() {
            out[..8].copy_from_slice(&first[i * 8..][..8]);
            out[8..].copy_from_slice(&second[i * 8..][..8]);
        }
        pair.copy_from_slice(&mixed);
    }
}
