//! NEON: `sdot` multiplies 16 signed bytes in fours, `smmla` two rows of eight with two others, and
//! without either, products are widened and added up in pairs.
//!
//! A tile has 8 rows. With `sdot` a register holds four inputs of four rows, and the activations come
//! by lane; with `smmla` it holds eight inputs of two rows, and the activations are pairs of tokens.
//! The instructions are written out, since their intrinsics are not stable.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::kind::Kind;
use super::{MOST_ROWS, MOST_TOKENS, Pointers, for_kind, unrolled};

const ROWS: usize = 8;

type Out = [f32; MOST_ROWS * MOST_TOKENS];

/// # Safety
/// The processor has NEON. `w` is a tile of `p.blocks` blocks of this kind, `p` has `n` tokens.
#[target_feature(enable = "neon")]
pub(super) unsafe fn plain(kind: Kind, w: *const u8, p: Pointers, n: usize, out: &mut Out) {
    // SAFETY: what the caller says.
    unsafe { for_kind!(kind, n, [4, 1], plain_tokens(w, p, out)) }
}

/// # Safety
/// As [`plain`], and the processor has the dot product.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn dotprod(kind: Kind, w: *const u8, p: Pointers, n: usize, out: &mut Out) {
    // SAFETY: what the caller says.
    unsafe { for_kind!(kind, n, [4, 1], dotprod_tokens(w, p, out)) }
}

/// # Safety
/// As [`plain`], the processor has 8-bit matrix products, and tokens come in pairs.
#[target_feature(enable = "neon,i8mm")]
pub(super) unsafe fn i8mm(kind: Kind, w: *const u8, p: Pointers, n: usize, out: &mut Out) {
    // SAFETY: what the caller says.
    unsafe { for_kind!(kind, n / 2, [2, 1], i8mm_pairs(w, p, out)) }
}

/// Scales and offsets of one run: rows 0 to 3 and 4 to 7.
#[derive(Clone, Copy)]
struct Scales {
    scale: [float32x4_t; 2],
    offset: [float32x4_t; 2],
}

/// The scales of both runs of a block.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scales<const KIND: u8>(w: *const u8, factors: *const u8) -> [Scales; 2] {
    // SAFETY: the block begins with its scales.
    unsafe {
        let zero = vdupq_n_f32(0.0);
        let eight = |bytes: uint8x8_t| {
            let wide = vmovl_u8(bytes);
            [
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))),
                vcvtq_f32_u32(vmovl_high_u16(wide)),
            ]
        };
        let product = |a: [float32x4_t; 2], b: [float32x4_t; 2]| {
            [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])]
        };
        let negative = |v: [float32x4_t; 2]| [vnegq_f32(v[0]), vnegq_f32(v[1])];
        let one = |scale, offset| [Scales { scale, offset }; 2];
        match const { Kind::number(KIND) } {
            Kind::Q8_0 | Kind::Q5_0 => one(halves(w), [zero; 2]),
            Kind::Q4_0 => {
                // The integers are 16 times as large, see `nibbles`.
                let less = [vdupq_n_f32(1.0 / 16.0); 2];
                one(product(halves(w), less), [zero; 2])
            }
            Kind::Q5_1 | Kind::Q4_1 => one(halves(w), halves(w.add(16))),
            Kind::Q5_K | Kind::Q4_K => {
                let scale = product(halves(factors), eight(vld1_u8(w)));
                let offset = product(halves(factors.add(16)), eight(vld1_u8(w.add(8))));
                one(scale, negative(offset))
            }
            Kind::Q6_K | Kind::Q3_K => {
                let run = |i: usize| {
                    let wide = vmovl_s8(vld1_s8(w.add(ROWS * i).cast()));
                    let scale = [
                        vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))),
                        vcvtq_f32_s32(vmovl_high_s16(wide)),
                    ];
                    Scales {
                        scale: product(halves(factors), scale),
                        offset: [zero; 2],
                    }
                };
                [run(0), run(1)]
            }
            Kind::Q2_K => {
                let (d, d_min) = (halves(factors), negative(halves(factors.add(16))));
                let run = |i: usize| {
                    let both = vld1_u8(w.add(ROWS * i));
                    Scales {
                        scale: product(d, eight(vand_u8(both, vdup_n_u8(15)))),
                        offset: product(d_min, eight(vshr_n_u8::<4>(both))),
                    }
                };
                [run(0), run(1)]
            }
        }
    }
}

