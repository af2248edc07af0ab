//! The formats in which weights are stored.

use std::fmt;

use crate::error::{KernelError, Result};

/// How the values of a weight are stored. Names and layouts are those of GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit IEEE floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// Blocks of 32 signed bytes with one 16-bit scale: 8.5 bits a value.
    Q8_0,
}

impl Format {
    /// Every format that has kernels.
    pub const ALL: [Format; 4] = [Format::F32, Format::F16, Format::BF16, Format::Q8_0];

    /// The name that GGUF tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q8_0 => "Q8_0",
        }
    }

    /// Values in one block.
    pub const fn block_values(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q8_0 => 32,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q8_0 => 34,
        }
    }

    /// Bytes of a row of `cols` values.
    ///
    /// # Errors
    /// [`KernelError::BlockLength`] if no whole number of blocks holds the row,
    /// [`KernelError::Overflow`] if the byte count does not fit.
    pub fn row_bytes(self, cols: usize) -> Result<usize> {
        if !cols.is_multiple_of(self.block_values()) {
            return Err(KernelError::BlockLength {
                format: self,
                cols,
                block: self.block_values(),
            });
        }
        let blocks = cols / self.block_values();
        blocks
            .checked_mul(self.block_bytes())
            .ok_or(KernelError::Overflow {
                operation: "row",
                a: blocks,
                b: self.block_bytes(),
            })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
