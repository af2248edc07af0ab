//! Instruction sets: which there are, which this processor has, and what they are called.

use std::fmt;

use crate::error::{KernelError, Result};

/// A set of instructions that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstructionSet {
    /// Portable code, as the compiler makes it.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// AArch64 with nothing beyond NEON.
    Neon,
    /// AArch64 with the dot product (`sdot`).
    NeonDotprod,
    /// AArch64 with 8-bit matrix products (`smmla`).
    NeonI8mm,
}

impl InstructionSet {
    /// Every set, the plainest first.
    pub const ALL: [InstructionSet; 6] = [
        InstructionSet::Scalar,
        InstructionSet::Avx2,
        InstructionSet::Avx512Vnni,
        InstructionSet::Neon,
        InstructionSet::NeonDotprod,
        InstructionSet::NeonI8mm,
    ];

    /// The name that `KINGLET_KERNELS` takes.
    pub const fn name(self) -> &'static str {
        match self {
            InstructionSet::Scalar => "scalar",
            InstructionSet::Avx2 => "avx2",
            InstructionSet::Avx512Vnni => "avx512-vnni",
            InstructionSet::Neon => "neon",
            InstructionSet::NeonDotprod => "neon-dotprod",
            InstructionSet::NeonI8mm => "neon-i8mm",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            InstructionSet::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Vnni => {
                InstructionSet::Avx2.is_available()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            InstructionSet::NeonDotprod => {
                InstructionSet::Neon.is_available()
                    && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "aarch64")]
            InstructionSet::NeonI8mm => {
                InstructionSet::NeonDotprod.is_available()
                    && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The sets that this processor has, the plainest first.
    pub fn available() -> impl Iterator<Item = InstructionSet> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// The best set that this processor has.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(InstructionSet::Scalar)
    }

    /// The set with this name, whether or not this processor has it.
    ///
    /// # Errors
    /// [`KernelError::InstructionSet`] if there is none.
    pub fn known(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|set| set.name() == name)
            .ok_or_else(|| refused(name, "is not known", Self::ALL.into_iter()))
    }

    /// The set with this name.
    ///
    /// # Errors
    /// [`KernelError::InstructionSet`] if there is none, or if this processor lacks it.
    pub fn named(name: &str) -> Result<Self> {
        let set = Self::ALL.into_iter().find(|set| set.name() == name);
        match set {
            Some(set) if set.is_available() => Ok(set),
            Some(_) => Err("is not what this processor has"),
            None => Err("is not known"),
        }
        .map_err(|reason| refused(name, reason, Self::available()))
    }
}

fn refused(
    name: &str,
    reason: &'static str,
    sets: impl Iterator<Item = InstructionSet>,
) -> KernelError {
    KernelError::InstructionSet {
        name: name.to_owned(),
        reason,
        available: sets
            .map(InstructionSet::name)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_unknown_or_lacking_is_refused_by_name() {
        let unknown = InstructionSet::named("mmx").unwrap_err().to_string();
        assert!(
            unknown.contains("mmx") && unknown.contains("scalar"),
            "{unknown}"
        );
        for set in InstructionSet::ALL {
            assert_eq!(
                InstructionSet::named(set.name()).is_ok(),
                set.is_available()
            );
        }
        assert!(InstructionSet::best().is_available());
    }

    /// Who runs the tests on a certain processor can make sure that all its sets are tested.
    #[test]
    fn the_sets_are_those_that_the_caller_expects() {
        if let Ok(expected) = std::env::var("KINGLET_EXPECTED_SETS") {
            let got: Vec<&str> = InstructionSet::available()
                .map(InstructionSet::name)
                .collect();
            assert_eq!(got.join(" "), expected);
        }
    }
}
