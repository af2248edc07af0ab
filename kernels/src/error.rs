//! What a device refuses.

use crate::{Format, Role};

/// The result of a device operation.
pub type Result<T> = std::result::Result<T, KernelError>;

/// Why a device refused an operation. Nothing is computed when one is returned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum KernelError {
    /// Two shapes that must agree do not.
    #[error("{operation}: {what} is {got}, expected {expected}")]
    Shape {
        /// The operation that was asked for.
        operation: &'static str,
        /// What has the wrong size.
        what: &'static str,
        /// The size that was given.
        got: usize,
        /// The size that the other arguments imply.
        expected: usize,
    },
    /// An index points past the end of what it indexes.
    #[error("{operation}: index {index} is out of range, there are {len}")]
    Index {
        /// The operation that was asked for.
        operation: &'static str,
        /// The index that was given.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// A weight's bytes do not have the length that its format and shape imply.
    #[error("a {format} weight of {rows} x {cols} takes {expected} bytes, {got} were given")]
    WeightBytes {
        /// The weight's format.
        format: Format,
        /// Rows of the weight.
        rows: usize,
        /// Values in a row.
        cols: usize,
        /// Bytes that were given.
        got: usize,
        /// Bytes that the shape implies.
        expected: usize,
    },
    /// A row length that the block format does not divide.
    #[error("rows of {cols} values cannot be stored as {format}: its blocks hold {block} values")]
    BlockLength {
        /// The block format.
        format: Format,
        /// Values in a row.
        cols: usize,
        /// Values in a block.
        block: usize,
    },
    /// A weight that was taken for something else.
    #[error("{operation}: the weight was loaded as a {role:?}")]
    Role {
        /// The operation that was asked for.
        operation: &'static str,
        /// What the weight was loaded for.
        role: Role,
    },
    /// An instruction set that cannot be used.
    #[error("the instruction set \"{name}\" {reason}; there are {available}")]
    InstructionSet {
        /// Its name.
        name: String,
        /// Why not.
        reason: &'static str,
        /// Those that can.
        available: String,
    },
    /// Threads cannot be started as asked.
    #[error("threads: {0}")]
    Threads(String),
    /// A graphics processor that cannot do what it was asked.
    #[error("{0}")]
    Gpu(String),
    /// A graphics processor that works no longer: nothing can be asked of this device any more.
    #[error("{0}")]
    Lost(String),
    /// A packed weight for a device that packs none.
    #[error("this device has no order of weights of its own")]
    NoLayout,
    /// A product of sizes that does not fit the address space.
    #[error("{operation}: {a} x {b} overflows")]
    Overflow {
        /// The operation that was asked for.
        operation: &'static str,
        /// One factor.
        a: usize,
        /// The other factor.
        b: usize,
    },
}

/// Checks that `got == expected`.
pub(crate) fn same(
    operation: &'static str,
    what: &'static str,
    got: usize,
    expected: usize,
) -> Result<()> {
    if got == expected {
        Ok(())
    } else {
        Err(KernelError::Shape {
            operation,
            what,
            got,
            expected,
        })
    }
}

/// Multiplies two sizes, refusing an overflow.
pub(crate) fn product(operation: &'static str, a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b)
        .filter(|n| *n <= isize::MAX as usize / size_of::<f32>())
        .ok_or(KernelError::Overflow { operation, a, b })
}
