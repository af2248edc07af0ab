//! Blocks of 32 values.

use half::f16;

use super::Stored;
use super::fit::{Run, Search, search};
use super::lanes::{LANES, Lanes, least};
use crate::format::Format;

const VALUES: usize = 32;

#[inline(always)]
pub(super) fn block<V: Lanes>(format: Format, run: &Run<VALUES>, unit: f32, out: &mut Vec<u8>) {
    match format {
        Format::Q4_0 => {
            let (d, q) = symmetric::<V>(run, unit, 8.0, search(0.15, 3.0));
            out.extend(d.bits.to_le_bytes());
            nibbles(&q, out);
        }
        Format::Q5_0 => {
            let (d, q) = symmetric::<V>(run, unit, 16.0, search(0.25, 8.0));
            out.extend(d.bits.to_le_bytes());
            fifth_bits(&q, out);
            nibbles(&q, out);
        }
        Format::Q8_0 => q8_0::<V>(run, unit, out),
        Format::Q4_1 => {
            let (d, m, q) = affine::<V>(run, unit, 15.0, search(0.5, 3.0));
            out.extend(d.bits.to_le_bytes());
            out.extend(m.bits.to_le_bytes());
            nibbles(&q, out);
        }
        _ => {
            let (d, m, q) = affine::<V>(run, unit, 31.0, search(0.7, 5.0));
            out.extend(d.bits.to_le_bytes());
            out.extend(m.bits.to_le_bytes());
            fifth_bits(&q, out);
            nibbles(&q, out);
        }
    }
}

/// Scale and levels of a block with levels `-half..half`, the levels counted from zero.
#[inline(always)]
fn symmetric<V: Lanes>(
    run: &Run<VALUES>,
    unit: f32,
    half: f32,
    places: Search,
) -> (Stored, [u8; VALUES]) {
    let bounds = (-half, half - 1.0);
    let d = Stored::nearest(run.scale::<V>(bounds, places), unit);
    // Far above the least f16 it hardly matters which one is taken.
    let d = best::<V>(
        run,
        [d, d.above(unit), d.below(unit), d, d, d, d, d],
        bounds,
    )
    .0;
    let q = run.levels::<V>(d.value, 0.0, bounds);
    (d, q.map(|q| (q + half) as u8))
}

/// The best one of these scales, and its error.
#[inline(always)]
fn best<V: Lanes>(run: &Run<VALUES>, d: [Stored; LANES], bounds: (f32, f32)) -> (Stored, f32) {
    let errors = run.errors::<V>(&d.map(|d| d.value), &[0.0; LANES], bounds);
    let at = least(&errors);
    (d[at], errors[at])
}

/// With so many levels the sums of a least-squares fit are too coarse: where importance calls for a
/// search, every scale is tried as it would be stored.
#[inline(always)]
fn q8_0<V: Lanes>(run: &Run<VALUES>, unit: f32, out: &mut Vec<u8>) {
    // Not -128, which nobody else writes: kernels may take it to have a counterpart.
    let bounds = (-127.0, 127.0);
    let extreme = run.extreme::<V>();
    // Where all columns count the same, ggml's bytes: 8 bits are close enough for everyone to agree.
    let plain = extreme.abs() / bounds.1;
    let normal = f16::MIN_POSITIVE.to_f32()..=f16::MAX.to_f32();
    if run.w == [1.0; VALUES] && normal.contains(&(plain * unit)) {
        out.extend(Stored::nearest(plain, unit).bits.to_le_bytes());
        let q = run.levels::<V>(plain, 0.0, bounds);
        out.extend(q.map(|q| q as i8 as u8));
        return;
    }
    let mut found = (Stored::nearest(plain, unit), f32::INFINITY);
    for batch in 0..4 {
        let d = |l: usize| {
            let reach = bounds.1 + 0.45 - 0.15 * (batch * LANES + l) as f32;
            Stored::nearest(extreme / reach, unit)
        };
        let next = best::<V>(run, std::array::from_fn(d), bounds);
        if next.1 < found.1 {
            found = next;
        }
    }
    let d = found.0;
    out.extend(d.bits.to_le_bytes());
    let q = run.levels::<V>(d.value, 0.0, bounds);
    out.extend(q.map(|q| q as i8 as u8));
}

/// Scale, offset and levels of a block with levels `0..=high`.
#[inline(always)]
fn affine<V: Lanes>(
    run: &Run<VALUES>,
    unit: f32,
    high: f32,
    places: Search,
) -> (Stored, Stored, [u8; VALUES]) {
    let (scale, offset) = run.scale_and_offset::<V>(high, true, places);
    let (d, m) = (Stored::nearest(scale, unit), Stored::nearest(offset, unit));
    let (up, down) = (d.above(unit), d.below(unit));
    let (higher, lower) = (m.above(unit), m.below(unit));
    let scales = [d, up, down, d, d, up, down, up];
    let offsets = [m, m, m, higher, lower, lower, higher, higher];
    let values = |stored: [Stored; LANES]| stored.map(|s| s.value);
    let at = least(&run.errors::<V>(&values(scales), &values(offsets), (0.0, high)));
    let (d, m) = (scales[at], offsets[at]);
    let q = run.levels::<V>(d.value, m.value, (0.0, high));
    (d, m, q.map(|q| q as u8))
}

/// The low four bits: of a byte, the low half is value `j`, the high one value `j + 16`.
#[inline(always)]
fn nibbles(q: &[u8; VALUES], out: &mut Vec<u8>) {
    let bytes: [u8; VALUES / 2] = std::array::from_fn(|j| q[j] & 15 | q[j + VALUES / 2] << 4);
    out.extend(bytes);
}

/// Bit `j` of a word is the fifth one of value `j`.
#[inline(always)]
fn fifth_bits(q: &[u8; VALUES], out: &mut Vec<u8>) {
    let bit = |(j, q): (usize, &u8)| u32::from(q >> 4 & 1) << j;
    let bits = q.iter().enumerate().map(bit).fold(0, |a, b| a | b);
    out.extend(bits.to_le_bytes());
}
