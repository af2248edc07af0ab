//! What is planned for.

use std::fmt;

use crate::cpu::{CacheFormat, FEW_QUERIES, InstructionSet, Keeping, keeping, layout};
use crate::cuda::QUANTIZED;
use crate::device::{Role, WeightData};

/// A device of which something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// [`Cpu`](crate::Cpu), with this instruction set.
    Cpu(InstructionSet),
    /// [`Cuda`](crate::Cuda).
    Cuda,
}

impl From<InstructionSet> for Target {
    fn from(set: InstructionSet) -> Self {
        Target::Cpu(set)
    }
}

impl Target {
    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Target::Cpu(set) => set.name(),
            Target::Cuda => "cuda",
        }
    }

    pub(super) fn layout(self) -> Option<&'static str> {
        match self {
            Target::Cpu(set) => Some(layout(set)),
            Target::Cuda => None,
        }
    }

    pub(super) fn keeping(self, data: &WeightData) -> Keeping {
        match self {
            Target::Cpu(set) => keeping(set, data),
            // Everything is copied to the processor's memory; vectors and kernels as floats.
            Target::Cuda => Keeping {
                bytes: match data.role {
                    Role::Matrix | Role::Table => data.bytes.len(),
                    Role::Vector | Role::Kernel { .. } => data.rows * data.cols * size_of::<f32>(),
                },
                integers: data.role == Role::Matrix && data.format.block_values() > 1,
            },
        }
    }

    /// Pieces, in values of the size of a float, that hold `rows` of `blocks` times 32 small integers: what is there only
    /// until the others are made, and the others.
    pub(super) fn quantized(self, rows: usize, blocks: usize) -> (Vec<usize>, Vec<usize>) {
        let runs = rows * blocks;
        // Integers, scales and sums.
        let pieces = vec![runs * 8, runs, 2 * runs];
        match self {
            Target::Cpu(_) if rows == 1 => (Vec::new(), pieces),
            // As they come, and in the kernel's order.
            Target::Cpu(_) => (pieces.clone(), pieces),
            Target::Cuda => (Vec::new(), vec![runs * QUANTIZED / size_of::<f32>()]),
        }
    }

    /// Whether the products of all experts are computed at once.
    pub(super) fn groups_experts(self) -> bool {
        self == Target::Cuda
    }

    /// Keys that are laid out anew for so many queries.
    pub(super) fn laid_out(self, queries: usize, keys: usize) -> usize {
        match self {
            Target::Cpu(_) if queries >= FEW_QUERIES => keys,
            Target::Cpu(_) | Target::Cuda => 0,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Values of the size of a float that hold this many kept ones.
pub(super) fn kept(values: usize, format: CacheFormat) -> usize {
    match format {
        CacheFormat::F32 => values,
        CacheFormat::F16 => values.div_ceil(2),
    }
}
