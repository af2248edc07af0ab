//! Eight numbers at a time. Every processor computes the same: nothing is fused, nothing reordered.

use std::ops::{Add, Div, Mul, Sub};

/// Lanes of a vector.
pub(super) const LANES: usize = 8;

/// Eight f32; operations are on each lane.
pub(super) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn load(values: &[f32; LANES]) -> Self;
    fn store(self) -> [f32; LANES];
    fn splat(v: f32) -> Self;
    /// `self` where it is larger than `b`, else `b`.
    fn max(self, b: Self) -> Self;
    /// `self` where it is less than `b`, else `b`.
    fn min(self, b: Self) -> Self;
    /// `yes` where `self` is larger than `b`, else `no`.
    fn larger(self, b: Self, yes: Self, no: Self) -> Self;

    /// The nearest integer in `low..=high`; `low` for what is no number.
    #[inline(always)]
    fn level(self, low: Self, high: Self) -> Self {
        // Adding and taking away 1.5 * 2^23 leaves no room for a fraction.
        let large = Self::splat(12_582_912.0);
        (self.max(low).min(high) + large) - large
    }

    /// One divided by each lane; zero for zero.
    #[inline(always)]
    fn inverse(self) -> Self {
        let zero = Self::splat(0.0);
        let inverse = Self::splat(1.0) / self;
        self.larger(zero, inverse, zero.larger(self, inverse, zero))
    }

    #[inline(always)]
    fn total(self) -> f32 {
        let s = self.store();
        ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
    }
}

/// The lane with the least value, the first of equals.
#[inline(always)]
pub(super) fn least(values: &[f32; LANES]) -> usize {
    let mut at = 0;
    for l in 1..LANES {
        if values[l] < values[at] {
            at = l;
        }
    }
    at
}

/// For any processor; the compiler finds vectors for it.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

macro_rules! portable {
    ($($trait:ident, $method:ident, $operator:tt;)*) => {$(
        impl $trait for Portable {
            type Output = Self;
            #[inline(always)]
            fn $method(self, b: Self) -> Self {
                Portable(std::array::from_fn(|l| self.0[l] $operator b.0[l]))
            }
        }
    )*};
}

portable! { Add, add, +; Sub, sub, -; Mul, mul, *; Div, div, /; }

impl Lanes for Portable {
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Portable(*values)
    }
    #[inline(always)]
    fn store(self) -> [f32; LANES] {
        self.0
    }
    #[inline(always)]
    fn splat(v: f32) -> Self {
        Portable([v; LANES])
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.larger(b, self, b)
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        b.larger(self, self, b)
    }
    #[inline(always)]
    fn larger(self, b: Self, yes: Self, no: Self) -> Self {
        let choose = |l: usize| {
            if self.0[l] > b.0[l] {
                yes.0[l]
            } else {
                no.0[l]
            }
        };
        Portable(std::array::from_fn(choose))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;
    use std::ops::{Add, Div, Mul, Sub};

    use super::{LANES, Lanes};

    /// For processors with AVX2. Used by nothing but code that is compiled for them (`blocks_avx2`):
    /// that makes its operations safe.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256);

    macro_rules! avx2 {
        ($($trait:ident, $method:ident, $intrinsic:ident;)*) => {$(
            impl $trait for Avx2 {
                type Output = Self;
                #[inline(always)]
                fn $method(self, b: Self) -> Self {
                    // SAFETY: as the type says.
                    Avx2(unsafe { $intrinsic(self.0, b.0) })
                }
            }
        )*};
    }

    avx2! {
        Add, add, _mm256_add_ps;
        Sub, sub, _mm256_sub_ps;
        Mul, mul, _mm256_mul_ps;
        Div, div, _mm256_div_ps;
    }

    impl Lanes for Avx2 {
        #[inline(always)]
        fn load(values: &[f32; LANES]) -> Self {
            // SAFETY: as the type says, and there are eight values.
            Avx2(unsafe { _mm256_loadu_ps(values.as_ptr()) })
        }
        #[inline(always)]
        fn store(self) -> [f32; LANES] {
            let mut values = [0.0; LANES];
            // SAFETY: as the type says, and there is room for eight values.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), self.0) };
            values
        }
        #[inline(always)]
        fn splat(v: f32) -> Self {
            // SAFETY: as the type says, for all that follow.
            Avx2(unsafe { _mm256_set1_ps(v) })
        }
        #[inline(always)]
        fn max(self, b: Self) -> Self {
            Avx2(unsafe { _mm256_max_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn min(self, b: Self) -> Self {
            Avx2(unsafe { _mm256_min_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn larger(self, b: Self, yes: Self, no: Self) -> Self {
            let mask = unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, b.0) };
            Avx2(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
        }
    }
}
