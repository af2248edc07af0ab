//! AVX-512 VNNI: `vpdpbusd` multiplies 64 unsigned bytes with signed ones.
//!
//! A register holds four inputs of 16 rows. A block of 32 inputs, eight registers, is loaded (nibbles
//! are split) once for all tokens; for each token its four inputs are broadcast out of memory.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::kind::{Kind, Layout};
use super::super::set::InstructionSet;
use super::{MOST_ROWS, MOST_TOKENS, Pointers, for_kind, unrolled};

const ROWS: usize = 16;
const LAYOUT: Layout = Layout::of(InstructionSet::Avx512Vnni);

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
    unsafe { for_kind!(kind, n, [6, 4, 2, 1], tokens(w, p, out)) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn tokens<const KIND: u8, const T: usize>(
    mut w: *const u8,
    p: Pointers,
    out: &mut [f32; MOST_ROWS * MOST_TOKENS],
) {
    let kind = const { Kind::number(KIND) };
    // SAFETY: every read is within the tile and the tokens, as `tile`'s caller says.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); T];
        let mut factors = w;
        for b in 0..p.blocks {
            if kind.super_bytes() > 0 && b % 8 == 0 {
                factors = w;
                w = w.add(ROWS * kind.super_bytes());
            }
            let (scale, offset) = scales::<KIND>(w, factors);
            w = w.add(ROWS * kind.scale_bytes());
            let mut q = [_mm512_setzero_si512(); 8];
            if kind.bits() == 4 {
                let low = _mm512_set1_epi8(15);
                unrolled!(i < 4, {
                    let both = _mm512_loadu_si512(w.add(64 * i).cast());
                    q[i] = _mm512_and_si512(both, low);
                    q[i + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
                });
            } else {
                unrolled!(i < 8, { q[i] = integers::<KIND>(w, i) });
            }
            w = w.add(ROWS * kind.value_bytes());
            unrolled!(t < T, {
                let [first, second] = halves(&q, p.q.add((b * T + t) * 32));
                let a_scale = _mm512_set1_ps(*p.scale.add(b * T + t));
                let run = |i: usize| if kind.halves() { 2 * b + i } else { b } * T + t;
                let scaled = |integers, i| {
                    let integers = _mm512_cvtepi32_ps(integers);
                    if kind.bias(LAYOUT) > 0 {
                        let correction = _mm512_set1_ps(*p.corrections.add(run(i)));
                        _mm512_fmadd_ps(integers, a_scale, correction)
                    } else {
                        _mm512_mul_ps(integers, a_scale)
                    }
                };
                let a_sum = |i| _mm512_set1_ps(*p.sums.add(run(i)));
                let mut sum = sums[t];
                if kind.halves() {
                    sum = _mm512_fmadd_ps(scaled(first, 0), scale[0], sum);
                    sum = _mm512_fmadd_ps(scaled(second, 1), scale[1], sum);
                } else {
                    sum =
                        _mm512_fmadd_ps(scaled(_mm512_add_epi32(first, second), 0), scale[0], sum);
                }
                if kind.offset() {
                    sum = _mm512_fmadd_ps(a_sum(0), offset[0], sum);
                    if kind.halves() {
                        sum = _mm512_fmadd_ps(a_sum(1), offset[1], sum);
                    }
                }
                sums[t] = sum;
            });
        }
        unrolled!(t < T, {
            _mm512_storeu_ps(out.as_mut_ptr().add(t * ROWS), sums[t])
        });
    }
}

/// The tokens that [`pair`] takes.
pub(super) const PAIR_TOKENS: usize = 6;

/// Two tiles and six tokens at once: each broadcast serves both tiles, so that multiplying and not
/// loading is the limit. Only for kinds whose halves share a scale.
///
/// # Safety
/// As [`tile`]; both are tiles of `p.blocks` blocks of this kind, `p` has six tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
pub(super) unsafe fn pair(
    kind: Kind,
    w: [*const u8; 2],
    p: Pointers,
    out: &mut [[f32; MOST_ROWS * MOST_TOKENS]; 2],
) {
    // SAFETY: what the caller says.
    unsafe { for_kind!(kind, 6, [6], six(w, p, out)) }
}

/// One step of [`six`]: four inputs of two tiles (in `w0` and `w1`) and six tokens.
macro_rules! four_inputs {
    ($at:expr) => {
        concat!(
            "vpbroadcastd {b}, dword ptr [{a} + ",
            $at,
            "]\n",
            "vpdpbusd {x0}, {w0}, {b}\n",
            "vpdpbusd {y0}, {w1}, {b}\n",
            "vpbroadcastd {b}, dword ptr [{a} + 32 + ",
            $at,
            "]\n",
            "vpdpbusd {x1}, {w0}, {b}\n",
            "vpdpbusd {y1}, {w1}, {b}\n",
            "vpbroadcastd {b}, dword ptr [{a} + 64 + ",
            $at,
            "]\n",
            "vpdpbusd {x2}, {w0}, {b}\n",
            "vpdpbusd {y2}, {w1}, {b}\n",
            "vpbroadcastd {b}, dword ptr [{a} + 96 + ",
            $at,
            "]\n",
            "vpdpbusd {x3}, {w0}, {b}\n",
            "vpdpbusd {y3}, {w1}, {b}\n",
            "vpbroadcastd {b}, dword ptr [{a} + 128 + ",
            $at,
            "]\n",
            "vpdpbusd {x4}, {w0}, {b}\n",
            "vpdpbusd {y4}, {w1}, {b}\n",
            "vpbroadcastd {b}, dword ptr [{a} + 160 + ",
            $at,
            "]\n",
            "vpdpbusd {x5}, {w0}, {b}\n",
            "vpdpbusd {y5}, {w1}, {b}\n",
        )
    };
}

macro_rules! bytes_step {
    ($i:literal) => {
        concat!(
            "vmovdqu64 {w0}, zmmword ptr [{p0} + 64 * ",
            $i,
            "]\n",
            "vmovdqu64 {w1}, zmmword ptr [{p1} + 64 * ",
            $i,
            "]\n",
            four_inputs!(concat!("4 * ", $i)),
        )
    };
}

/// The low nibbles are inputs of the first half of the block, the high ones of the second.
macro_rules! nibbles_step {
    ($i:literal) => {
        concat!(
            "vmovdqu64 {n0}, zmmword ptr [{p0} + 64 * ",
            $i,
            "]\n",
            "vmovdqu64 {n1}, zmmword ptr [{p1} + 64 * ",
            $i,
            "]\n",
            "vpandd {w0}, {n0}, {low}\n",
            "vpandd {w1}, {n1}, {low}\n",
            four_inputs!(concat!("4 * ", $i)),
            "vpsrlw {n0}, {n0}, 4\n",
            "vpsrlw {n1}, {n1}, 4\n",
            "vpandd {w0}, {n0}, {low}\n",
            "vpandd {w1}, {n1}, {low}\n",
            four_inputs!(concat!("16 + 4 * ", $i)),
        )
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn six<const KIND: u8, const T: usize>(
    [mut p0, mut p1]: [*const u8; 2],
    p: Pointers,
    out: &mut [[f32; MOST_ROWS * MOST_TOKENS]; 2],
) {
    let kind = const { Kind::number(KIND) };
    // SAFETY: every read is within the tiles and the tokens, as `pair`'s caller says.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); PAIR_TOKENS]; 2];
        let mut factors = [p0, p1];
        for b in 0..p.blocks {
            if kind.super_bytes() > 0 && b % 8 == 0 {
                factors = [p0, p1];
                p0 = p0.add(ROWS * kind.super_bytes());
                p1 = p1.add(ROWS * kind.super_bytes());
            }
            let (scale0, offset0) = scales::<KIND>(p0, factors[0]);
            let (scale1, offset1) = scales::<KIND>(p1, factors[1]);
            p0 = p0.add(ROWS * kind.scale_bytes());
            p1 = p1.add(ROWS * kind.scale_bytes());
            let a = p.q.add(b * PAIR_TOKENS * 32);
            let mut x = [_mm512_setzero_si512(); PAIR_TOKENS];
            let mut y = [_mm512_setzero_si512(); PAIR_TOKENS];
            // Written out: left to itself the compiler runs out of registers.
            if kind.bits() == 4 {
                let (w0, w1, n0, n1, broadcast): (__m512i, __m512i, __m512i, __m512i, __m512i);
                asm!(
                    concat!(
                        nibbles_step!(0), nibbles_step!(1), nibbles_step!(2), nibbles_step!(3),
                    ),
                    x0 = inout(zmm_reg) x[0], y0 = inout(zmm_reg) y[0],
                    x1 = inout(zmm_reg) x[1], y1 = inout(zmm_reg) y[1],
                    x2 = inout(zmm_reg) x[2], y2 = inout(zmm_reg) y[2],
                    x3 = inout(zmm_reg) x[3], y3 = inout(zmm_reg) y[3],
                    x4 = inout(zmm_reg) x[4], y4 = inout(zmm_reg) y[4],
                    x5 = inout(zmm_reg) x[5], y5 = inout(zmm_reg) y[5],
                    w0 = out(zmm_reg) w0, w1 = out(zmm_reg) w1, b = out(zmm_reg) broadcast,
                    n0 = out(zmm_reg) n0, n1 = out(zmm_reg) n1,
                    low = in(zmm_reg) _mm512_set1_epi8(15),
                    p0 = in(reg) p0, p1 = in(reg) p1, a = in(reg) a,
                    options(pure, readonly, nostack),
                );
                let _ = (w0, w1, n0, n1, broadcast);
            } else {
                // Integers in planes are put together here first; bytes are read where they are.
                let mut whole = [[_mm512_setzero_si512(); 8]; 2];
                let mut at = [p0, p1];
                if kind.bits() < 8 {
                    unrolled!(i < 8, {
                        whole[0][i] = integers::<KIND>(p0, i);
                        whole[1][i] = integers::<KIND>(p1, i);
                    });
                    at = [whole[0].as_ptr().cast(), whole[1].as_ptr().cast()];
                }
                let (w0, w1, broadcast): (__m512i, __m512i, __m512i);
                asm!(
                    concat!(
                        bytes_step!(0), bytes_step!(1), bytes_step!(2), bytes_step!(3),
                        bytes_step!(4), bytes_step!(5), bytes_step!(6), bytes_step!(7),
                    ),
                    x0 = inout(zmm_reg) x[0], y0 = inout(zmm_reg) y[0],
                    x1 = inout(zmm_reg) x[1], y1 = inout(zmm_reg) y[1],
                    x2 = inout(zmm_reg) x[2], y2 = inout(zmm_reg) y[2],
                    x3 = inout(zmm_reg) x[3], y3 = inout(zmm_reg) y[3],
                    x4 = inout(zmm_reg) x[4], y4 = inout(zmm_reg) y[4],
                    x5 = inout(zmm_reg) x[5], y5 = inout(zmm_reg) y[5],
                    w0 = out(zmm_reg) w0, w1 = out(zmm_reg) w1, b = out(zmm_reg) broadcast,
                    p0 = in(reg) at[0], p1 = in(reg) at[1], a = in(reg) a,
                    options(pure, readonly, nostack),
                );
                let _ = (w0, w1, broadcast);
            }
            p0 = p0.add(ROWS * kind.value_bytes());
            p1 = p1.add(ROWS * kind.value_bytes());
            unrolled!(t < PAIR_TOKENS, {
                let a_scale = _mm512_set1_ps(*p.scale.add(b * PAIR_TOKENS + t));
                let correction = if kind.bias(LAYOUT) > 0 {
                    _mm512_set1_ps(*p.corrections.add(b * PAIR_TOKENS + t))
                } else {
                    _mm512_setzero_ps()
                };
                let first = _mm512_fmadd_ps(_mm512_cvtepi32_ps(x[t]), a_scale, correction);
                let second = _mm512_fmadd_ps(_mm512_cvtepi32_ps(y[t]), a_scale, correction);
                sums[0][t] = _mm512_fmadd_ps(first, scale0[0], sums[0][t]);
                sums[1][t] = _mm512_fmadd_ps(second, scale1[0], sums[1][t]);
                if kind.offset() {
                    let a_sum = _mm512_set1_ps(*p.sums.add(b * PAIR_TOKENS + t));
                    sums[0][t] = _mm512_fmadd_ps(a_sum, offset0[0], sums[0][t]);
                    sums[1][t] = _mm512_fmadd_ps(a_sum, offset1[0], sums[1][t]);
                }
            });
        }
        unrolled!(t < PAIR_TOKENS, {
            _mm512_storeu_ps(out[0].as_mut_ptr().add(t * ROWS), sums[0][t]);
            _mm512_storeu_ps(out[1].as_mut_ptr().add(t * ROWS), sums[1][t]);
        });
    }
}

/// The sums of products of both halves of a block. Written out: left to itself the compiler works on
/// many tokens at once and runs out of registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn halves(q: &[__m512i; 8], a: *const i8) -> [__m512i; 2] {
    let (first, second): (__m512i, __m512i);
    // SAFETY: reads 32 bytes at `a`, which is a token's block.
    unsafe {
        asm!(
            "vpxord {first}, {first}, {first}",
            "vpxord {second}, {second}, {second}",
            "vpdpbusd {first}, {q0}, dword ptr [{a}]{{1to16}}",
            "vpdpbusd {second}, {q4}, dword ptr [{a} + 16]{{1to16}}",
            "vpdpbusd {first}, {q1}, dword ptr [{a} + 4]{{1to16}}",
            "vpdpbusd {second}, {q5}, dword ptr [{a} + 20]{{1to16}}",
            "vpdpbusd {first}, {q2}, dword ptr [{a} + 8]{{1to16}}",
            "vpdpbusd {second}, {q6}, dword ptr [{a} + 24]{{1to16}}",
            "vpdpbusd {first}, {q3}, dword ptr [{a} + 12]{{1to16}}",
            "vpdpbusd {second}, {q7}, dword ptr [{a} + 28]{{1to16}}",
            first = out(zmm_reg) first,
            second = out(zmm_reg) second,
            q0 = in(zmm_reg) q[0],
            q1 = in(zmm_reg) q[1],
            q2 = in(zmm_reg) q[2],
            q3 = in(zmm_reg) q[3],
            q4 = in(zmm_reg) q[4],
            q5 = in(zmm_reg) q[5],
            q6 = in(zmm_reg) q[6],
            q7 = in(zmm_reg) q[7],
            a = in(reg) a,
            options(pure, readonly, nostack),
        );
    }
    [first, second]
}

/// Four inputs of every row, group `i` of eight, without their sign.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn integers<const KIND: u8>(w: *const u8, i: usize) -> __m512i {
    let (low, high) = const { Kind::number(KIND).planes() };
    // SAFETY: the block has these registers.
    let load = |i: usize| unsafe { _mm512_loadu_si512(w.add(64 * i).cast()) };
    if low == 8 {
        return load(i);
    }
    // A plane of so many bits has as many registers; a group lies in one of them.
    let plane = |first: usize, bits: usize| {
        let shift = _mm_cvtsi32_si128((i / bits * bits) as i32);
        let shifted = _mm512_srl_epi16(load(first + i % bits), shift);
        _mm512_and_si512(shifted, _mm512_set1_epi8((1 << bits) - 1))
    };
    if high == 0 {
        return plane(0, low);
    }
    let above = _mm512_sll_epi16(plane(low, high), _mm_cvtsi32_si128(low as i32));
    _mm512_or_si512(plane(0, low), above)
}

