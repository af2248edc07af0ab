//! Vectors of f32, so that a kernel is written once and compiled for each instruction set.
//!
//! A kernel is a generic function over [`Lanes`], always inlined into a function that is compiled
//! with the set's features ([`dispatched`]); only there do the intrinsics become instructions.

/// A vector of f32.
///
/// # Safety
/// Every method may only run on a processor that has the set; [`dispatched`] sees to that.
pub(super) trait Lanes: Copy {
    /// Values in a vector.
    const LEN: usize;

    /// The same value in every lane.
    unsafe fn splat(v: f32) -> Self;
    /// The `LEN` values at `p`, which needs no alignment.
    unsafe fn load(p: *const f32) -> Self;
    /// The `LEN` f16 at `p`, which needs no alignment.
    unsafe fn load_f16(p: *const u16) -> Self;
    /// The `LEN` BF16 at `p`, which needs no alignment.
    unsafe fn load_bf16(p: *const u16) -> Self;
    /// Writes `LEN` values as f16 to `p`, rounded to the nearest.
    unsafe fn store_f16(self, p: *mut u16);
    /// Writes `LEN` values to `p`.
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    /// `self * b + c`, rounded once where the set can.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    unsafe fn max(self, b: Self) -> Self;
    unsafe fn min(self, b: Self) -> Self;
    /// Rounded to the nearest integer, halves to even.
    unsafe fn round(self) -> Self;
    /// `2^self` for an integer in -126..=127.
    unsafe fn exp2_of_integer(self) -> Self;
}

/// What portable code works on: the compiler finds vectors for it.
pub(super) type Portable = [f32; 4];

impl Lanes for Portable {
    const LEN: usize = 4;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        [v; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives a place with four values.
        unsafe { p.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: as above.
        let bits = unsafe { p.cast::<[u16; 4]>().read_unaligned() };
        bits.map(|b| half::f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        // SAFETY: as above.
        let bits = unsafe { p.cast::<[u16; 4]>().read_unaligned() };
        bits.map(|b| f32::from_bits(u32::from(b) << 16))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        let bits = self.map(|v| half::f16::from_f32(v).to_bits());
        // SAFETY: as above.
        unsafe { p.cast::<[u16; 4]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as above.
        unsafe { p.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] * b[i])
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // Not fused: without the instruction that would be a call.
        std::array::from_fn(|i| self[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        std::array::from_fn(|i| if self[i] > b[i] { self[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        std::array::from_fn(|i| if self[i] < b[i] { self[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding and taking away 1.5 * 2^23 leaves no room for a fraction.
        let large = 12_582_912.0;
        self.map(|v| (v + large) - large)
    }
    #[inline(always)]
    unsafe fn exp2_of_integer(self) -> Self {
        self.map(|v| f32::from_bits(((v as i32 + 127) << 23) as u32))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    impl Lanes for __m512 {
        const LEN: usize = 16;

        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            unsafe { _mm512_set1_ps(v) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn store_f16(self, p: *mut u16) {
            unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<0>(self)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm512_storeu_ps(p, self) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { _mm512_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { _mm512_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe { _mm512_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn div(self, b: Self) -> Self {
            unsafe { _mm512_div_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { _mm512_max_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { _mm512_min_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            unsafe { _mm512_roundscale_ps::<0>(self) }
        }
        #[inline(always)]
        unsafe fn exp2_of_integer(self) -> Self {
            unsafe { _mm512_scalef_ps(_mm512_set1_ps(1.0), self) }
        }
    }

    impl Lanes for __m256 {
        const LEN: usize = 8;

        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            unsafe { _mm256_set1_ps(v) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self {
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn store_f16(self, p: *mut u16) {
            unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<0>(self)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm256_storeu_ps(p, self) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { _mm256_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { _mm256_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe { _mm256_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn div(self, b: Self) -> Self {
            unsafe { _mm256_div_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { _mm256_max_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { _mm256_min_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
        }
        #[inline(always)]
        unsafe fn exp2_of_integer(self) -> Self {
            unsafe {
                let n = _mm256_add_epi32(_mm256_cvtps_epi32(self), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod arm {
    use std::arch::aarch64::*;

    use super::Lanes;

    impl Lanes for float32x4_t {
        const LEN: usize = 4;

        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            unsafe { vdupq_n_f32(v) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { vld1q_f32(p) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self {
            // The intrinsic is not stable on every compiler that is supported.
            unsafe {
                let stored = vld1_u16(p);
                let wide: float32x4_t;
                std::arch::asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) stored,
                    options(pure, nomem, nostack));
                wide
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self {
            unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p))) }
        }
        #[inline(always)]
        unsafe fn store_f16(self, p: *mut u16) {
            unsafe {
                let narrow: uint16x4_t;
                std::arch::asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) narrow, in(vreg) self,
                    options(pure, nomem, nostack));
                vst1_u16(p, narrow);
            }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { vst1q_f32(p, self) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { vaddq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { vmulq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe { vfmaq_f32(c, self, b) }
        }
        #[inline(always)]
        unsafe fn div(self, b: Self) -> Self {
            unsafe { vdivq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { vmaxq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { vminq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            unsafe { vrndnq_f32(self) }
        }
        #[inline(always)]
        unsafe fn exp2_of_integer(self) -> Self {
            unsafe {
                let n = vaddq_s32(vcvtnq_s32_f32(self), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(n))
            }
        }
    }
}

/// Makes a safe function of a generic kernel: `name(set, arguments)` runs `body::name::<Lanes>` in
/// code that was compiled for the set.
macro_rules! dispatched {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?);) => {
        $(#[$doc])*
        pub(super) fn $name(set: InstructionSet, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
            fn avx512($($arg: $ty),*) {
                // SAFETY: this function is compiled with the features, and only called where they
                // were detected.
                unsafe { body::$name::<std::arch::x86_64::__m512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) {
                // SAFETY: as above.
                unsafe { body::$name::<std::arch::x86_64::__m256>($($arg),*) }
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            fn neon($($arg: $ty),*) {
                // SAFETY: as above.
                unsafe { body::$name::<std::arch::aarch64::float32x4_t>($($arg),*) }
            }
            fn scalar($($arg: $ty),*) {
                // SAFETY: plain code, for every processor.
                unsafe { body::$name::<Portable>($($arg),*) }
            }
            match set {
                // SAFETY: a device is made with a set that was detected, see `Cpu::new`.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512Vnni => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                InstructionSet::Neon | InstructionSet::NeonDotprod | InstructionSet::NeonI8mm => unsafe {
                    neon($($arg),*)
                },
                _ => scalar($($arg),*),
            }
        }
    };
}
pub(super) use dispatched;
