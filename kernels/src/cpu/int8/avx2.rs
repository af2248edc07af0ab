//! AVX2: `vpmaddubsw` multiplies 32 unsigned bytes with signed ones, in pairs.
//!
//! A register holds four inputs of 8 rows. Signed bytes are multiplied as `|q| * (a with q's sign)`:
//! two such products are at most 2 * 127 * 127 and fit 16 bits. Products of fewer bits are small enough that
//! several, of nibbles a whole block's, are added up in 16 bits.

use std::arch::x86_64::*;

use super::super::kind::Kind;
use super::{MOST_ROWS, MOST_TOKENS, Pointers, for_kind};

const ROWS: usize = 8;

/// # Safety
/// The processor has AVX2, FMA and F16C. `w` is a tile of `p.blocks` blocks of this kind, `p` has `n`
/// tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile(
    kind: Kind,
    w: *const u8,
    p: Pointers,
    n: usize,
    out: &mut [f32; MOST_ROWS * MOST_TOKENS],
) {
    // SAFETY: what the caller says.
    unsafe { for_kind!(kind, n, [4, 1], tokens(w, p, out)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tokens<const KIND: u8, const T: usize>(
    mut w: *const u8,
    p: Pointers,
    out: &mut [f32; MOST_ROWS * MOST_TOKENS],
) {
    let kind = const { Kind::number(KIND) };
    let runs = if kind.halves() { 2 } else { 1 };
    let ones = _mm256_set1_epi16(1);
    // SAFETY: every read is within the tile and the tokens, as `tile`'s caller says.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); T];
        let mut factors = w;
        for b in 0..p.blocks {
            if kind.super_bytes() > 0 && b % 8 == 0 {
                factors = w;
                w = w.add(ROWS * kind.super_bytes());
            }
            let (scale, offset) = scales::<KIND>(w, factors);
            w = w.add(ROWS * kind.scale_bytes());
            let four = |t: usize, i: usize| {
                let a = p.q.add((b * T + t) * 32 + 4 * i).cast::<i32>();
                _mm256_set1_epi32(a.read_unaligned())
            };
            for run in 0..runs {
                let mut integers = [_mm256_setzero_si256(); T];
                if kind.bits() == 4 {
                    let low = _mm256_set1_epi8(15);
                    for i in 0..4 {
                        let both = _mm256_loadu_si256(w.add(32 * i).cast());
                        let first = _mm256_and_si256(both, low);
                        let second = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
                        for (t, sum) in integers.iter_mut().enumerate() {
                            let a = _mm256_maddubs_epi16(first, four(t, i));
                            let b = _mm256_maddubs_epi16(second, four(t, i + 4));
                            *sum = _mm256_add_epi16(*sum, _mm256_add_epi16(a, b));
                        }
                    }
                    for sum in &mut integers {
                        *sum = _mm256_madd_epi16(*sum, ones);
                    }
                } else if kind.bits() < 8 {
                    let groups = 8 / runs;
                    // The products of so many groups fit 16 bits.
                    let some = if kind.bits() > 5 { 2 } else { 4 };
                    for from in (run * groups..(run + 1) * groups).step_by(some) {
                        let mut pairs = [_mm256_setzero_si256(); T];
                        for i in from..from + some {
                            let q = planes::<KIND>(w, i);
                            for (t, pairs) in pairs.iter_mut().enumerate() {
                                let products = _mm256_maddubs_epi16(q, four(t, i));
                                *pairs = _mm256_add_epi16(*pairs, products);
                            }
                        }
                        for (sum, pairs) in integers.iter_mut().zip(pairs) {
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                        }
                    }
                } else {
                    let groups = 8 / runs;
                    for i in run * groups..(run + 1) * groups {
                        let q = _mm256_loadu_si256(w.add(32 * i).cast());
                        let positive = _mm256_abs_epi8(q);
                        for (t, sum) in integers.iter_mut().enumerate() {
                            let signed = _mm256_sign_epi8(four(t, i), q);
                            let pairs = _mm256_maddubs_epi16(positive, signed);
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                        }
                    }
                }
                for (t, (sum, integers)) in sums.iter_mut().zip(integers).enumerate() {
                    let at = (b * runs + run) * T + t;
                    let a_scale = _mm256_set1_ps(*p.scale.add(b * T + t));
                    let correction = _mm256_set1_ps(*p.corrections.add(at));
                    let scaled = _mm256_fmadd_ps(_mm256_cvtepi32_ps(integers), a_scale, correction);
                    *sum = _mm256_fmadd_ps(scaled, scale[run], *sum);
                    if kind.offset() {
                        let a_sum = _mm256_set1_ps(*p.sums.add(at));
                        *sum = _mm256_fmadd_ps(a_sum, offset[run], *sum);
                    }
                }
            }
            w = w.add(ROWS * kind.value_bytes());
        }
        for (t, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(out.as_mut_ptr().add(t * ROWS), *sum);
        }
    }
}

/// Four inputs of every row, group `i` of eight, without their sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn planes<const KIND: u8>(w: *const u8, i: usize) -> __m256i {
    let (low, high) = const { Kind::number(KIND).planes() };
    // A plane of so many bits has as many registers; a group lies in one of them.
    let plane = |first: usize, bits: usize| {
        let shift = _mm_cvtsi32_si128((i / bits * bits) as i32);
        // SAFETY: the block has this plane.
        let all = unsafe { _mm256_loadu_si256(w.add(32 * (first + i % bits)).cast()) };
        let mask = _mm256_set1_epi8((1 << bits) - 1);
        _mm256_and_si256(_mm256_srl_epi16(all, shift), mask)
    };
    if high == 0 {
        return plane(0, low);
    }
    let above = _mm256_sll_epi16(plane(low, high), _mm_cvtsi32_si128(low as i32));
    _mm256_or_si256(plane(0, low), above)
}

/// The scales and offsets of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales<const KIND: u8>(w: *const u8, factors: *const u8) -> ([__m256; 2], [__m256; 2]) {
    let zero = _mm256_setzero_ps();
    let negative = |v| _mm256_sub_ps(zero, v);
    // SAFETY: the block begins with its scales.
    unsafe {
        let half = |at: *const u8| _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
        let eight = |i: usize| _mm_loadl_epi64(w.add(ROWS * i).cast());
        match const { Kind::number(KIND) } {
            Kind::Q8_0 | Kind::Q5_0 | Kind::Q4_0 => ([half(w), zero], [zero; 2]),
            Kind::Q5_1 | Kind::Q4_1 => ([half(w), zero], [half(w.add(16)), zero]),
            Kind::Q5_K | Kind::Q4_K => {
                let byte = |i| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight(i)));
                let scale = _mm256_mul_ps(half(factors), byte(0));
                let offset = _mm256_mul_ps(half(factors.add(16)), byte(1));
                ([scale, zero], [negative(offset), zero])
            }
            Kind::Q6_K | Kind::Q3_K => {
                let byte = |i| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(i)));
                let run = |i| _mm256_mul_ps(half(factors), byte(i));
                ([run(0), run(1)], [zero; 2])
            }
            Kind::Q2_K => {
                let (d, d_min) = (half(factors), negative(half(factors.add(16))));
                let run = |i| {
                    let both = _mm256_cvtepu8_epi32(eight(i));
                    let scale = _mm256_and_si256(both, _mm256_set1_epi32(15));
                    let offset = _mm256_srli_epi32::<4>(both);
                    (
                        _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale)),
                        _mm256_mul_ps(d_min, _mm256_cvtepi32_ps(offset)),
                    )
                };
                let (first, second) = (run(0), run(1));
                ([first.0, second.0], [first.1, second.1])
            }
        }
    }
}
