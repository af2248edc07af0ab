//! Products of packed integers with quantized activations, one file an instruction set.
//!
//! For a row `r` and a token `t`, a block of 32 gives
//! `w_scale[r] * (a_scale[t] * sum(q * a) + correction[t]) + w_offset[r] * a_sum[t]`: `q` are the
//! stored integers, which may be larger than the true ones by a bias; `correction = -bias * a_sum`
//! takes that back. Sums of integers are exact; the rest is f32.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::pack::{BLOCK, Integers};
use super::quantize::{Activations, paired};
use super::set::InstructionSet;

/// The most rows of a tile.
pub(super) const MOST_ROWS: usize = 16;
/// The most tokens that a kernel takes at once.
pub(super) const MOST_TOKENS: usize = 6;
/// A multiple of every number of tokens that a kernel takes.
pub(super) const WHOLE: usize = 12;

/// Activations with what a weight's kind needs of them.
pub(super) struct View<'a> {
    a: &'a Activations,
    /// `-bias * sum` for each group, `[run][token]`.
    corrections: Vec<f32>,
    /// Sums of whole blocks for each group, `[block][token]`; empty where halves have their own.
    block_sums: Vec<f32>,
    halves: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(set: InstructionSet, a: &'a Activations, w: &Integers) -> Self {
        let halves = w.kind.halves();
        let bias = f32::from(w.kind.bias(w.layout));
        let needed = bias != 0.0 || w.kind.offset();
        let mut block_sums = Vec::new();
        if !halves && needed {
            block_sums.reserve(a.sums.len() / 2);
            let mut first = 0;
            while first < a.rows {
                let n = tokens(set, a.rows - first);
                let group = &a.sums[first * 2 * w.blocks()..][..n * 2 * w.blocks()];
                for block in group.chunks_exact(2 * n) {
                    let (one, two) = block.split_at(n);
                    block_sums.extend(one.iter().zip(two).map(|(a, b)| a + b));
                }
                first += n;
            }
        }
        let sums: &[f32] = if halves { &a.sums } else { &block_sums };
        let corrections = match bias {
            0.0 => vec![0.0; a.sums.len() / if halves { 1 } else { 2 }],
            bias => sums.iter().map(|s| -bias * s).collect(),
        };
        View {
            a,
            corrections,
            block_sums,
            halves,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.a.rows
    }

    /// The pointers of the group that begins with token `first`.
    fn from(&self, first: usize) -> Pointers {
        let blocks = self.a.cols / BLOCK;
        let runs = if self.halves { 2 * blocks } else { blocks };
        let sums: &[f32] = if self.halves {
            &self.a.sums
        } else {
            &self.block_sums
        };
        Pointers {
            q: self.a.q()[first * self.a.cols..].as_ptr(),
            scale: self.a.scale[first * blocks..].as_ptr(),
            corrections: self.corrections[first * runs..].as_ptr(),
            // Not there where no kernel reads them.
            sums: sums.get(first * runs..).unwrap_or_default().as_ptr(),
            blocks,
        }
    }
}

/// Where a kernel reads the activations of a group of tokens, all of them block by block.
#[derive(Clone, Copy)]
struct Pointers {
    q: *const i8,
    scale: *const f32,
    /// NEON takes signed integers.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code))]
    corrections: *const f32,
    sums: *const f32,
    blocks: usize,
}

/// How many tokens are worked on at once where `left` are left: what a set has kernels for.
pub(super) fn tokens(set: InstructionSet, left: usize) -> usize {
    let sizes: &[usize] = match set {
        InstructionSet::Avx512Vnni => &[6, 4, 2, 1],
        InstructionSet::NeonI8mm => &[4, 2],
        _ => &[4, 1],
    };
    let last = sizes[sizes.len() - 1];
    sizes.iter().copied().find(|n| *n <= left).unwrap_or(last)
}

/// Products of one tile: `[token][row of the tile]`.
pub(super) type Products = [f32; MOST_ROWS * MOST_TOKENS];

