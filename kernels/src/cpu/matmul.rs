//! Products of activations and packed weights: tiles among threads, tokens in groups.

use super::int8::{self, MOST_ROWS, MOST_TOKENS, View, WHOLE};
use super::pack::{Floats, Integers};
use super::pool;
use super::quantize::Activations;
use super::set::InstructionSet;
use super::{float, gemm};

/// Bytes of quantized activations that shall stay in a core's cache while all weights pass by.
const CACHE: usize = 512 << 10;
/// Multiplications below which threads cost more than they bring.
const ALONE: usize = 1 << 17;
/// So few tokens wait for memory, not for multiplying: tiles of floats are read as they are stored, and a thread takes
/// `STRETCH` tiles in a row.
const FEW: usize = 3;
const STRETCH: usize = 4;
/// Inputs of a tile of floats that are decoded at once.
const DEPTH: usize = 256;

/// A matrix that several threads write, each its own columns.
pub(super) struct Shared(pub(super) *mut f32);

// SAFETY: see `Shared::write`.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `at + values.len()` is within the matrix, and no other thread writes there.
    pub(super) unsafe fn write(&self, at: usize, values: &[f32]) {
        // SAFETY: what the caller says.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), self.0.add(at), values.len());
        }
    }

    /// Adds `factor` times the values to those that are there.
    ///
    /// # Safety
    /// As for [`Shared::write`].
    unsafe fn add(&self, at: usize, factor: f32, values: &[f32]) {
        // SAFETY: what the caller says.
        let there = unsafe { std::slice::from_raw_parts_mut(self.0.add(at), values.len()) };
        for (sum, v) in there.iter_mut().zip(values) {
            *sum += factor * v;
        }
    }
}

/// Runs `work` for every tile of a weight of so many values, on all threads if it is worth it.
fn for_tiles(tiles: usize, tokens: usize, values: usize, work: impl Fn(usize) + Sync) {
    if tokens * values < ALONE || tiles == 1 {
        return (0..tiles).for_each(work);
    }
    let enough = 8 * STRETCH * rayon::current_num_threads();
    let stretch = if tokens <= FEW && tiles >= enough {
        STRETCH
    } else {
        1
    };
    pool::for_each(tiles.div_ceil(stretch), |i| {
        (i * stretch..tiles.min((i + 1) * stretch)).for_each(&work);
    });
}

