//! What the blocks of a packed matrix are made of.

use super::pack::BLOCK;
use super::set::InstructionSet;
use crate::format::Format;

/// How an instruction set wants its integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Rows of a tile.
    pub(super) rows: usize,
    /// Inputs of one row that lie together.
    pub(super) group: usize,
    /// Bytes are stored as unsigned ones, 128 larger than they are.
    pub(super) unsigned: bool,
    /// Kernels multiply signed integers: nibbles of Q4_0 are stored with their sign, and what other formats store
    /// larger than it is gets its sign while it is unpacked.
    pub(super) signed: bool,
}

impl Layout {
    pub(super) const fn of(set: InstructionSet) -> Self {
        match set {
            InstructionSet::Avx512Vnni => Layout {
                rows: 16,
                group: 4,
                unsigned: true,
                signed: false,
            },
            InstructionSet::NeonI8mm => Layout {
                rows: 8,
                group: 8,
                unsigned: false,
                signed: true,
            },
            InstructionSet::Neon | InstructionSet::NeonDotprod => Layout {
                rows: 8,
                group: 4,
                unsigned: false,
                signed: true,
            },
            InstructionSet::Scalar | InstructionSet::Avx2 => Layout {
                rows: 8,
                group: 4,
                unsigned: false,
                signed: false,
            },
        }
    }
}

/// One for each format of blocks. Integers keep their bits: those of 3, 5 and 6 bits lie in two planes, the low
/// bits of all and then the high ones.
///
/// | | scale and offset of a row in a block of 32 | before every eighth block |
/// |---|---|---|
/// | Q8_0, Q5_0, Q4_0 | an f16 | |
/// | Q5_1, Q4_1 | two f16 | |
/// | Q5_K, Q4_K | a byte of scale, a byte of offset | an f16 for scales, one for offsets |
/// | Q6_K, Q3_K | a signed byte of scale for each half | an f16 |
/// | Q2_K | a nibble of scale and one of offset for each half | an f16 for scales, one for offsets |
#[allow(non_camel_case_types)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Q8_0,
        Kind::Q4_0,
        Kind::Q4_1,
        Kind::Q5_0,
        Kind::Q5_1,
        Kind::Q2_K,
        Kind::Q3_K,
        Kind::Q4_K,
        Kind::Q5_K,
        Kind::Q6_K,
    ];

    pub(super) const fn of(format: Format) -> Option<Self> {
        Some(match format {
            Format::Q8_0 => Kind::Q8_0,
            Format::Q4_0 => Kind::Q4_0,
            Format::Q4_1 => Kind::Q4_1,
            Format::Q5_0 => Kind::Q5_0,
            Format::Q5_1 => Kind::Q5_1,
            Format::Q2_K => Kind::Q2_K,
            Format::Q3_K => Kind::Q3_K,
            Format::Q4_K => Kind::Q4_K,
            Format::Q5_K => Kind::Q5_K,
            Format::Q6_K => Kind::Q6_K,
            Format::F32 | Format::F16 | Format::BF16 => return None,
        })
    }

    /// The kind with this number: kernels are generic over it.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(super) const fn number(n: u8) -> Self {
        Kind::ALL[n as usize]
    }

    /// Bits of an integer in the first plane and in the second one.
    pub(super) const fn planes(self) -> (usize, usize) {
        match self {
            Kind::Q8_0 => (8, 0),
            Kind::Q4_0 | Kind::Q4_1 | Kind::Q4_K => (4, 0),
            Kind::Q5_0 | Kind::Q5_1 | Kind::Q5_K => (4, 1),
            Kind::Q6_K => (4, 2),
            Kind::Q3_K => (2, 1),
            Kind::Q2_K => (2, 0),
        }
    }

    /// Bits of an integer.
    pub(super) const fn bits(self) -> usize {
        let (low, high) = self.planes();
        low + high
    }

    /// Bytes of the integers of one row in one block.
    pub(super) const fn value_bytes(self) -> usize {
        BLOCK * self.bits() / 8
    }

    /// Bytes of the scales and offsets of one row in one block.
    pub(super) const fn scale_bytes(self) -> usize {
        match self {
            Kind::Q4_1 | Kind::Q5_1 => 4,
            _ => 2,
        }
    }

    /// Bytes of one row's factors before every eighth block.
    pub(super) const fn super_bytes(self) -> usize {
        match self {
            Kind::Q2_K | Kind::Q4_K | Kind::Q5_K => 4,
            Kind::Q3_K | Kind::Q6_K => 2,
            _ => 0,
        }
    }

    /// Whether each half of a block has a scale of its own.
    pub(super) const fn halves(self) -> bool {
        matches!(self, Kind::Q2_K | Kind::Q3_K | Kind::Q6_K)
    }

    pub(super) const fn offset(self) -> bool {
        matches!(
            self,
            Kind::Q4_1 | Kind::Q5_1 | Kind::Q2_K | Kind::Q4_K | Kind::Q5_K
        )
    }

    /// How much larger integers are stored than they are, so that they have no sign. Bytes have one.
    pub(super) const fn raised(self) -> i8 {
        match self {
            Kind::Q4_0 => 8,
            Kind::Q5_0 => 16,
            Kind::Q6_K => 32,
            Kind::Q3_K => 4,
            _ => 0,
        }
    }

    /// How much larger the integers are that a kernel multiplies.
    pub(super) const fn bias(self, layout: Layout) -> u8 {
        match self {
            Kind::Q8_0 if layout.unsigned => 128,
            _ if layout.signed => 0,
            _ => self.raised().unsigned_abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack::Integers;
    use super::*;

    #[test]
    fn tiles_take_the_memory_of_their_format() {
        let sets = [
            InstructionSet::Avx2,
            InstructionSet::Avx512Vnni,
            InstructionSet::NeonDotprod,
            InstructionSet::NeonI8mm,
        ];
        for format in Format::ALL {
            let stored = format.row_bytes(1024).unwrap() * 64;
            for set in sets {
                let Some(tiles) = Integers::bytes(*format, Layout::of(set), 64, 1024) else {
                    assert_eq!(format.block_values(), 1);
                    continue;
                };
                let share = tiles as f64 / stored as f64;
                assert!(
                    (1.0..1.04).contains(&share),
                    "{format} for {set:?}: {share}"
                );
            }
        }
    }
}
