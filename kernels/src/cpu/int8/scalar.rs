//! The portable kernel: what every other one is tested against.

use super::super::kind::{Kind, Layout};
use super::super::pack::{BLOCK, Integers, unpack_plane};
use super::{MOST_ROWS, MOST_TOKENS, Pointers};
use half::f16;

/// # Safety
/// `tile` is a tile of `w`, `p` has `n` tokens.
pub(super) unsafe fn tile(
    w: &Integers,
    tile: &[u8],
    p: Pointers,
    n: usize,
    out: &mut [f32; MOST_ROWS * MOST_TOKENS],
) {
    let (rows, kind) = (w.layout.rows, w.kind);
    let halves = kind.halves();
    let runs = if halves { 2 } else { 1 };
    out[..n * rows].fill(0.0);
    let mut rest = tile;
    let mut factors: &[u8] = &[];
    for b in 0..p.blocks {
        if kind.super_bytes() > 0 && b % 8 == 0 {
            (factors, rest) = rest.split_at(rows * kind.super_bytes());
        }
        let (scales, after) = rest.split_at(rows * kind.scale_bytes());
        let (values, after) = after.split_at(rows * kind.value_bytes());
        rest = after;
        let (first, second) = values.split_at(rows * BLOCK * kind.planes().0 / 8);
        for r in 0..rows {
            let q = integers(kind, w.layout, r, first, second);
            for t in 0..n {
                // SAFETY: a token has 32 integers in every block.
                let a = unsafe { &*p.q.add((b * n + t) * BLOCK).cast::<[i8; BLOCK]>() };
                // Of fixed length, so that the compiler finds vectors.
                let mut sums = [0i32; 2];
                for (half, sum) in sums.iter_mut().enumerate() {
                    for i in half * BLOCK / 2..(half + 1) * BLOCK / 2 {
                        *sum += i32::from(q[i] * i16::from(a[i]));
                    }
                }
                if !halves {
                    sums[0] += sums[1];
                }
                // SAFETY: a token has a scale in every block.
                let a_scale = unsafe { *p.scale.add(b * n + t) };
                for (run, sum) in sums.iter().take(runs).enumerate() {
                    let at = (b * runs + run) * n + t;
                    let (scale, offset) = scale_and_offset(kind, scales, factors, rows, r, run);
                    // SAFETY: and a correction in every run; sums are there where offsets are.
                    unsafe {
                        let scaled = *sum as f32 * a_scale + *p.corrections.add(at);
                        out[t * rows + r] += scaled * scale;
                        if kind.offset() {
                            out[t * rows + r] += *p.sums.add(at) * offset;
                        }
                    }
                }
            }
        }
    }
}

/// The integers of a row in a block, as they are stored: in one plane, or in two.
fn integers(kind: Kind, layout: Layout, r: usize, first: &[u8], second: &[u8]) -> [i16; BLOCK] {
    let (low, high) = kind.planes();
    let mut q = match low {
        8 => {
            return unpack_plane::<32>(first, layout, r).map(|v| i16::from(v as i8));
        }
        4 => unpack_plane::<16>(first, layout, r),
        _ => unpack_plane::<8>(first, layout, r),
    };
    let above = match high {
        2 => unpack_plane::<8>(second, layout, r),
        1 => unpack_plane::<4>(second, layout, r),
        _ => [0; BLOCK],
    };
    for (q, above) in q.iter_mut().zip(above) {
        *q |= above << low;
    }
    q.map(i16::from)
}

/// The scale and offset of a row's run.
fn scale_and_offset(
    kind: Kind,
    scales: &[u8],
    factors: &[u8],
    rows: usize,
    r: usize,
    run: usize,
) -> (f32, f32) {
    let half = |bytes: &[u8], i: usize| {
        let at = 2 * (i * rows + r);
        f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
    };
    match kind {
        Kind::Q8_0 | Kind::Q5_0 | Kind::Q4_0 => (half(scales, 0), 0.0),
        Kind::Q5_1 | Kind::Q4_1 => (half(scales, 0), half(scales, 1)),
        Kind::Q5_K | Kind::Q4_K => (
            half(factors, 0) * f32::from(scales[r]),
            -(half(factors, 1) * f32::from(scales[rows + r])),
        ),
        Kind::Q6_K | Kind::Q3_K => {
            let scale = scales[run * rows + r] as i8;
            (half(factors, 0) * f32::from(scale), 0.0)
        }
        Kind::Q2_K => {
            let both = scales[run * rows + r];
            (
                half(factors, 0) * f32::from(both & 15),
                -(half(factors, 1) * f32::from(both >> 4)),
            )
        }
    }
}