/// Eight f16 as f32.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(at: *const u8) -> [float32x4_t; 2] {
    // SAFETY: the caller gives a place with 16 bytes; the conversion is part of every NEON.
    unsafe {
        let stored = vld1q_u8(at);
        let (low, high): (float32x4_t, float32x4_t);
        asm!(
            "fcvtl {low:v}.4s, {stored:v}.4h",
            "fcvtl2 {high:v}.4s, {stored:v}.8h",
            stored = in(vreg) stored,
            low = out(vreg) low,
            high = out(vreg) high,
            options(pure, nomem, nostack),
        );
        [low, high]
    }
}

/// The two halves of a block's nibbles as signed bytes. Those of Q4_0 are stored with their sign and
/// come out 16 times as large, which costs no instruction for the sign.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn nibbles<const KIND: u8>(both: uint8x16_t) -> (int8x16_t, int8x16_t) {
    if KIND == Kind::Q4_0 as u8 {
        (
            vreinterpretq_s8_u8(vshlq_n_u8::<4>(both)),
            vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(0xf0))),
        )
    } else {
        (
            vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))),
            vreinterpretq_s8_u8(vshrq_n_u8::<4>(both)),
        )
    }
}

/// The integers of a block: 16 registers in the order in which bytes are stored, `GROUP` inputs of a row together.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn integers<const KIND: u8, const GROUP: usize>(w: *const u8) -> [int8x16_t; 16] {
    let kind = const { Kind::number(KIND) };
    let (low, high) = kind.planes();
    let mut q = [vdupq_n_s8(0); 16];
    // SAFETY: the caller gives a block's integers.
    unsafe {
        match low {
            8 => {
                for (i, q) in q.iter_mut().enumerate() {
                    *q = vld1q_s8(w.add(16 * i).cast());
                }
            }
            4 => {
                for i in 0..8 {
                    (q[i], q[i + 8]) = nibbles::<KIND>(vld1q_u8(w.add(16 * i)));
                }
            }
            _ => q = two_bits(w),
        }
        let w = w.add(ROWS * 4 * low);
        let above = match high {
            0 => return q,
            1 => one_bit::<GROUP>(w),
            _ => two_bits(w),
        };
        let up = vdupq_n_s8(low as i8);
        let raised = vdupq_n_s8(kind.raised());
        for (q, above) in q.iter_mut().zip(above) {
            *q = vorrq_s8(*q, vshlq_s8(above, up));
            if kind.raised() > 0 {
                *q = vsubq_s8(*q, raised);
            }
        }
    }
    q
}

/// A block's plane of two bits, 8 bytes a row.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn two_bits(w: *const u8) -> [int8x16_t; 16] {
    let mut q = [vdupq_n_s8(0); 16];
    let mask = vdupq_n_u8(3);
    for i in 0..4 {
        // SAFETY: the caller gives 64 bytes.
        let all = unsafe { vld1q_u8(w.add(16 * i)) };
        q[i] = vreinterpretq_s8_u8(vandq_u8(all, mask));
        q[i + 4] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(all), mask));
        q[i + 8] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(all), mask));
        q[i + 12] = vreinterpretq_s8_u8(vshrq_n_u8::<6>(all));
    }
    q
}

/// A block's plane of one bit, 4 bytes a row: bit `n` of them is that of inputs `4 n` and on.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn one_bit<const GROUP: usize>(w: *const u8) -> [int8x16_t; 16] {
    // SAFETY: the caller gives 32 bytes.
    let four = unsafe { [vld1q_u8(w), vld1q_u8(w.add(16))] };
    let mut q = [vdupq_n_s8(0); 16];
    let mask = vdupq_n_u8(1);
    for (i, q) in q.iter_mut().enumerate() {
        let shifted = if GROUP == 4 {
            // Four inputs of four rows.
            vshlq_u8(four[i % 2], vdupq_n_s8(-((i / 2) as i8)))
        } else {
            // Eight inputs of two rows: each row's four bytes twice, for two bits.
            let rows = vreinterpretq_u32_u8(four[i % 4 / 2]);
            let twice = if i % 2 == 0 {
                vzip1q_u32(rows, rows)
            } else {
                vzip2q_u32(rows, rows)
            };
            let bit = 2 * (i / 4) as i8;
            let bits = vzip1q_s32(
                vreinterpretq_s32_s8(vdupq_n_s8(-bit)),
                vreinterpretq_s32_s8(vdupq_n_s8(-bit - 1)),
            );
            vshlq_u8(vreinterpretq_u8_u32(twice), vreinterpretq_s8_s32(bits))
        };
        *q = vreinterpretq_s8_u8(vandq_u8(shifted, mask));
    }
    q
}