/// What is done with the products of a tile before they are written.
#[derive(Clone, Copy)]
pub(super) enum Then<'a> {
    /// A bias is added, one value a row of the weight.
    Bias(Option<&'a [f32]>),
    /// `silu` of them times the products with another weight of the same shape.
    Gate(&'a Integers),
    /// Times its factor, the products of token `i` are added to row `rows[i]` of the result. No row may
    /// come twice.
    Add {
        /// A row for each token.
        rows: &'a [u32],
        /// A factor for each token.
        factors: &'a [f32],
    },
}

/// `out[n][row] = then(x W^T)`; `out` is `[a.rows, w.rows]`, or has the rows that are added to.
pub(super) fn integers(
    set: InstructionSet,
    a: &Activations,
    w: &Integers,
    then: Then<'_>,
    out: &mut [f32],
) {
    assert!(a.cols == w.cols);
    if let Then::Add { rows, factors } = then {
        let fits = |row: &u32| (*row as usize + 1) * w.rows <= out.len();
        assert!(rows.len() == a.rows && factors.len() == a.rows && rows.iter().all(fits));
    } else {
        assert!(out.len() == a.rows * w.rows);
    }
    let other = match then {
        Then::Gate(up) => {
            assert!(up.rows == w.rows && up.cols == w.cols);
            Some((up, View::new(set, a, up)))
        }
        Then::Bias(bias) => {
            assert!(bias.is_none_or(|b| b.len() == w.rows));
            None
        }
        Then::Add { .. } => None,
    };
    let view = View::new(set, a, w);
    let tile_rows = w.layout.rows;
    let tiles = w.rows.div_ceil(tile_rows);
    // So many tokens that their integers stay in the cache, in whole groups.
    let chunk = (CACHE / w.cols.max(1)).clamp(2 * WHOLE, 1 << 16) / WHOLE * WHOLE;
    let shared = Shared(out.as_mut_ptr());
    for from in (0..a.rows).step_by(chunk) {
        let to = (from + chunk).min(a.rows);
        for_tiles(tiles.div_ceil(2), to - from, w.rows * w.cols, |pair| {
            let mut products = [[0.0; MOST_ROWS * MOST_TOKENS]; 2];
            let mut others = products;
            let t = 2 * pair;
            let both = t + 1 < tiles;
            let mut first = from;
            while first < to {
                let n = int8::tokens(set, to - first);
                int8::tiles(set, w, t, both, &view, first, n, &mut products);
                let n_out = n.min(to - first);
                if let Some((up, view)) = &other {
                    int8::tiles(set, up, t, both, view, first, n, &mut others);
                }
                for (half, products) in products.iter_mut().take(1 + usize::from(both)).enumerate()
                {
                    let row = (t + half) * tile_rows;
                    let rows = tile_rows.min(w.rows - row);
                    if other.is_some() {
                        let values = n_out * tile_rows;
                        float::swiglu(set, &mut products[..values], &others[half][..values]);
                    }
                    for (i, values) in products.chunks_mut(tile_rows).take(n_out).enumerate() {
                        if let Then::Bias(Some(bias)) = then {
                            for (v, b) in values.iter_mut().zip(&bias[row..]) {
                                *v += b;
                            }
                        }
                        if let Then::Add { rows: to, factors } = then {
                            let (to, factor) = (to[first + i] as usize, factors[first + i]);
                            // SAFETY: as below; the rows were checked.
                            unsafe { shared.add(to * w.rows + row, factor, &values[..rows]) };
                            continue;
                        }
                        // SAFETY: the token and the rows are within `out`, and this tile's rows are
                        // no other tile's.
                        unsafe { shared.write((first + i) * w.rows + row, &values[..rows]) };
                    }
                }
                first += n_out;
            }
        });
    }
}

/// `out[n][row] = x W^T + b` in f32; `x` is rows of `w.cols` values.
pub(super) fn floats(
    set: InstructionSet,
    x: &[f32],
    w: &Floats,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    if w.rows == 0 {
        return;
    }
    let n = out.len() / w.rows;
    assert!(x.len() == n * w.cols && bias.is_none_or(|b| b.len() == w.rows));
    let rows: Vec<&[f32]> = match w.cols {
        0 => vec![&[]; n],
        cols => x.chunks_exact(cols).collect(),
    };
    let tile_rows = w.tile_rows;
    let shared = Shared(out.as_mut_ptr());
    let finish = |t: usize, products: &[f32]| {
        let first = t * tile_rows;
        let valid = tile_rows.min(w.rows - first);
        for (i, values) in products.chunks_exact(tile_rows).enumerate() {
            // SAFETY: the row is within `out`, and this tile's columns are no other tile's.
            unsafe { shared.write(i * w.rows + first, &values[..valid]) };
        }
    };
    let tiles = w.rows.div_ceil(tile_rows);
    for_tiles(tiles, n, w.rows * w.cols, |t| {
        let first = t * tile_rows;
        let mut products = vec![0.0; n * tile_rows];
        if let Some(bias) = bias {
            let bias = &bias[first..(first + tile_rows).min(w.rows)];
            for values in products.chunks_exact_mut(tile_rows) {
                values[..bias.len()].copy_from_slice(bias);
            }
        }
        if n <= FEW && w.multiply_few(set, t, &rows, &mut products) {
            return finish(t, &products);
        }
        let mut decoded = Vec::new();
        for from in (0..w.cols).step_by(DEPTH) {
            let to = (from + DEPTH).min(w.cols);
            let part = w.part(set, t, from, to, &mut decoded);
            let parts: Vec<&[f32]> = rows.iter().map(|row| &row[from..to]).collect();
            gemm::gemm(set, part, tile_rows, to - from, &parts, &mut products);
        }
        finish(t, &products);
    });
}
