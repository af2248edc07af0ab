//! The formats in which weights are stored.

use std::fmt;

use half::{bf16, f16};

use crate::error::{KernelError, Result};

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident = $values:literal, $bytes:literal, $run:literal;)*) => {
        /// How the values of a weight are stored. Names and layouts are those of GGUF.
        #[allow(non_camel_case_types)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Format {
            $($(#[$doc])* $name,)*
        }

        impl Format {
            /// Every format that has kernels.
            pub const ALL: &'static [Format] = &[$(Format::$name),*];

            /// The name that GGUF tools print.
            pub const fn name(self) -> &'static str {
                match self { $(Format::$name => stringify!($name),)* }
            }

            /// Values in one block.
            pub const fn block_values(self) -> usize {
                match self { $(Format::$name => $values,)* }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Format::$name => $bytes,)* }
            }

            /// Values that share a scale.
            pub const fn run_values(self) -> usize {
                match self { $(Format::$name => $run,)* }
            }
        }
    };
}

// Values and bytes of a block, values that share a scale.
formats! {
    /// 32-bit IEEE floats.
    F32 = 1, 4, 1;
    /// 16-bit IEEE floats.
    F16 = 1, 2, 1;
    /// The upper half of 32-bit floats.
    BF16 = 1, 2, 1;
    /// 4 bits and a scale: 4.5 bits a value.
    Q4_0 = 32, 18, 32;
    /// 4 bits, a scale and an offset: 5 bits a value.
    Q4_1 = 32, 20, 32;
    /// 5 bits and a scale: 5.5 bits a value.
    Q5_0 = 32, 22, 32;
    /// 5 bits, a scale and an offset: 6 bits a value.
    Q5_1 = 32, 24, 32;
    /// Signed bytes and a scale: 8.5 bits a value.
    Q8_0 = 32, 34, 32;
    /// Super-blocks of 2 bits, with offsets: 2.625 bits a value.
    Q2_K = 256, 84, 16;
    /// Super-blocks of 3 bits: 3.4375 bits a value.
    Q3_K = 256, 110, 16;
    /// Super-blocks of 4 bits, with offsets: 4.5 bits a value.
    Q4_K = 256, 144, 32;
    /// Super-blocks of 5 bits, with offsets: 5.5 bits a value.
    Q5_K = 256, 176, 32;
    /// Super-blocks of 6 bits: 6.5625 bits a value.
    Q6_K = 256, 210, 16;
}

impl Format {
    /// Every value up to this, without its sign, has its like among the values of the format. (Some
    /// larger ones have too.)
    pub fn largest(self) -> f32 {
        let half = f16::MAX.to_f32();
        match self {
            Format::F32 => f32::MAX,
            Format::BF16 => bf16::MAX.to_f32(),
            // An f16 itself, or bound by an offset that is one.
            Format::F16 | Format::Q4_1 | Format::Q5_1 => half,
            // The levels, and their scales, that are there for either sign.
            Format::Q4_0 => 7.0 * half,
            Format::Q5_0 => 15.0 * half,
            Format::Q8_0 => 127.0 * half,
            Format::Q2_K => 15.0 * half,
            Format::Q3_K => 31.0 * 3.0 * half,
            Format::Q4_K | Format::Q5_K => 63.0 * half,
            Format::Q6_K => 127.0 * 31.0 * half,
        }
    }

    /// Whether values have an offset beside their scale.
    pub const fn has_offset(self) -> bool {
        matches!(
            self,
            Format::Q4_1 | Format::Q5_1 | Format::Q2_K | Format::Q4_K | Format::Q5_K
        )
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
