//! Activations as small integers: blocks of 32 signed bytes with one scale.

use super::float;
use super::int8;
use super::kind::Layout;
use super::pack::BLOCK;
use super::pool::{self, Parts};
use super::set::InstructionSet;
use crate::scalar::Values;

/// Values of which a thread takes at least so many.
const ALONE: usize = 1 << 16;

/// Small integers in memory that is used again ([`Values`]).
#[derive(Debug, Clone)]
struct Small {
    memory: Values,
    len: usize,
}

impl Small {
    fn any(len: usize) -> Self {
        Small {
            memory: Values::any(len.div_ceil(size_of::<f32>())),
            len,
        }
    }

    fn as_slice(&self) -> &[i8] {
        // SAFETY: the memory holds at least `len` bytes, and every byte is an i8.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }

    fn as_mut_slice(&mut self) -> &mut [i8] {
        // SAFETY: as above; any four bytes are an f32 again, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

/// Rows of activations, quantized, row by row.
#[derive(Debug)]
pub(super) struct Rows {
    rows: usize,
    cols: usize,
    /// `[rows, cols]`
    q: Small,
    /// `[rows, cols / 32]`
    scale: Values,
    /// `scale` times the sum of the integers of each half of a block: `[rows, cols / 16]`
    sums: Values,
}

/// The same in the order in which kernels read them: the groups of rows that a kernel takes at once
/// lie together, block by block, so that all of it is one stream.
#[derive(Debug)]
pub(super) struct Activations {
    pub(super) rows: usize,
    pub(super) cols: usize,
    q: Small,
    /// For each group `[block][row]`.
    pub(super) scale: Values,
    /// For each group `[block][half][row]`.
    pub(super) sums: Values,
}

impl Activations {
    /// For each group `[block][row][32]`; where the layout's groups are 8 long, rows come in pairs,
    /// `[block][pair][4][row of the pair][8]`, and an odd number of them is filled up.
    pub(super) fn q(&self) -> &[i8] {
        self.q.as_slice()
    }
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
            q: Small::any(rows * cols),
            scale: Values::any(rows * blocks),
            sums: Values::any(rows * 2 * blocks),
        };
        if cols == 0 {
            return out;
        }
        let q = out.q.as_mut_slice();
        // A few rows are done before threads have woken up.
        if rows < 8 {
            let integers = x.chunks(cols).zip(q.chunks_mut(cols));
            let scales = out.scale.chunks_mut(blocks);
            let scales = scales.zip(out.sums.chunks_mut(2 * blocks));
            for ((x, q), (scale, sums)) in integers.zip(scales) {
                float::quantize(set, x, q, scale, sums);
            }
        } else {
            let some = (ALONE / cols).clamp(1, rows.div_ceil(2));
            let q = Parts::new(q, some * cols);
            let scale = Parts::new(&mut out.scale, some * blocks);
            let sums = Parts::new(&mut out.sums, some * 2 * blocks);
            pool::for_each(q.count(), |i| {
                // SAFETY: every part is taken once.
                let (q, scale, sums) = unsafe { (q.take(i), scale.take(i), sums.take(i)) };
                let integers = x[i * some * cols..].chunks(cols).zip(q.chunks_mut(cols));
                let scales = scale.chunks_mut(blocks).zip(sums.chunks_mut(2 * blocks));
                for ((x, q), (scale, sums)) in integers.zip(scales) {
                    float::quantize(set, x, q, scale, sums);
                }
            });
        }
        out
    }

    /// All rows in the order of the set's kernels.
    pub(super) fn arrange(self, set: InstructionSet) -> Activations {
        if self.rows == 1 && !paired(Layout::of(set)) {
            return Activations {
                rows: 1,
                cols: self.cols,
                q: self.q,
                scale: self.scale,
                sums: self.sums,
            };
        }
        self.pick(set, self.rows, |row| row)
    }

    /// The rows `ids` in the order of the set's kernels.
    pub(super) fn gather(&self, set: InstructionSet, ids: &[u32]) -> Activations {
        self.pick(set, ids.len(), |row| ids[row] as usize)
    }

    fn pick(
        &self,
        set: InstructionSet,
        rows: usize,
        which: impl Fn(usize) -> usize + Sync,
    ) -> Activations {
        let (cols, blocks) = (self.cols, self.cols / BLOCK);
        let pairs = paired(Layout::of(set));
        let kept = if pairs {
            rows.next_multiple_of(2)
        } else {
            rows
        };
        let mut out = Activations {
            rows,
            cols,
            q: Small::any(kept * cols),
            scale: Values::any(kept * blocks),
            sums: Values::any(kept * 2 * blocks),
        };
        if cols == 0 {
            return out;
        }
        let one =
            |first: usize, n: usize, (q, scale, sums): (&mut [i8], &mut [f32], &mut [f32])| {
                for t in 0..n {
                    // What fills a pair up is multiplied and dropped; it must only be numbers.
                    let row = which((first + t).min(rows - 1));
                    self.place(row, t, n, pairs, (&mut *q, &mut *scale, &mut *sums));
                }
            };
        // Whole groups go to threads; what is left is less than one.
        let size = int8::tokens(set, rows);
        let whole = rows / size * size;
        let (q, q_left) = out.q.as_mut_slice().split_at_mut(whole * cols);
        let (scale, scale_left) = out.scale.split_at_mut(whole * blocks);
        let (sums, sums_left) = out.sums.split_at_mut(whole * 2 * blocks);
        let some = 1 + ALONE / (size * cols);
        let q = Parts::new(q, some * size * cols);
        let scale = Parts::new(scale, some * size * blocks);
        let sums = Parts::new(sums, some * 2 * size * blocks);
        pool::for_each(q.count(), |i| {
            // SAFETY: every part is taken once.
            let (q, scale, sums) = unsafe { (q.take(i), scale.take(i), sums.take(i)) };
            let groups = q
                .chunks_mut(size * cols)
                .zip(scale.chunks_mut(size * blocks))
                .zip(sums.chunks_mut(2 * size * blocks));
            for (group, ((q, scale), sums)) in groups.enumerate() {
                one((i * some + group) * size, size, (q, scale, sums));
            }
        });
        let mut first = whole;
        while first < rows {
            let n = int8::tokens(set, rows - first);
            let at = first - whole;
            one(
                first,
                n,
                (
                    &mut q_left[at * cols..][..n * cols],
                    &mut scale_left[at * blocks..][..n * blocks],
                    &mut sums_left[2 * at * blocks..][..2 * n * blocks],
                ),
            );
            first += n;
        }
        out
    }

    /// Writes a row to its places, as the one with number `t` of a group of `n`.
    fn place(
        &self,
        row: usize,
        t: usize,
        n: usize,
        pairs: bool,
        (q, scale, sums): (&mut [i8], &mut [f32], &mut [f32]),
    ) {
        let (cols, blocks) = (self.cols, self.cols / BLOCK);
        let stored = &self.q.as_slice()[row * cols..][..cols];
        for (b, from) in stored.as_chunks::<BLOCK>().0.iter().enumerate() {
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
}
