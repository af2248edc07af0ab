//! Blocks of 32 values: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0. Their first value is an f16 scale; `_1`
//! formats have an f16 offset behind it. Of a byte of nibbles, the low one is value `j`, the high one
//! value `j + 16`; fifth bits lie in a 32-bit word, bit `j` being that of value `j`.

use half::f16;

use super::unpacked::Unpacked;

const VALUES: usize = 32;

pub(super) fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn nibbles(bytes: &[u8], q: &mut [i8], less: i8) {
    let (low, high) = q[..VALUES].split_at_mut(VALUES / 2);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = (byte & 15) as i8 - less;
        *high = (byte >> 4) as i8 - less;
    }
}

fn fifth_bits(bytes: &[u8], q: &mut [i8]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (j, q) in q[..VALUES].iter_mut().enumerate() {
        *q += ((bits >> j & 1) << 4) as i8;
    }
}

pub(super) fn q4_0(block: &[u8], out: &mut Unpacked) {
    out.scale[0] = half(block, 0);
    nibbles(&block[2..], &mut out.q, 8);
}

pub(super) fn q4_1(block: &[u8], out: &mut Unpacked) {
    out.scale[0] = half(block, 0);
    out.offset[0] = half(block, 2);
    nibbles(&block[4..], &mut out.q, 0);
}

pub(super) fn q5_0(block: &[u8], out: &mut Unpacked) {
    out.scale[0] = half(block, 0);
    nibbles(&block[6..], &mut out.q, 16);
    fifth_bits(&block[2..], &mut out.q);
}

pub(super) fn q5_1(block: &[u8], out: &mut Unpacked) {
    out.scale[0] = half(block, 0);
    out.offset[0] = half(block, 2);
    nibbles(&block[8..], &mut out.q, 0);
    fifth_bits(&block[4..], &mut out.q);
}

pub(super) fn q8_0(block: &[u8], out: &mut Unpacked) {
    out.scale[0] = half(block, 0);
    for (q, byte) in out.q.iter_mut().zip(&block[2..]) {
        *q = *byte as i8;
    }
}

/// Encodes Q8_0 as ggml's reference does: `d = max|x| / 127`, `q = round(x / d)` with the unrounded
/// `d`, halves away from zero. The caller has checked the length, as for the others below.
pub(super) fn encode_q8_0(values: &[f32], out: &mut Vec<u8>) {
    for block in values.as_chunks::<VALUES>().0 {
        let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let d = largest / 127.0;
        let inverse = inverse(d);
        out.extend(f16::from_f32(d).to_le_bytes());
        out.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
    }
}

/// Encodes Q4_0 as ggml's reference does: the value that is largest without its sign becomes -8.
pub(super) fn encode_q4_0(values: &[f32], out: &mut Vec<u8>) {
    for block in values.as_chunks::<VALUES>().0 {
        let d = extreme(block) / -8.0;
        let inverse = inverse(d);
        out.extend(f16::from_f32(d).to_le_bytes());
        let q = block.map(|v| (v * inverse + 8.5).clamp(0.0, 15.0) as u8);
        out.extend((0..VALUES / 2).map(|j| q[j] | q[j + VALUES / 2] << 4));
    }
}

/// Encodes Q4_1 as ggml's reference does: the least value becomes 0, the largest 15.
pub(super) fn encode_q4_1(values: &[f32], out: &mut Vec<u8>) {
    for block in values.as_chunks::<VALUES>().0 {
        let least = block.iter().copied().fold(f32::INFINITY, f32::min);
        let largest = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let d = (largest - least) / 15.0;
        let inverse = inverse(d);
        out.extend(f16::from_f32(d).to_le_bytes());
        out.extend(f16::from_f32(least).to_le_bytes());
        let q = block.map(|v| ((v - least) * inverse + 0.5).clamp(0.0, 15.0) as u8);
        out.extend((0..VALUES / 2).map(|j| q[j] | q[j + VALUES / 2] << 4));
    }
}

/// Encodes Q5_0 as ggml's reference does: the value that is largest without its sign becomes -16.
pub(super) fn encode_q5_0(values: &[f32], out: &mut Vec<u8>) {
    for block in values.as_chunks::<VALUES>().0 {
        let d = extreme(block) / -16.0;
        let inverse = inverse(d);
        out.extend(f16::from_f32(d).to_le_bytes());
        let q = block.map(|v| (v * inverse + 16.5).clamp(0.0, 31.0) as u8);
        let bits = q
            .iter()
            .enumerate()
            .fold(0u32, |bits, (j, q)| bits | u32::from(q >> 4) << j);
        out.extend(bits.to_le_bytes());
        out.extend((0..VALUES / 2).map(|j| (q[j] & 15) | q[j + VALUES / 2] << 4));
    }
}

/// The value that is largest without its sign, the first of equals.
fn extreme(block: &[f32]) -> f32 {
    let larger = |a: f32, b: &f32| if b.abs() > a.abs() { *b } else { a };
    block.iter().fold(0.0, larger)
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}
