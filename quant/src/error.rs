//! What compressing refuses.

use kinglet_container::ContainerError;
use kinglet_kernels::{Format, KernelError};
use kinglet_model::ModelError;

/// The result of compressing.
pub type Result<T> = std::result::Result<T, QuantError>;

/// Why a checkpoint could not be compressed. Nothing is left behind when one is returned, but for
/// [`QuantError::Interrupted`].
#[derive(Debug, thiserror::Error)]
pub enum QuantError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A container cannot be read or written.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A file could not be written any further; what is done is kept.
    #[error("{source}; what is done is kept in {partial}, and the same command goes on from there")]
    Interrupted {
        /// What is done.
        partial: String,
        /// Why.
        source: ContainerError,
    },
    /// A row cannot be encoded.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The recipe is not sound.
    #[error("the recipe: {0}")]
    Recipe(String),
    /// A budget below what the smallest types take.
    #[error(
        "the recipe: a budget of {budget} bytes is too small: with every tensor in its smallest type they take {least}"
    )]
    Budget {
        /// The budget.
        budget: usize,
        /// The least size that is possible.
        least: usize,
    },
    /// A weight that is no number, or too large for its new type.
    #[error(
        "tensor \"{tensor}\" holds {value} in row {row}, which {format} cannot hold; is the checkpoint damaged?"
    )]
    NotFinite {
        /// The tensor, by its GGUF name.
        tensor: String,
        /// The row.
        row: usize,
        /// The value.
        value: f32,
        /// The new type.
        format: Format,
    },
    /// Pictures to calibrate on cannot be read.
    #[error("{path}: {reason}")]
    Data {
        /// The file or folder.
        path: String,
        /// Why.
        reason: String,
    },
    /// A file of the result cannot be written.
    #[error("{path} cannot be written: {reason}")]
    Output {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A graph that no ONNX file can hold.
    #[error(
        "the graph \"{graph}\" would take {bytes} bytes; an ONNX file holds at most {most} (a smaller size makes smaller tables)"
    )]
    Large {
        /// The graph.
        graph: String,
        /// The bytes that its file would have.
        bytes: usize,
        /// The most that a file can have.
        most: usize,
    },
    /// A tensor that is not stored as floats.
    #[error("tensor \"{tensor}\" is stored as {kind}, which cannot be compressed")]
    Type {
        /// The tensor, by its GGUF name.
        tensor: String,
        /// Its element type.
        kind: String,
    },
}
