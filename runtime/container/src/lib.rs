//! GGUF and safetensors, read and written.
//!
//! # Layout
//! - [`bytes_source`]: a file as shared bytes (a memory map), or bytes that are already there.
//! - [`types`]: [`TensorType`], the element types of both containers, with their sizes.
//! - [`gguf`]: GGUF version 3: [`gguf::Gguf`] reads, [`gguf::Writer`] writes.
//! - [`tensors`]: [`tensors::SafeTensors`] reads a safetensors file.
//! - [`atomic`]: write beside, then rename.
//! - [`error`]: every refusal, named.
//!
//! Every parser here takes hostile bytes: each offset, size, count and product is checked before it
//! is used. This crate does not know what a tensor means.

pub mod atomic;
pub mod bytes_source;
pub mod error;
pub mod gguf;
pub mod tensors;
pub mod types;

pub use error::{ContainerError, Refusal, Result};
pub use types::TensorType;

/// One tensor of a container: what it is and where its bytes lie.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Element type.
    pub kind: TensorType,
    /// Sizes, outermost first: `[out, in]` for a linear layer.
    pub shape: Vec<usize>,
    /// The values as they are stored, shared with the file.
    pub bytes: bytes::Bytes,
}

impl Tensor {
    /// The number of values. The reader has checked that it does not overflow.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}
