//! Q8_0: 32 values a block, `value = d * q` with `d` an f16 and `q` a signed byte.

use half::f16;

const VALUES: usize = 32;
const BYTES: usize = 34;

/// Decodes whole blocks. The caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    for (block, values) in blocks.iter().zip(out.as_chunks_mut::<VALUES>().0) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (v, q) in values.iter_mut().zip(&block[2..]) {
            *v = d * f32::from(*q as i8);
        }
    }
}

/// Encodes whole blocks as ggml's reference does: `d = max|x| / 127`, `q = round(x / d)` with the
/// unrounded `d`, halves away from zero. The caller has checked the length.
pub(super) fn encode(values: &[f32], out: &mut Vec<u8>) {
    for block in values.as_chunks::<VALUES>().0 {
        let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let d = largest / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        out.extend(f16::from_f32(d).to_le_bytes());
        out.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
    }
}