/// The sums of a token: `sum += (scaled integers) * scale + a_sum * offset`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_up<const KIND: u8>(
    sum: &mut [float32x4_t; 2],
    integers: [int32x4_t; 2],
    a_scale: f32,
    a_sum: *const f32,
    s: &Scales,
) {
    for half in 0..2 {
        let scaled = vmulq_n_f32(vcvtq_f32_s32(integers[half]), a_scale);
        sum[half] = vfmaq_f32(sum[half], scaled, s.scale[half]);
        if const { Kind::number(KIND).offset() } {
            // SAFETY: a format with offsets has sums.
            sum[half] = vfmaq_n_f32(sum[half], s.offset[half], unsafe { *a_sum });
        }
    }
}

macro_rules! sdot {
    ($sum:expr, $q:expr, $a:expr, $lane:literal) => {
        asm!(
            concat!("sdot {sum:v}.4s, {q:v}.16b, {a:v}.4b[", $lane, "]"),
            sum = inout(vreg) $sum,
            q = in(vreg) $q,
            a = in(vreg) $a,
            options(pure, nomem, nostack),
        )
    };
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn dotprod_tokens<const KIND: u8, const T: usize>(
    mut w: *const u8,
    p: Pointers,
    out: &mut Out,
) {
    let kind = const { Kind::number(KIND) };
    // SAFETY: every read is within the tile and the tokens, as the caller says.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 2]; T];
        let mut factors = w;
        for b in 0..p.blocks {
            if kind.super_bytes() > 0 && b % 8 == 0 {
                factors = w;
                w = w.add(ROWS * kind.super_bytes());
            }
            let s = scales::<KIND>(w, factors);
            w = w.add(ROWS * kind.scale_bytes());
            let q = integers::<KIND, 4>(w);
            w = w.add(ROWS * kind.value_bytes());
            unrolled!(t < T, {
                let a = p.q.add((b * T + t) * 32);
                let (first, second) = (vld1q_s8(a), vld1q_s8(a.add(16)));
                let a_scale = *p.scale.add(b * T + t);
                let (mut low, mut high) = (vdupq_n_s32(0), vdupq_n_s32(0));
                sdot!(low, q[0], first, 0);
                sdot!(high, q[1], first, 0);
                sdot!(low, q[2], first, 1);
                sdot!(high, q[3], first, 1);
                sdot!(low, q[4], first, 2);
                sdot!(high, q[5], first, 2);
                sdot!(low, q[6], first, 3);
                sdot!(high, q[7], first, 3);
                if kind.halves() {
                    let a_sum = p.sums.add(2 * b * T + t);
                    add_up::<KIND>(&mut sums[t], [low, high], a_scale, a_sum, &s[0]);
                    (low, high) = (vdupq_n_s32(0), vdupq_n_s32(0));
                }
                sdot!(low, q[8], second, 0);
                sdot!(high, q[9], second, 0);
                sdot!(low, q[10], second, 1);
                sdot!(high, q[11], second, 1);
                sdot!(low, q[12], second, 2);
                sdot!(high, q[13], second, 2);
                sdot!(low, q[14], second, 3);
                sdot!(high, q[15], second, 3);
                let run = if kind.halves() { 2 * b + 1 } else { b };
                let a_sum = p.sums.add(run * T + t);
                add_up::<KIND>(&mut sums[t], [low, high], a_scale, a_sum, &s[1]);
            });
        }
        unrolled!(t < T, {
            vst1q_f32(out.as_mut_ptr().add(t * ROWS), sums[t][0]);
            vst1q_f32(out.as_mut_ptr().add(t * ROWS + 4), sums[t][1]);
        });
    }
}

#[target_feature(enable = "neon")]
unsafe fn plain_tokens<const KIND: u8, const T: usize>(
    mut w: *const u8,
    p: Pointers,
    out: &mut Out,
) {
    let kind = const { Kind::number(KIND) };
    // SAFETY: every read is within the tile and the tokens, as the caller says.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 2]; T];
        let mut factors = w;
        for b in 0..p.blocks {
            if kind.super_bytes() > 0 && b % 8 == 0 {
                factors = w;
                w = w.add(ROWS * kind.super_bytes());
            }
            let s = scales::<KIND>(w, factors);
            w = w.add(ROWS * kind.scale_bytes());
            let q = integers::<KIND, 4>(w);
            w = w.add(ROWS * kind.value_bytes());
            for (t, sum) in sums.iter_mut().enumerate() {
                let a = p.q.add((b * T + t) * 32).cast::<i32>();
                let a_scale = *p.scale.add(b * T + t);
                let runs = if kind.halves() { 2 } else { 1 };
                for run in 0..runs {
                    // Rows 0 and 1, 2 and 3 and so on; of each row the sums of its pairs of inputs.
                    let mut pairs = [vdupq_n_s32(0); 4];
                    for i in run * 8 / runs..(run + 1) * 8 / runs {
                        let four = vreinterpretq_s8_s32(vdupq_n_s32(a.add(i).read_unaligned()));
                        for half in 0..2 {
                            let q = q[2 * i + half];
                            let low = vmull_s8(vget_low_s8(q), vget_low_s8(four));
                            let high = vmull_high_s8(q, four);
                            pairs[2 * half] = vpadalq_s16(pairs[2 * half], low);
                            pairs[2 * half + 1] = vpadalq_s16(pairs[2 * half + 1], high);
                        }
                    }
                    let integers = [
                        vpaddq_s32(pairs[0], pairs[1]),
                        vpaddq_s32(pairs[2], pairs[3]),
                    ];
                    let at = if kind.halves() { 2 * b + run } else { b };
                    let a_sum = p.sums.add(at * T + t);
                    add_up::<KIND>(sum, integers, a_scale, a_sum, &s[run]);
                }
            }
        }
        for (t, sum) in sums.iter().enumerate() {
            vst1q_f32(out.as_mut_ptr().add(t * ROWS), sum[0]);
            vst1q_f32(out.as_mut_ptr().add(t * ROWS + 4), sum[1]);
        }
    }
}

