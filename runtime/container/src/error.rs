//! Every way in which a container can be refused.

use std::io;
use std::path::PathBuf;

/// The result of reading or writing a container.
pub type Result<T> = std::result::Result<T, ContainerError>;

/// Why a container could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{name}: {refusal}")]
    Refused {
        /// The file's name, or what the bytes are called.
        name: String,
        /// What is wrong with it.
        refusal: Refusal,
    },
}

impl ContainerError {
    /// Whether the file system said no, which may be different another time.
    pub fn is_io(&self) -> bool {
        matches!(self, ContainerError::Io { .. })
    }
}

/// What is wrong with a container's bytes. Bounds are named in [`crate::gguf::limits`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file ends before something that it announces.
    #[error("it ends at byte {len} inside {what}; the file is damaged or was cut short")]
    Truncated {
        /// What was being read.
        what: String,
        /// The file's length in bytes.
        len: usize,
    },
    /// The first four bytes are not `GGUF`.
    #[error("it is no GGUF file (its first bytes are not \"GGUF\")")]
    Magic,
    /// Another version, or another byte order.
    #[error("it is GGUF version {0}; only version 3, little-endian, can be read")]
    Version(u32),
    /// A count or length above its bound.
    #[error("{what} is {got}, at most {limit} is accepted")]
    TooMany {
        /// What is counted.
        what: String,
        /// How many the file announces.
        got: u64,
        /// The bound.
        limit: u64,
    },
    /// A string that is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(String),
    /// A value type that the specification does not have.
    #[error("the value of \"{key}\" has the unknown type {id}")]
    UnknownValueType {
        /// The metadata key.
        key: String,
        /// The type's number.
        id: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("\"{key}\" holds a boolean of value {got}")]
    BadBool {
        /// The metadata key.
        key: String,
        /// The byte that was found.
        got: u8,
    },
    /// An array of arrays, which no writer makes.
    #[error("\"{0}\" is an array of arrays, which is not accepted")]
    NestedArray(String),
    /// Two entries with one name.
    #[error("\"{0}\" occurs twice")]
    Duplicate(String),
    /// An empty name.
    #[error("{0} has an empty name")]
    EmptyName(String),
    /// An alignment that is no power of two or out of range.
    #[error("general.alignment is {0}; a power of two from 1 to 65536 is expected")]
    Alignment(u64),
    /// An element type without a reader.
    #[error("tensor \"{tensor}\" has the unknown element type {id}")]
    UnknownTensorType {
        /// The tensor.
        tensor: String,
        /// The type's number or name.
        id: String,
    },
    /// Sizes that are zero, overflow, or do not fit the block.
    #[error("tensor \"{tensor}\" of type {kind} has the impossible shape {shape:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its element type.
        kind: String,
        /// Its sizes, outermost first.
        shape: Vec<u64>,
    },
    /// A tensor that does not start where the alignment demands.
    #[error("tensor \"{tensor}\" starts at {offset}, which is not aligned to {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset in the data section.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A tensor that reaches past the end of the file.
    #[error(
        "tensor \"{tensor}\" needs bytes {start} to {end}, but the file has {len}; it was cut short or damaged"
    )]
    OutOfBounds {
        /// The tensor.
        tensor: String,
        /// First byte in the file.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors \"{0}\" and \"{1}\" overlap")]
    Overlap(String, String),
    /// The safetensors header is not sound.
    #[error("its safetensors header is not sound: {0}")]
    SafeTensors(String),
    /// A metadata key that is needed is not there.
    #[error("the metadata key \"{0}\" is missing")]
    MissingKey(String),
    /// A metadata key has another type or range than its reader needs.
    #[error("the metadata key \"{key}\" is not {expected}")]
    WrongType {
        /// The metadata key.
        key: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A tensor that is needed is not there.
    #[error("the tensor \"{0}\" is missing")]
    MissingTensor(String),
}
