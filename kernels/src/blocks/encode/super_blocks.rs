//! Blocks of 256 values: Q2_K to Q6_K.
//!
//! Every run gets the scale (and offset) that suits it, the common factors follow from the largest of
//! them, and each run then takes the small integer scale (and offset) that is best with the factors as
//! they are stored. With all integers known the factors are fitted again, once or twice.

use super::Stored;
use super::fit::{Run, Search, search};
use super::lanes::{LANES, Lanes, least};
use crate::format::Format;

const VALUES: usize = 256;

#[inline(always)]
pub(super) fn block<V: Lanes>(format: Format, block: &Run<VALUES>, unit: f32, out: &mut Vec<u8>) {
    match format {
        Format::Q2_K => {
            let b = affine::<V, 16, 16>(block, unit, 3.0, 15.0, search(0.2, 3.0));
            out.extend((0..16).map(|run| b.scales[run] | b.offsets[run] << 4));
            two_bits(&b.q, out);
            out.extend(b.d.bits.to_le_bytes());
            out.extend(b.least.bits.to_le_bytes());
        }
        Format::Q3_K => {
            let b = symmetric::<V>(block, unit, 4.0, 32.0, search(0.1, 3.0));
            third_bits(&b.q, out);
            two_bits(&b.q, out);
            signed_six_bits(&b.scales, out);
            out.extend(b.d.bits.to_le_bytes());
        }
        Format::Q4_K => {
            let b = affine::<V, 32, 8>(block, unit, 15.0, 63.0, search(0.5, 3.0));
            long_scales(&b, out);
            long_nibbles(&b.q, out);
        }
        Format::Q5_K => {
            let b = affine::<V, 32, 8>(block, unit, 31.0, 63.0, search(0.7, 5.0));
            long_scales(&b, out);
            fifth_bits(&b.q, out);
            long_nibbles(&b.q, out);
        }
        _ => {
            let b = symmetric::<V>(block, unit, 32.0, 128.0, search(0.4, 18.0));
            q6_k(&b, out);
        }
    }
}

/// A block with offsets, all integers from zero.
struct Affine<const RUNS: usize> {
    d: Stored,
    least: Stored,
    scales: [u8; RUNS],
    offsets: [u8; RUNS],
    q: [u8; VALUES],
}

/// A block without: scales as they are, levels counted from the lowest.
struct Symmetric {
    d: Stored,
    scales: [i8; 16],
    q: [u8; VALUES],
}

#[inline(always)]
fn runs<const N: usize, const RUNS: usize>(block: &Run<VALUES>) -> [Run<N>; RUNS] {
    let (x, w) = (block.x.as_chunks::<N>().0, block.w.as_chunks::<N>().0);
    std::array::from_fn(|i| Run { x: x[i], w: w[i] })
}

/// The factor for scales up to `most` times it. Where f16 grows coarse it is rounded away from zero:
/// finer steps among the scales make up for that, a scale that is cut off cannot.
#[inline(always)]
fn factor(largest: f32, most: f32, unit: f32) -> Stored {
    let exact = largest / most;
    let stored = Stored::nearest(exact, unit);
    if stored.value.abs() < exact.abs() * 0.998 {
        stored.above(unit)
    } else {
        stored
    }
}

#[inline(always)]
fn inverse(factor: f32) -> f32 {
    if factor == 0.0 { 0.0 } else { 1.0 / factor }
}

/// How often the factors are fitted again.
const ROUNDS: usize = 2;