/// `P` pairs of tokens. A sum register holds two rows of two tokens: row 0 token 0, row 0 token 1,
/// row 1 token 0, row 1 token 1.
#[target_feature(enable = "neon,i8mm")]
unsafe fn i8mm_pairs<const KIND: u8, const P: usize>(mut w: *const u8, p: Pointers, out: &mut Out) {
    let kind = const { Kind::number(KIND) };
    // SAFETY: every read is within the tile and the tokens, as the caller says.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 4]; P];
        let mut factors = w;
        for b in 0..p.blocks {
            if kind.super_bytes() > 0 && b % 8 == 0 {
                factors = w;
                w = w.add(ROWS * kind.super_bytes());
            }
            let s = scales::<KIND>(w, factors);
            w = w.add(ROWS * kind.scale_bytes());
            let q = integers::<KIND, 8>(w);
            w = w.add(ROWS * kind.value_bytes());
            let runs = if kind.halves() { 2 } else { 1 };
            unrolled!(pair < P, {
                let a = p.q.add((b * P + pair) * 64);
                let token = |t: usize| 2 * pair + t;
                let scale = |t: usize| *p.scale.add(b * 2 * P + token(t));
                let a_scale = in_turn(scale(0), scale(1));
                for run in 0..runs {
                    let mut integers = [vdupq_n_s32(0); 4];
                    unrolled!(group < 4, {
                        if runs == 1 || group / 2 == run {
                            let eight = vld1q_s8(a.add(16 * group));
                            unrolled!(rows < 4, {
                                asm!(
                                    "smmla {sum:v}.4s, {q:v}.16b, {a:v}.16b",
                                    sum = inout(vreg) integers[rows],
                                    q = in(vreg) q[4 * group + rows],
                                    a = in(vreg) eight,
                                    options(pure, nomem, nostack),
                                );
                            });
                        }
                    });
                    let s = &s[run];
                    let twice = |v: [float32x4_t; 2], rows: usize| {
                        let v = v[rows / 2];
                        if rows % 2 == 0 {
                            vzip1q_f32(v, v)
                        } else {
                            vzip2q_f32(v, v)
                        }
                    };
                    let at = if kind.halves() { 2 * b + run } else { b };
                    unrolled!(rows < 4, {
                        let scaled = vmulq_f32(vcvtq_f32_s32(integers[rows]), a_scale);
                        let mut sum = vfmaq_f32(sums[pair][rows], scaled, twice(s.scale, rows));
                        if kind.offset() {
                            let a_sum = |t: usize| *p.sums.add(at * 2 * P + token(t));
                            let a_sum = in_turn(a_sum(0), a_sum(1));
                            sum = vfmaq_f32(sum, a_sum, twice(s.offset, rows));
                        }
                        sums[pair][rows] = sum;
                    });
                }
            });
        }
        unrolled!(pair < P, {
            unrolled!(rows < 4, {
                let mut four = [0.0f32; 4];
                vst1q_f32(four.as_mut_ptr(), sums[pair][rows]);
                for (i, v) in four.into_iter().enumerate() {
                    out[(2 * pair + i % 2) * ROWS + 2 * rows + i / 2] = v;
                }
            });
        });
    }
}

/// The lanes `a, b, a, b`.
#[inline]
#[target_feature(enable = "neon")]
fn in_turn(a: f32, b: f32) -> float32x4_t {
    vzip1q_f32(vdupq_n_f32(a), vdupq_n_f32(b))
}
