//! Activations as small integers: blocks of 32 signed bytes with one scale.

use rayon::prelude::*;

use super::float;
use super::int8;
use super::pack::{BLOCK, Layout};
use super::set::InstructionSet;

/// Rows of activations, quantized, row by row.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    rows: usize,
    cols: usize,
    /// `[rows, cols]`
    q: Vec<i8>,
    /// `[rows, cols / 32]`
    scale: Vec<f32>,
    /// `scale` times the sum of the integers of each half of a block: `[rows, cols / 16]`
    sums: Vec<f32>,
}

/// The same in the order in which kernels read them: the groups of rows that a kernel takes at once
/// lie together, block by block, so that all of it is one stream.
#[derive(Debug, Clone)]
pub(super) struct Activations {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// For each group `[block][row][32]`; where the layout's groups are 8 long, rows come in pairs,
    /// `[block][pair][4][row of the pair][8]`, and an odd number of them is filled up.
    pub(super) q: Vec<i8>,
    /// For each group `[block][row]`.
    pub(super) scale: Vec<f32>,
    /// For each group `[block][half][row]`.
    pub(super) sums: Vec<f32>,
}

/// Whether rows come in pairs.
pub(super) const fn paired(layout: Layout) -> bool {
    layout.group == 8
}

impl Rows {
    /// Quantizes rows of `cols` values, a multiple of 32: `scale = max|x| / 127`, integers rounded to
    /// the nearest.
    pub(super) fn new(set: InstructionSet, x: &[f32], cols: usize) -> Self {
        let rows = x.len() / cols.max(1);
        let blocks = cols / BLOCK;
        let mut out = Rows {
            rows,
            cols,
            q: vec![0; rows * cols],
            scale: vec![0.0; rows * blocks],
            sums: vec![0.0; rows * 2 * blocks],
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
        out
    }

    /// The rows `ids`.
    pub(super) fn gather(&self, ids: &[u32]) -> Self {
        fn pick<T: Copy>(from: &[T], width: usize, ids: &[u32]) -> Vec<T> {
            let rows = ids.iter().map(|id| &from[*id as usize * width..][..width]);
            rows.flatten().copied().collect()
        }
        let blocks = self.cols / BLOCK;
        Rows {
            rows: ids.len(),
            cols: self.cols,
            q: pick(&self.q, self.cols, ids),
            scale: pick(&self.scale, blocks, ids),
            sums: pick(&self.sums, 2 * blocks, ids),
        }
    }

    /// The rows in the order of the set's kernels.
    pub(super) fn arrange(self, set: InstructionSet) -> Activations {
        let pairs = paired(Layout::of(set));
        if self.rows == 1 && !pairs {
            return Activations {
                rows: 1,
                cols: self.cols,
                q: self.q,
                scale: self.scale,
                sums: self.sums,
            };
        }
        let (cols, blocks) = (self.cols, self.cols / BLOCK);
        let kept = if pairs {
            self.rows.next_multiple_of(2)
        } else {
            self.rows
        };
        let mut out = Activations {
            rows: self.rows,
            cols,
            q: vec![0; kept * cols],
            scale: vec![0.0; kept * blocks],
            sums: vec![0.0; kept * 2 * blocks],
        };
        let mut first = 0;
        while first < self.rows {
            let n = int8::tokens(set, self.rows - first);
            let q = &mut out.q[first * cols..][..n * cols];
            let scale = &mut out.scale[first * blocks..][..n * blocks];
            let sums = &mut out.sums[first * 2 * blocks..][..n * 2 * blocks];
            for t in 0..n.min(self.rows - first) {
                let row = first + t;
                for b in 0..blocks {
                    let from = &self.q[row * cols + b * BLOCK..][..BLOCK];
                    if pairs {
                        let at = (b * n + t / 2 * 2) * BLOCK + t % 2 * 8;
                        for (i, eight) in from.as_chunks::<8>().0.iter().enumerate() {
                            q[at + 16 * i..][..8].copy_from_slice(eight);
                        }
                    } else {
                        q[(b * n + t) * BLOCK..][..BLOCK].copy_from_slice(from);
                    }
                    scale[b * n + t] = self.scale[row * blocks + b];
                    for half in 0..2 {
                        sums[(2 * b + half) * n + t] = self.sums[(row * blocks + b) * 2 + half];
                    }
                }
            }
            first += n;
        }
        out
    }
}
