//! AVX2: `vpmaddubsw` multiplies 32 unsigned bytes with signed ones, in pairs.
//!
//! A register holds four inputs of 8 rows. Signed bytes are multiplied as `|q| * (a with q's sign)`:
//! two such products are at most 2 * 127 * 127 and fit 16 bits. Products of nibbles and of two bits are small
//! enough that a whole block's are added up in 16 bits.

use std::arch::x86_64::*;

use super::super::pack::Kind;
use super::{MOST_ROWS, MOST_TOKENS, Pointers, for_kind, kinds};

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
    let runs = if kinds::halves(KIND) { 2 } else { 1 };
    let ones = _mm256_set1_epi16(1);
    // SAFETY: every read is within the tile and the tokens, as `tile`'s caller says.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); T];
        let mut factors = w;
        for b in 0..p.blocks {
            if kinds::supers(KIND) && b % 8 == 0 {
                factors = w;
                w = w.add(4 * ROWS);
            }
            let (scale, offset, bytes) = scales::<KIND>(w, factors);
            w = w.add(bytes);
            let four = |t: usize, i: usize| {
                let a = p.q.add((b * T + t) * 32 + 4 * i).cast::<i32>();
                _mm256_set1_epi32(a.read_unaligned())
            };
            for run in 0..runs {
                let mut integers = [_mm256_setzero_si256(); T];
                if kinds::nibbles(KIND) {
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
                } else if KIND == kinds::TWO_BITS_SUPER {
                    let low = _mm256_set1_epi8(3);
                    for i in 0..2 {
                        let four_of = _mm256_loadu_si256(w.add(32 * i).cast());
                        for part in 2 * run..2 * run + 2 {
                            let count = _mm_cvtsi32_si128(2 * part as i32);
                            let q = _mm256_and_si256(_mm256_srl_epi16(four_of, count), low);
                            for (t, sum) in integers.iter_mut().enumerate() {
                                let pairs = _mm256_maddubs_epi16(q, four(t, 2 * part + i));
                                *sum = _mm256_add_epi16(*sum, pairs);
                            }
                        }
                    }
                    for sum in &mut integers {
                        *sum = _mm256_madd_epi16(*sum, ones);
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
                    if kinds::offset(KIND) {
                        let a_sum = _mm256_set1_ps(*p.sums.add(at));
                        *sum = _mm256_fmadd_ps(a_sum, offset[run], *sum);
                    }
                }
            }
            w = w.add(ROWS * kinds::value_bytes(KIND));
        }
        for (t, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(out.as_mut_ptr().add(t * ROWS), *sum);
        }
    }
}

/// The scales and offsets of a block, and the bytes that they take.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales<const KIND: u8>(
    w: *const u8,
    factors: *const u8,
) -> ([__m256; 2], [__m256; 2], usize) {
    let zero = _mm256_setzero_ps();
    // SAFETY: the block begins with its scales.
    unsafe {
        let half = |at: *const u8| _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
        let float = |i: usize| _mm256_loadu_ps(w.add(4 * ROWS * i).cast());
        let byte =
            |at: *const u8| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast())));
        match KIND {
            kinds::BYTES | kinds::NIBBLES => ([half(w), zero], [zero; 2], 16),
            kinds::NIBBLES_OFFSET => ([half(w), zero], [half(w.add(16)), zero], 32),
            kinds::NIBBLES_SUPER => {
                let scale = _mm256_mul_ps(half(factors), byte(w));
                let offset = _mm256_mul_ps(half(factors.add(16)), byte(w.add(8)));
                ([scale, zero], [_mm256_sub_ps(zero, offset), zero], 16)
            }
            kinds::BYTES_HALVES => ([float(0), float(1)], [zero; 2], 64),
            kinds::BYTES_OFFSET => ([float(0), zero], [float(1), zero], 64),
            _ => {
                let (d, d_min) = (half(factors), _mm256_sub_ps(zero, half(factors.add(16))));
                let run = |i: usize| {
                    let both = _mm256_cvtepu8_epi32(_mm_loadl_epi64(w.add(ROWS * i).cast()));
                    let scale = _mm256_and_si256(both, _mm256_set1_epi32(15));
                    (
                        _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale)),
                        _mm256_mul_ps(d_min, _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(both))),
                    )
                };
                let (first, second) = (run(0), run(1));
                ([first.0, second.0], [first.1, second.1], 16)
            }
        }
    }
}