/// The products of tiles `t` and, if `both`, `t + 1` of `w` with the `n` tokens from `first` on, `n`
/// being what [`tokens`] gave. A paired layout may write one token more than there is.
#[allow(clippy::too_many_arguments)]
pub(super) fn tiles(
    set: InstructionSet,
    w: &Integers,
    t: usize,
    both: bool,
    a: &View<'_>,
    first: usize,
    n: usize,
    out: &mut [Products; 2],
) {
    assert!(a.a.cols == w.cols && first < a.rows());
    assert!(first + n <= a.rows() + usize::from(paired(w.layout)));
    #[cfg(target_arch = "x86_64")]
    if both && set == InstructionSet::Avx512Vnni && n == avx512::PAIR_TOKENS && !a.halves {
        let tiles = [w.tile(t).as_ptr(), w.tile(t + 1).as_ptr()];
        // SAFETY: as in `tile`.
        unsafe { avx512::pair(w.kind, tiles, a.from(first), out) };
        return;
    }
    tile(set, w, t, a, first, n, &mut out[0]);
    if both {
        tile(set, w, t + 1, a, first, n, &mut out[1]);
    }
}

fn tile(
    set: InstructionSet,
    w: &Integers,
    t: usize,
    a: &View<'_>,
    first: usize,
    n: usize,
    out: &mut Products,
) {
    let tile = w.tile(t);
    let p = a.from(first);
    match set {
        // SAFETY: the set was detected when the device was made; the tile holds `blocks` blocks of its
        // kind, and the activations `n` tokens of as many (`tiles` has checked both); `out` has room
        // for the largest tile.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Vnni => unsafe { avx512::tile(w.kind, tile.as_ptr(), p, n, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { avx2::tile(w.kind, tile.as_ptr(), p, n, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon => unsafe { neon::plain(w.kind, tile.as_ptr(), p, n, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        InstructionSet::NeonDotprod => unsafe { neon::dotprod(w.kind, tile.as_ptr(), p, n, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        InstructionSet::NeonI8mm => unsafe { neon::i8mm(w.kind, tile.as_ptr(), p, n, out) },
        // SAFETY: as above; portable code.
        _ => unsafe { scalar::tile(w, tile, p, n, out) },
    }
}

/// Calls `$f::<kind, tokens>(arguments)` for a kind and one of the numbers of tokens.
macro_rules! for_kind {
    ($kind:expr, $n:expr, [$($t:literal),*], $f:ident $args:tt) => {
        match ($kind, $n) {
            $(
                (Kind::Q8_0, $t) => $f::<{ Kind::Q8_0 as u8 }, $t> $args,
                (Kind::Q4_0, $t) => $f::<{ Kind::Q4_0 as u8 }, $t> $args,
                (Kind::Q4_1, $t) => $f::<{ Kind::Q4_1 as u8 }, $t> $args,
                (Kind::Q5_0, $t) => $f::<{ Kind::Q5_0 as u8 }, $t> $args,
                (Kind::Q5_1, $t) => $f::<{ Kind::Q5_1 as u8 }, $t> $args,
                (Kind::Q2_K, $t) => $f::<{ Kind::Q2_K as u8 }, $t> $args,
                (Kind::Q3_K, $t) => $f::<{ Kind::Q3_K as u8 }, $t> $args,
                (Kind::Q4_K, $t) => $f::<{ Kind::Q4_K as u8 }, $t> $args,
                (Kind::Q5_K, $t) => $f::<{ Kind::Q5_K as u8 }, $t> $args,
                (Kind::Q6_K, $t) => $f::<{ Kind::Q6_K as u8 }, $t> $args,
            )*
            (_, n) => unreachable!("no kernel takes {n} tokens"),
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use for_kind;

/// A loop over `0..N`, `N` being a constant of at most 16, written out: only so do arrays that are
/// indexed in it become registers.
macro_rules! unrolled {
    ($i:ident < $n:expr, $body:block) => {
        unrolled!(@ $i $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $i:ident $n:expr, $body:block, $($v:literal)*) => {
        $(
            if $n > $v {
                let $i = $v;
                $body
            }
        )*
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use unrolled;
