//! The portable kernel: what every other one is tested against.

use super::super::pack::{BLOCK, Integers, Kind};
use super::super::quantize::Activations;
use super::{MOST_ROWS, MOST_TOKENS};
use half::f16;

#[allow(clippy::too_many_arguments)]
pub(super) fn tile(
    w: &Integers,
    tile: &[u8],
    a: &Activations,
    corrections: &[f32],
    sums: &[f32],
    first: usize,
    n: usize,
    out: &mut [f32; MOST_ROWS * MOST_TOKENS],
) {
    let (rows, group, blocks) = (w.layout.rows, w.layout.group, w.blocks());
    let kind = w.kind;
    let halves = matches!(kind, Kind::BytesHalves | Kind::BytesHalvesOffset);
    let runs = if halves { 2 } else { 1 };
    out[..n * rows].fill(0.0);
    let value_bytes = if kind.nibbles() { BLOCK / 2 } else { BLOCK } * rows;
    let mut rest = tile;
    let mut factors: &[u8] = &[];
    for b in 0..blocks {
        if kind.super_bytes() > 0 && b % 8 == 0 {
            (factors, rest) = rest.split_at(rows * kind.super_bytes());
        }
        let (scales, after) = rest.split_at(rows * kind.scale_bytes());
        let (values, after) = after.split_at(value_bytes);
        rest = after;
        for r in 0..rows {
            let mut q = [0i32; BLOCK];
            for (i, q) in q.iter_mut().enumerate() {
                let place = |i: usize| (i / group * rows + r) * group + i % group;
                *q = if !kind.nibbles() {
                    i32::from(values[place(i)] as i8)
                } else if i < BLOCK / 2 {
                    i32::from(values[place(i)] & 15)
                } else {
                    i32::from(values[place(i - BLOCK / 2)] >> 4)
                };
            }
            for t in 0..n {
                let token = first + t;
                let activations = &a.q[token * w.cols + b * BLOCK..][..BLOCK];
                let mut result = 0.0;
                for run in 0..runs {
                    let length = BLOCK / runs;
                    let part = run * length..(run + 1) * length;
                    let products = q[part.clone()].iter().zip(&activations[part]);
                    let sum: i32 = products.map(|(q, a)| q * i32::from(*a)).sum();
                    let at = token * blocks * runs + b * runs + run;
                    let scaled = sum as f32 * a.scale[token * blocks + b] + corrections[at];
                    let (scale, offset) = scale_and_offset(kind, scales, factors, rows, r, run);
                    result += scaled * scale + sums[at] * offset;
                }
                out[t * rows + r] += result;
            }
        }
    }
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
    let float = |i: usize| {
        let at = 4 * (i * rows + r);
        f32::from_le_bytes([scales[at], scales[at + 1], scales[at + 2], scales[at + 3]])
    };
    match kind {
        Kind::Bytes | Kind::Nibbles => (half(scales, 0), 0.0),
        Kind::NibblesOffset => (half(scales, 0), half(scales, 1)),
        Kind::NibblesSuper => (
            half(factors, 0) * f32::from(scales[r]),
            -(half(factors, 1) * f32::from(scales[rows + r])),
        ),
        Kind::BytesHalves => (float(run), 0.0),
        Kind::BytesOffset => (float(0), float(1)),
        Kind::BytesHalvesOffset => (float(run), float(2 + run)),
    }
}
