//! GGUF version 3, little-endian.
//!
//! [`Gguf`] reads, [`Writer`] writes, [`Partial`] writes what may be interrupted, [`Value`] is a metadata value, [`limits`] names the bounds.
//! The layout is that of ggml's GGUF specification: header, metadata, tensor infos, padding, data.

mod layout;
mod partial;
mod read;
mod value;
mod write;

pub use layout::Layout;
pub use partial::{Left, Partial, free};
pub use read::Gguf;
pub use value::Value;
pub use write::Writer;

/// Bounds on what a file may announce. Each refusal names the one that was passed.
pub mod limits {
    /// Metadata entries.
    pub const KEYS: u64 = 4096;
    /// Tensors.
    pub const TENSORS: u64 = 65_536;
    /// Bytes of a name or key.
    pub const NAME_BYTES: u64 = 1024;
    /// Bytes of a string value (a tokenizer has a few million).
    pub const STRING_BYTES: u64 = 64 << 20;
    /// Entries of an array.
    pub const ARRAY_LEN: u64 = 4 << 20;
    /// Sizes of a tensor.
    pub const DIMENSIONS: u64 = 4;
    /// Alignment of the data section.
    pub const ALIGNMENT: u64 = 65_536;
}

/// The alignment where a file names none.
pub const DEFAULT_ALIGNMENT: u64 = 32;

const MAGIC: [u8; 4] = *b"GGUF";
const VERSION: u32 = 3;
