//! AVX-512 VNNI: `vpdpbusd` multiplies 64 unsigned bytes with signed ones.
//!
//! A register holds four inputs of 16 rows. A block of 32 inputs, eight registers, is loaded (nibbles
//! are split) once for all tokens; for each token its four inputs are broadcast out of memory.

use std::arch::x86_64::*;

use super::super::pack::Kind;
use super::{MOST_ROWS, MOST_TOKENS, Pointers, for_kind, kinds};

const ROWS: usize = 16;

/// # Safety
/// The processor has AVX-512 F, BW, VL and VNNI. `w` is a tile of `p.blocks` blocks of this kind, `p`
/// has `n` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
pub(super) unsafe fn tile(
    kind: Kind,
    w: *const u8,
    p: Pointers,
    n: usize,
    out: &mut [f32; MOST_ROWS * MOST_TOKENS],
) {
    // SAFETY: what the caller says.
    unsafe { for_kind!(kind, n, [16, 8, 4, 2, 1], tokens(w, p, out)) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn tokens<const KIND: u8, const T: usize>(
    mut w: *const u8,
    p: Pointers,
    out: &mut [f32; MOST_ROWS * MOST_TOKENS],
) {
    // SAFETY: every read is within the tile and the tokens, as `tile`'s caller says.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); T];
        let mut factors = w;
        for b in 0..p.blocks {
            if KIND == kinds::NIBBLES_SUPER && b % 8 == 0 {
                factors = w;
                w = w.add(4 * ROWS);
            }
            let (scale, offset, bytes) = scales::<KIND>(w, factors);
            w = w.add(bytes);
            let mut q = [_mm512_setzero_si512(); 8];
            if kinds::nibbles(KIND) {
                let low = _mm512_set1_epi8(15);
                for i in 0..4 {
                    let both = _mm512_loadu_si512(w.add(64 * i).cast());
                    q[i] = _mm512_and_si512(both, low);
                    q[i + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
                }
                w = w.add(256);
            } else {
                for (i, q) in q.iter_mut().enumerate() {
                    *q = _mm512_loadu_si512(w.add(64 * i).cast());
                }
                w = w.add(512);
            }
            for (t, sum) in sums.iter_mut().enumerate() {
                let a = p.q.add(t * p.cols + b * 32).cast::<i32>();
                let mut halves = [_mm512_setzero_si512(); 2];
                for i in 0..4 {
                    for (h, half) in halves.iter_mut().enumerate() {
                        let i = 4 * h + i;
                        let four = _mm512_set1_epi32(a.add(i).read_unaligned());
                        *half = _mm512_dpbusd_epi32(*half, q[i], four);
                    }
                }
                let a_scale = _mm512_set1_ps(*p.scale.add(t * p.blocks + b));
                let run = |i: usize| t * p.runs + if kinds::halves(KIND) { 2 * b + i } else { b };
                let scaled = |integers, i| {
                    let correction = _mm512_set1_ps(*p.corrections.add(run(i)));
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(integers), a_scale, correction)
                };
                if kinds::halves(KIND) {
                    *sum = _mm512_fmadd_ps(scaled(halves[0], 0), scale[0], *sum);
                    *sum = _mm512_fmadd_ps(scaled(halves[1], 1), scale[1], *sum);
                } else {
                    let both = _mm512_add_epi32(halves[0], halves[1]);
                    *sum = _mm512_fmadd_ps(scaled(both, 0), scale[0], *sum);
                }
                if kinds::offset(KIND) {
                    for (i, offset) in offset.iter().enumerate() {
                        if i == 0 || kinds::halves(KIND) {
                            let a_sum = _mm512_set1_ps(*p.sums.add(run(i)));
                            *sum = _mm512_fmadd_ps(a_sum, *offset, *sum);
                        }
                    }
                }
            }
        }
        for (t, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(out.as_mut_ptr().add(t * ROWS), *sum);
        }
    }
}

/// The scales and offsets of a block, and the bytes that they take.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn scales<const KIND: u8>(
    w: *const u8,
    factors: *const u8,
) -> ([__m512; 2], [__m512; 2], usize) {
    let zero = _mm512_setzero_ps();
    // SAFETY: the block begins with its scales.
    unsafe {
        let half = |at: *const u8| _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
        let float = |i: usize| _mm512_loadu_ps(w.add(4 * ROWS * i).cast());
        let byte =
            |at: *const u8| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast())));
        match KIND {
            kinds::BYTES | kinds::NIBBLES => ([half(w), zero], [zero; 2], 32),
            kinds::NIBBLES_OFFSET => ([half(w), zero], [half(w.add(32)), zero], 64),
            kinds::NIBBLES_SUPER => {
                let scale = _mm512_mul_ps(half(factors), byte(w));
                let offset = _mm512_mul_ps(half(factors.add(32)), byte(w.add(16)));
                ([scale, zero], [_mm512_sub_ps(zero, offset), zero], 32)
            }
            kinds::BYTES_HALVES => ([float(0), float(1)], [zero; 2], 128),
            kinds::BYTES_OFFSET => ([float(0), zero], [float(1), zero], 128),
            _ => ([float(0), float(1)], [float(2), float(3)], 256),
        }
    }
}