#[inline(always)]
fn affine<V: Lanes, const N: usize, const RUNS: usize>(
    block: &Run<VALUES>,
    unit: f32,
    high: f32,
    most: f32,
    places: Search,
) -> Affine<RUNS> {
    let runs = runs::<N, RUNS>(block);
    let mut fits = [(0.0, 0.0); RUNS];
    for (run, fit) in runs.iter().zip(&mut fits) {
        let (scale, offset) = run.scale_and_offset::<V>(high, false, places);
        *fit = (scale, -offset);
    }
    let largest = fits
        .iter()
        .fold((0.0f32, 0.0f32), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    let mut d = factor(largest.0, most, unit);
    let mut least = factor(largest.1, most, unit);
    let mut wanted =
        fits.map(|(scale, offset)| (scale * inverse(d.value), offset * inverse(least.value)));
    let mut best = (d, least, [(0.0, 0.0); RUNS]);
    let mut lowest = f32::INFINITY;
    for round in 0..=ROUNDS {
        let mut error = 0.0;
        let mut chosen = [(0.0, 0.0); RUNS];
        for i in 0..RUNS {
            let (c, e) = nearby::<V, N>(&runs[i], (d.value, least.value), wanted[i], high, most);
            chosen[i] = c;
            error += e;
        }
        if error >= lowest || error.is_nan() {
            break;
        }
        (best, lowest) = ((d, least, chosen), error);
        if round < ROUNDS {
            let (scale, offset) =
                factors::<V, N, RUNS>(&runs, &chosen, (d.value, least.value), high);
            let (next, next_least) = (Stored::nearest(scale, unit), Stored::nearest(offset, unit));
            if (next, next_least) == (d, least) {
                break;
            }
            (d, least, wanted) = (next, next_least, chosen);
        }
    }
    let (d, least, chosen) = best;
    let mut q = [0; VALUES];
    for ((run, (scale, offset)), q) in runs.iter().zip(chosen).zip(q.as_chunks_mut::<N>().0) {
        let levels = run.levels::<V>(d.value * scale, -(least.value * offset), (0.0, high));
        *q = levels.map(|q| q as u8);
    }
    Affine {
        d,
        least,
        scales: chosen.map(|c| c.0 as u8),
        offsets: chosen.map(|c| c.1 as u8),
        q,
    }
}

/// Of the integer scales and offsets around those that are wanted, the best ones, and their error.
#[inline(always)]
fn nearby<V: Lanes, const N: usize>(
    run: &Run<N>,
    (d, factor): (f32, f32),
    wanted: (f32, f32),
    high: f32,
    most: f32,
) -> ((f32, f32), f32) {
    // A larger scale goes with a larger offset.
    const STEPS: [(f32, f32); 2 * LANES] = [
        (0.0, 0.0),
        (-1.0, 0.0),
        (1.0, 0.0),
        (0.0, -1.0),
        (0.0, 1.0),
        (-1.0, -1.0),
        (1.0, 1.0),
        (1.0, -1.0),
        (-1.0, 1.0),
        (2.0, 1.0),
        (-2.0, -1.0),
        (2.0, 0.0),
        (-2.0, 0.0),
        (1.0, 2.0),
        (-1.0, -2.0),
        (2.0, 2.0),
    ];
    let (s, o) = ((wanted.0 + 0.5).floor(), (wanted.1 + 0.5).floor());
    let mut best = ((0.0, 0.0), f32::INFINITY);
    for steps in &STEPS.as_chunks::<LANES>().0[..if N == 16 { 2 } else { 1 }] {
        let scales = steps.map(|step| (s + step.0).clamp(0.0, most));
        let offsets = steps.map(|step| (o + step.1).clamp(0.0, most));
        let errors = run.errors::<V>(
            &scales.map(|s| d * s),
            &offsets.map(|o| -(factor * o)),
            (0.0, high),
        );
        let at = least(&errors);
        if errors[at] < best.1 {
            best = ((scales[at], offsets[at]), errors[at]);
        }
    }
    best
}

/// The two factors that suit these integers best (least squares).
#[inline(always)]
fn factors<V: Lanes, const N: usize, const RUNS: usize>(
    runs: &[Run<N>; RUNS],
    chosen: &[(f32, f32); RUNS],
    (d, least): (f32, f32),
    high: f32,
) -> (f32, f32) {
    // Of x = d a - least b, the sums of a a, a b, b b, a x, b x.
    let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (run, (scale, offset)) in runs.iter().zip(chosen) {
        let [q, q_q, x_q, x, w] = run.moments::<V>(d * scale, -(least * offset), (0.0, high));
        aa += scale * scale * q_q;
        ab += scale * offset * q;
        bb += offset * offset * w;
        ax += scale * x_q;
        bx += offset * x;
    }
    let determinant = aa * bb - ab * ab;
    if determinant > 1e-6 * aa * bb {
        let d = (ax * bb - ab * bx) / determinant;
        let least = (ab * ax - aa * bx) / determinant;
        if d > 0.0 && least > 0.0 {
            return (d, least);
        }
    }
    if aa > 0.0 && ax > 0.0 && bb == 0.0 {
        return (ax / aa, least);
    }
    (d, least)
}

#[inline(always)]
fn symmetric<V: Lanes>(
    block: &Run<VALUES>,
    unit: f32,
    half: f32,
    half_scales: f32,
    places: Search,
) -> Symmetric {
    let bounds = (-half, half - 1.0);
    let (lowest_scale, highest_scale) = (-half_scales, half_scales - 1.0);
    let runs = runs::<16, 16>(block);
    let mut fits = [0.0; 16];
    for (run, fit) in runs.iter().zip(&mut fits) {
        *fit = run.scale::<V>(bounds, places);
    }
    let larger = |a: f32, b: f32| if b.abs() > a.abs() { b } else { a };
    let extreme = fits.into_iter().fold(0.0, larger);
    let mut d = factor(extreme, lowest_scale, unit);
    let mut wanted = fits.map(|scale| scale * inverse(d.value));
    let mut best = (d, [0.0; 16]);
    let mut lowest = f32::INFINITY;
    for round in 0..=ROUNDS {
        let mut error = 0.0;
        let mut chosen = [0.0; 16];
        let (mut aa, mut ax) = (0.0, 0.0);
        for i in 0..16 {
            let middle = (wanted[i] + 0.5).floor();
            let near = |l: usize| (middle + l as f32 - 3.0).clamp(lowest_scale, highest_scale);
            let scales: [f32; LANES] = std::array::from_fn(near);
            let errors = runs[i].errors::<V>(&scales.map(|s| d.value * s), &[0.0; LANES], bounds);
            let at = least(&errors);
            let scale = scales[at];
            chosen[i] = scale;
            error += errors[at];
            let [_, q_q, x_q, ..] = runs[i].moments::<V>(d.value * scale, 0.0, bounds);
            aa += scale * scale * q_q;
            ax += scale * x_q;
        }
        if error >= lowest || error.is_nan() {
            break;
        }
        (best, lowest) = ((d, chosen), error);
        if round < ROUNDS && aa > 0.0 {
            let next = Stored::nearest(ax / aa, unit);
            if next == d {
                break;
            }
            (d, wanted) = (next, chosen);
        }
    }
    let (d, chosen) = best;
    let mut q = [0; VALUES];
    for ((run, scale), q) in runs.iter().zip(chosen).zip(q.as_chunks_mut::<16>().0) {
        let levels = run.levels::<V>(d.value * scale, 0.0, bounds);
        *q = levels.map(|q| (q + half) as u8);
    }
    Symmetric {
        d,
        scales: chosen.map(|s| s as i8),
        q,
    }
}

/// Two bits of every value: each half of 128 values takes 32 bytes, its quarter `j` bits `2 j`.
#[inline(always)]
fn two_bits(q: &[u8; VALUES], out: &mut Vec<u8>) {
    for half in q.as_chunks::<128>().0 {
        let byte = |l: usize| (0..4).fold(0, |byte, j| byte | (half[32 * j + l] & 3) << (2 * j));
        let bytes: [u8; 32] = std::array::from_fn(byte);
        out.extend(bytes);
    }
}

/// Bit `n` of byte `l` is bit `bit` of value `32 n + l`.
#[inline(always)]
fn one_bit(q: &[u8; VALUES], bit: u32) -> [u8; 32] {
    std::array::from_fn(|l| (0..8).fold(0, |byte, n| byte | (q[32 * n + l] >> bit & 1) << n))
}

#[inline(always)]
fn third_bits(q: &[u8; VALUES], out: &mut Vec<u8>) {
    out.extend(one_bit(q, 2));
}

#[inline(always)]
fn fifth_bits(q: &[u8; VALUES], out: &mut Vec<u8>) {
    out.extend(one_bit(q, 4));
}

/// 16 scales of 6 bits, 32 added to them: 8 bytes of low nibbles (scales `n` and `n + 8`), 4 bytes of
/// upper two bits.
#[inline(always)]
fn signed_six_bits(scales: &[i8; 16], out: &mut Vec<u8>) {
    let s = scales.map(|s| (s + 32) as u8);
    out.extend((0..8).map(|n| s[n] & 15 | (s[n + 8] & 15) << 4));
    out.extend((0..4).map(|n| (0..4).fold(0, |byte, j| byte | (s[4 * j + n] >> 4) << (2 * j))));
}

/// Two factors, then 8 scales and 8 offsets of 6 bits as `scale_and_offset` reads them.
#[inline(always)]
fn long_scales(b: &Affine<8>, out: &mut Vec<u8>) {
    out.extend(b.d.bits.to_le_bytes());
    out.extend(b.least.bits.to_le_bytes());
    let (s, o) = (&b.scales, &b.offsets);
    out.extend((0..4).map(|n| s[n] | s[n + 4] >> 4 << 6));
    out.extend((0..4).map(|n| o[n] | o[n + 4] >> 4 << 6));
    out.extend((4..8).map(|n| s[n] & 15 | o[n] << 4));
}

/// 32 bytes hold a run in their low and the next one in their high nibbles.
#[inline(always)]
fn long_nibbles(q: &[u8; VALUES], out: &mut Vec<u8>) {
    for pair in q.as_chunks::<64>().0 {
        let bytes: [u8; 32] = std::array::from_fn(|l| pair[l] & 15 | pair[32 + l] << 4);
        out.extend(bytes);
    }
}

/// Low nibbles, upper two bits, scales, factor.
#[inline(always)]
fn q6_k(b: &Symmetric, out: &mut Vec<u8>) {
    for half in b.q.as_chunks::<128>().0 {
        let bytes: [u8; 64] = std::array::from_fn(|l| half[l] & 15 | half[64 + l] << 4);
        out.extend(bytes);
    }
    two_bits(&b.q.map(|q| q >> 4), out);
    out.extend(b.scales.map(|s| s as u8));
    out.extend(b.d.bits.to_le_bytes());
}