/// The scales and offsets of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn scales<const KIND: u8>(w: *const u8, factors: *const u8) -> ([__m512; 2], [__m512; 2]) {
    let zero = _mm512_setzero_ps();
    let negative = |v| _mm512_sub_ps(zero, v);
    // SAFETY: the block begins with its scales.
    unsafe {
        let half = |at: *const u8| _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
        let sixteen = |i: usize| _mm_loadu_si128(w.add(ROWS * i).cast());
        match const { Kind::number(KIND) } {
            Kind::Q8_0 | Kind::Q5_0 | Kind::Q4_0 => ([half(w), zero], [zero; 2]),
            Kind::Q5_1 | Kind::Q4_1 => ([half(w), zero], [half(w.add(32)), zero]),
            Kind::Q5_K | Kind::Q4_K => {
                let byte = |i| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(sixteen(i)));
                let scale = _mm512_mul_ps(half(factors), byte(0));
                let offset = _mm512_mul_ps(half(factors.add(32)), byte(1));
                ([scale, zero], [negative(offset), zero])
            }
            Kind::Q6_K | Kind::Q3_K => {
                let byte = |i| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen(i)));
                let run = |i| _mm512_mul_ps(half(factors), byte(i));
                ([run(0), run(1)], [zero; 2])
            }
            Kind::Q2_K => {
                let (d, d_min) = (half(factors), negative(half(factors.add(32))));
                let run = |i| {
                    let both = _mm512_cvtepu8_epi32(sixteen(i));
                    let scale = _mm512_and_si512(both, _mm512_set1_epi32(15));
                    let offset = _mm512_srli_epi32::<4>(both);
                    (
                        _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)),
                        _mm512_mul_ps(d_min, _mm512_cvtepi32_ps(offset)),
                    )
                };
                let (first, second) = (run(0), run(1));
                ([first.0, second.0], [first.1, second.1])
            }
        }
    }
}
