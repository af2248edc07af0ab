//! Element types of GGUF and safetensors.

use std::fmt;

macro_rules! types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $values:literal, $bytes:literal;)*) => {
        /// An element type. Names and numbers are ggml's.
        #[allow(non_camel_case_types)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum TensorType {
            $($(#[$doc])* $name,)*
        }

        impl TensorType {
            /// Every type that can be read and written.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$name),*];

            /// The type with ggml's number `id`.
            pub const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(TensorType::$name),)*
                    _ => None,
                }
            }

            /// ggml's number for the type.
            pub const fn id(self) -> u32 {
                match self { $(TensorType::$name => $id,)* }
            }

            /// ggml's name.
            pub const fn name(self) -> &'static str {
                match self { $(TensorType::$name => stringify!($name),)* }
            }

            /// Values in one block.
            pub const fn block_values(self) -> usize {
                match self { $(TensorType::$name => $values,)* }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self { $(TensorType::$name => $bytes,)* }
            }
        }
    };
}

types! {
    /// 32-bit floats.
    F32 = 0, 1, 4;
    /// 16-bit floats.
    F16 = 1, 1, 2;
    /// 4 bits with a scale for 32 values.
    Q4_0 = 2, 32, 18;
    /// 4 bits with a scale and a minimum for 32 values.
    Q4_1 = 3, 32, 20;
    /// 5 bits with a scale for 32 values.
    Q5_0 = 6, 32, 22;
    /// 5 bits with a scale and a minimum for 32 values.
    Q5_1 = 7, 32, 24;
    /// 8 bits with a scale for 32 values.
    Q8_0 = 8, 32, 34;
    /// 2-bit super-blocks.
    Q2_K = 10, 256, 84;
    /// 3-bit super-blocks.
    Q3_K = 11, 256, 110;
    /// 4-bit super-blocks.
    Q4_K = 12, 256, 144;
    /// 5-bit super-blocks.
    Q5_K = 13, 256, 176;
    /// 6-bit super-blocks.
    Q6_K = 14, 256, 210;
    /// Signed bytes.
    I8 = 24, 1, 1;
    /// Signed 16-bit integers.
    I16 = 25, 1, 2;
    /// Signed 32-bit integers.
    I32 = 26, 1, 4;
    /// Signed 64-bit integers.
    I64 = 27, 1, 8;
    /// 64-bit floats.
    F64 = 28, 1, 8;
    /// The upper half of 32-bit floats.
    BF16 = 30, 1, 2;
}

impl TensorType {
    /// Bytes of a tensor with these sizes (outermost first); `None` if the rows are no whole number
    /// of blocks or a product overflows.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block_values()) {
            return None;
        }
        shape
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d))
            .map(|values| values / self.block_values())?
            .checked_mul(self.block_bytes())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
