//! Why something cannot be evaluated.

use std::path::Path;

/// The result of an evaluation.
pub type Result<T> = std::result::Result<T, EvalError>;

/// Why something could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A file cannot be used.
    #[error("{path}: {reason}")]
    Data {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A model cannot be run.
    #[error(transparent)]
    Model(#[from] kinglet_model::ModelError),
    /// A variant cannot be made.
    #[error(transparent)]
    Quant(#[from] kinglet_quant::QuantError),
    /// A judge does not fit together.
    #[error(transparent)]
    Kernel(#[from] kinglet_kernels::KernelError),
    /// A judge's file is not sound.
    #[error(transparent)]
    Container(#[from] kinglet_container::ContainerError),
}

/// A problem with a file.
pub(crate) fn data_error(path: &Path, reason: impl ToString) -> EvalError {
    EvalError::Data {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}
