//! What this processor can do at most: loops of nothing but the instructions that products are made of.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use super::set::InstructionSet;

/// Bytes that are read to measure memory: more than any cache holds.
const BYTES: usize = 512 << 20;
/// Rounds of a loop.
const ROUNDS: usize = 4_000_000;
/// Instructions in a round: enough that none waits for another.
const CHAINS: usize = 16;

/// The limits of this processor with one of its instruction sets, all threads together.
#[derive(Debug, Clone, Copy)]
pub struct Roof {
    /// Operations on 8-bit integers a second (a multiplication and an addition are two); none where
    /// the set has no instruction for them.
    pub integers: Option<f64>,
    /// Operations on 32-bit floats a second (a multiplication and an addition are two); none for the scalar set.
    pub floats: Option<f64>,
    /// Bytes read from memory a second.
    pub read: f64,
}

impl Roof {
    /// Measures for about a second.
    pub fn measure(set: InstructionSet) -> Self {
        Roof {
            integers: integers(set),
            floats: floats(set),
            read: read(),
        }
    }
}

/// The best of several runs of `work` on all threads, in seconds.
fn best(work: impl Fn() + Sync) -> f64 {
    let run = || {
        let start = Instant::now();
        rayon::broadcast(|_| work());
        start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn read() -> f64 {
    let memory: Vec<u64> = (0..BYTES as u64 / 8).collect();
    let run = || {
        let start = Instant::now();
        let sum = memory
            .par_chunks(1 << 17)
            .map(|part| part.iter().fold(0u64, |sum, v| sum.wrapping_add(*v)))
            .reduce(|| 0, u64::wrapping_add);
        black_box(sum);
        start.elapsed().as_secs_f64()
    };
    let seconds = (0..4).map(|_| run()).fold(f64::INFINITY, f64::min);
    BYTES as f64 / seconds
}

fn integers(set: InstructionSet) -> Option<f64> {
    // Operations of one instruction (of three where a product takes three).
    let (operations, work): (usize, fn()) = match set {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the set was detected.
        InstructionSet::Avx512Vnni => (128, || unsafe { x86::dpbusd() }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the set was detected.
        InstructionSet::Avx2 => (64, || unsafe { x86::maddubs() }),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the set was detected.
        InstructionSet::NeonDotprod => (32, || unsafe { arm::sdot() }),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the set was detected.
        InstructionSet::NeonI8mm => (64, || unsafe { arm::smmla() }),
        _ => return None,
    };
    let all = operations * CHAINS * ROUNDS * rayon::current_num_threads();
    Some(all as f64 / best(work))
}

fn floats(set: InstructionSet) -> Option<f64> {
    // Operations of one instruction.
    let (operations, work): (usize, fn()) = match set {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the set was detected.
        InstructionSet::Avx512Vnni => (32, || unsafe { x86::fma512() }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the set was detected.
        InstructionSet::Avx2 => (16, || unsafe { x86::fma256() }),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the set was detected.
        InstructionSet::Neon | InstructionSet::NeonDotprod | InstructionSet::NeonI8mm => {
            (8, || unsafe { arm::fmla() })
        }
        _ => return None,
    };
    let all = operations * CHAINS * ROUNDS * rayon::current_num_threads();
    Some(all as f64 / best(work))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{CHAINS, ROUNDS};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn dpbusd() {
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        let (a, b) = (_mm512_set1_epi8(1), _mm512_set1_epi8(2));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // Written out: a compiler may compute constant products itself.
                // SAFETY: an instruction of the set, on registers.
                unsafe {
                    asm!("vpdpbusd {0}, {1}, {2}", inout(zmm_reg) *sum, in(zmm_reg) a,
                        in(zmm_reg) b, options(pure, nomem, nostack));
                }
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn fma512() {
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        let (a, b) = (_mm512_set1_ps(0.5), _mm512_set1_ps(0.5));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: an instruction of the set, on registers.
                unsafe {
                    asm!("vfmadd231ps {0}, {1}, {2}", inout(zmm_reg) *sum, in(zmm_reg) a,
                        in(zmm_reg) b, options(pure, nomem, nostack));
                }
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn fma256() {
        let mut sums = [_mm256_setzero_ps(); 8];
        let (a, b) = (_mm256_set1_ps(0.5), _mm256_set1_ps(0.5));
        for _ in 0..ROUNDS * CHAINS / sums.len() {
            for sum in &mut sums {
                // SAFETY: an instruction of the set, on registers.
                unsafe {
                    asm!("vfmadd231ps {0}, {1}, {2}", inout(ymm_reg) *sum, in(ymm_reg) a,
                        in(ymm_reg) b, options(pure, nomem, nostack));
                }
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn maddubs() {
        let mut sums = [_mm256_setzero_si256(); 8];
        let (a, b, ones) = (
            _mm256_set1_epi8(1),
            _mm256_set1_epi8(2),
            _mm256_set1_epi16(1),
        );
        for _ in 0..ROUNDS * CHAINS / sums.len() {
            for sum in &mut sums {
                // SAFETY: as above.
                unsafe {
                    let products: __m256i;
                    asm!("vpmaddubsw {1}, {2}, {3}", "vpmaddwd {1}, {1}, {4}",
                        "vpaddd {0}, {0}, {1}", inout(ymm_reg) *sum, out(ymm_reg) products,
                        in(ymm_reg) a, in(ymm_reg) b, in(ymm_reg) ones,
                        options(pure, nomem, nostack));
                    let _ = products;
                }
            }
        }
        black_box(sums);
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::hint::black_box;

    use super::{CHAINS, ROUNDS};

    #[target_feature(enable = "neon")]
    pub(super) unsafe fn fmla() {
        let mut sums = [vdupq_n_f32(0.0); CHAINS];
        let (a, b) = (vdupq_n_f32(0.5), vdupq_n_f32(0.5));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: an instruction of the set, on registers.
                unsafe {
                    asm!("fmla {0:v}.4s, {1:v}.4s, {2:v}.4s", inout(vreg) *sum, in(vreg) a,
                        in(vreg) b, options(pure, nomem, nostack));
                }
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "neon,dotprod")]
    pub(super) unsafe fn sdot() {
        let mut sums = [vdupq_n_s32(0); CHAINS];
        let (a, b) = (vdupq_n_s8(1), vdupq_n_s8(2));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: an instruction of the set, on registers.
                unsafe {
                    asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) *sum, in(vreg) a,
                        in(vreg) b, options(pure, nomem, nostack));
                }
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "neon,i8mm")]
    pub(super) unsafe fn smmla() {
        let mut sums = [vdupq_n_s32(0); CHAINS];
        let (a, b) = (vdupq_n_s8(1), vdupq_n_s8(2));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: an instruction of the set, on registers.
                unsafe {
                    asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) *sum, in(vreg) a,
                        in(vreg) b, options(pure, nomem, nostack));
                }
            }
        }
        black_box(sums);
    }
}
