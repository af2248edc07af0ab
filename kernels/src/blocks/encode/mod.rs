//! Encoding with a search: the scales are not those that the largest value asks for but those with
//! which the block comes closest to its values.
//!
//! # Layout
//! - `lanes`: eight candidates at a time; `fit`: the best scale (and offset) of one run.
//! - `small`: blocks of 32; `super_blocks`: blocks of 256, whose scales are quantized too.
//!
//! A block is brought to values below 2 by a power of two first, so that no sum overflows.
// An encoder is compiled once for any processor and once for AVX2: `blocks` needs it.
#![allow(unsafe_code)]

mod fit;
mod lanes;
mod small;
mod super_blocks;

use half::f16;

use crate::format::Format;
use fit::Run;
use lanes::{Lanes, Portable};

/// Weights below this share of their mean are raised to it: a column that calibration never used
/// must not come back as just anything.
const LEAST_WEIGHT: f32 = 1e-3;

/// Appends the blocks of a row. The caller has checked all lengths.
pub(super) fn row(format: Format, values: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    let weights = importance.and_then(weights);
    let weights = weights.as_deref();
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what `blocks_avx2` is compiled for.
        unsafe { blocks_avx2(format, values, weights, out) };
        return;
    }
    blocks::<Portable>(format, values, weights, out);
}

/// Importance with a mean of one; none if it tells nothing.
fn weights(importance: &[f32]) -> Option<Vec<f32>> {
    let sum: f64 = importance.iter().map(|v| f64::from(*v)).sum();
    let mean = sum / importance.len() as f64;
    let usable = mean > 0.0 && mean.is_finite();
    let weight = |v: &f32| ((f64::from(*v) / mean) as f32).max(LEAST_WEIGHT);
    usable.then(|| importance.iter().map(weight).collect())
}

// The same operations in the same order, so the same bytes: AVX2 has no fused ones.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blocks_avx2(format: Format, values: &[f32], weights: Option<&[f32]>, out: &mut Vec<u8>) {
    blocks::<lanes::x86::Avx2>(format, values, weights, out);
}

// No closures around an encoder: they would not be compiled for AVX2.
#[inline(always)]
fn blocks<V: Lanes>(format: Format, values: &[f32], weights: Option<&[f32]>, out: &mut Vec<u8>) {
    if format.block_values() == 32 {
        for (i, x) in values.as_chunks().0.iter().enumerate() {
            let (run, unit) = prepare::<V, 32>(x, weights, i);
            small::block::<V>(format, &run, unit, out);
        }
    } else {
        for (i, x) in values.as_chunks().0.iter().enumerate() {
            let (run, unit) = prepare::<V, 256>(x, weights, i);
            super_blocks::block::<V>(format, &run, unit, out);
        }
    }
}

/// A row's block `i` with values below 2, and the power of two that was taken out.
#[inline(always)]
fn prepare<V: Lanes, const N: usize>(
    x: &[f32; N],
    weights: Option<&[f32]>,
    i: usize,
) -> (Run<N>, f32) {
    let mut run = Run { x: *x, w: [1.0; N] };
    if let Some(w) = weights.and_then(|w| w.as_chunks::<N>().0.get(i)) {
        run.w = *w;
    }
    let unit = power_of_two(run.extreme::<V>());
    let factor = 1.0 / unit;
    for x in run.x.as_chunks_mut().0 {
        *x = (V::load(x) * V::splat(factor)).store();
    }
    (run, unit)
}

/// The largest power of two that is not above `v` without its sign, within what has an inverse.
#[inline(always)]
fn power_of_two(v: f32) -> f32 {
    const LEAST: u32 = 1 << 23;
    const MOST: u32 = 253 << 23;
    f32::from_bits((v.to_bits() & 0x7f80_0000).clamp(LEAST, MOST))
}

/// A scale as it is stored, and its value in units.
#[derive(Clone, Copy, PartialEq)]
struct Stored {
    bits: u16,
    value: f32,
}

impl Stored {
    /// The f16 nearest to `v` units, not beyond the largest one.
    #[inline(always)]
    fn nearest(v: f32, unit: f32) -> Self {
        let most = f16::MAX.to_f32();
        Self::of(f16::from_f32((v * unit).clamp(-most, most)), unit)
    }

    #[inline(always)]
    fn of(v: f16, unit: f32) -> Self {
        Stored {
            bits: v.to_bits(),
            value: v.to_f32() / unit,
        }
    }

    /// The f16 next to this one away from zero, unless it is the largest.
    #[inline(always)]
    fn above(self, unit: f32) -> Self {
        if self.bits & 0x7fff >= f16::MAX.to_bits() {
            return self;
        }
        Self::of(f16::from_bits(self.bits + 1), unit)
    }

    /// The f16 next to this one towards zero, unless it is zero.
    #[inline(always)]
    fn below(self, unit: f32) -> Self {
        if self.bits & 0x7fff == 0 {
            return self;
        }
        Self::of(f16::from_bits(self.bits - 1), unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_writes_the_same_bytes() {
        let values: Vec<f32> = (0..4096u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6 - 8.0)
            .collect();
        let weights: Vec<f32> = values.iter().map(|v| v * v).collect();
        for format in Format::ALL.iter().filter(|f| f.block_values() > 1) {
            for weights in [None, Some(&weights[..])] {
                let mut portable = Vec::new();
                blocks::<Portable>(*format, &values, weights, &mut portable);
                #[cfg(target_arch = "x86_64")]
                if std::arch::is_x86_feature_detected!("avx2") {
                    let mut avx2 = Vec::new();
                    // SAFETY: the processor has it.
                    unsafe { blocks_avx2(*format, &values, weights, &mut avx2) };
                    assert!(portable == avx2, "{format}");
                }
            }
        }
    }
}
