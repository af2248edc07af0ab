//! Super-blocks of 256 values: Q2_K to Q6_K. One or two f16 factors for all, and small integer scales
//! (and offsets) for each run of 16 or 32.

use super::small::half;
use super::unpacked::{MOST_VALUES, Unpacked};
use crate::format::Format;

/// Values of a run in Q2_K, Q3_K and Q6_K.
const SHORT: usize = 16;
/// Runs of 32 in Q4_K and Q5_K.
const LONG_RUNS: usize = 8;

/// 16 bytes of scale (low nibble) and offset (high nibble), 64 bytes of 2-bit values, two factors.
pub(super) fn q2_k(block: &[u8], out: &mut Unpacked) {
    let (scales, q) = (&block[..16], &block[16..80]);
    let (d, least) = (half(block, 80), half(block, 82));
    for (run, scale) in scales.iter().enumerate() {
        out.scale[run] = d * f32::from(scale & 15);
        out.offset[run] = -(least * f32::from(scale >> 4));
    }
    two_bits(q, &mut out.q);
}

/// 32 bytes of third bits (set: nothing is taken away), 64 bytes of 2-bit values, 16 scales of 6 bits
/// in 12 bytes, one factor.
pub(super) fn q3_k(block: &[u8], out: &mut Unpacked) {
    let (third, q) = (&block[..32], &block[32..96]);
    let d = half(block, 108);
    for run in 0..MOST_VALUES / SHORT {
        out.scale[run] = d * f32::from(signed_scale(Format::Q3_K, block, run));
        out.offset[run] = 0.0;
    }
    two_bits(q, &mut out.q);
    for (i, q) in out.q.iter_mut().enumerate() {
        // Bit n of a byte is that of values n * 32 and on.
        if third[i % 32] >> (i / 32) & 1 == 0 {
            *q -= 4;
        }
    }
}

/// The scale of a run in a block of Q3_K (6 bits: the low four in nibbles, the upper two of four runs in a byte) or Q6_K.
pub(crate) fn signed_scale(format: Format, block: &[u8], run: usize) -> i8 {
    if format == Format::Q6_K {
        return block[192 + run] as i8;
    }
    let scales = &block[96..108];
    let low = scales[run % 8] >> (run / 8 * 4) & 15;
    let high = scales[8 + run % 4] >> (run / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

/// 64 bytes of 2-bit values: each half of 128 values lies in 32 bytes, its quarter `j` in bits `2 j`.
fn two_bits(bytes: &[u8], q: &mut [i8; MOST_VALUES]) {
    for (i, q) in q.iter_mut().enumerate() {
        let (half, j, l) = (i / 128, i % 128 / 32, i % 32);
        *q = (bytes[half * 32 + l] >> (2 * j) & 3) as i8;
    }
}

/// Two factors, 8 scales and 8 offsets of 6 bits in 12 bytes, 128 bytes of nibbles.
pub(super) fn q4_k(block: &[u8], out: &mut Unpacked) {
    long_scales(block, out);
    long_nibbles(&block[16..], &mut out.q);
}

/// As [`q4_k`], with 32 bytes of fifth bits before the nibbles.
pub(super) fn q5_k(block: &[u8], out: &mut Unpacked) {
    long_scales(block, out);
    long_nibbles(&block[48..], &mut out.q);
    let fifth = &block[16..48];
    for (i, q) in out.q.iter_mut().enumerate() {
        *q += ((fifth[i % 32] >> (i / 32) & 1) << 4) as i8;
    }
}

fn long_scales(block: &[u8], out: &mut Unpacked) {
    let (d, least) = (half(block, 0), half(block, 2));
    for run in 0..LONG_RUNS {
        let (scale, offset) = scale_and_offset(&block[4..16], run);
        out.scale[run] = d * f32::from(scale);
        out.offset[run] = -(least * f32::from(offset));
    }
}

/// The 6-bit scale and offset of a run: the first four lie in the low bits of bytes 0..4 and 4..8,
/// the others in nibbles of bytes 8..12 with their two high bits above those of the first four.
pub(crate) fn scale_and_offset(bytes: &[u8], run: usize) -> (u8, u8) {
    if run < 4 {
        return (bytes[run] & 63, bytes[run + 4] & 63);
    }
    (
        bytes[run + 4] & 15 | bytes[run - 4] >> 6 << 4,
        bytes[run + 4] >> 4 | bytes[run] >> 6 << 4,
    )
}

/// 128 bytes of nibbles: 32 bytes hold a run in their low and the next one in their high nibbles.
fn long_nibbles(bytes: &[u8], q: &mut [i8; MOST_VALUES]) {
    for (i, q) in q.iter_mut().enumerate() {
        let (pair, high, l) = (i / 64, i % 64 / 32, i % 32);
        *q = (bytes[pair * 32 + l] >> (4 * high) & 15) as i8;
    }
}

/// 128 bytes of low nibbles, 64 bytes of upper two bits, 16 signed scales, one factor.
pub(super) fn q6_k(block: &[u8], out: &mut Unpacked) {
    let (low, upper) = (&block[..128], &block[128..192]);
    let d = half(block, 208);
    for run in 0..MOST_VALUES / SHORT {
        out.scale[run] = d * f32::from(signed_scale(Format::Q6_K, block, run));
        out.offset[run] = 0.0;
    }
    for (i, q) in out.q.iter_mut().enumerate() {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let nibble = low[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
        let two = upper[half * 32 + l] >> (2 * quarter) & 3;
        *q = (nibble | two << 4) as i8 - 32;
    }
}
