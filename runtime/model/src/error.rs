//! What a model refuses.

use kinglet_container::ContainerError;
use kinglet_kernels::KernelError;

/// The result of a model operation.
pub type Result<T> = std::result::Result<T, ModelError>;

/// Why a model could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file that holds the weights is not sound.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A device refused an operation.
    #[error("{}", told(.0))]
    Kernel(#[from] KernelError),
    /// A file of a checkpoint directory cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration value that cannot be.
    #[error("{source_name}: {field} is {value}; {expected}")]
    Config {
        /// The file that says so.
        source_name: String,
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What is expected of it.
        expected: String,
    },
    /// A tensor has another shape than the configuration implies.
    #[error(
        "{source_name}: tensor \"{tensor}\" is {got:?}, the configuration implies {expected:?}"
    )]
    TensorShape {
        /// The file.
        source_name: String,
        /// The tensor, by its GGUF name.
        tensor: String,
        /// Its sizes, outermost first.
        got: Vec<usize>,
        /// The expected sizes.
        expected: Vec<usize>,
    },
    /// A tensor is stored in a type that no kernel reads.
    #[error(
        "{source_name}: tensor \"{tensor}\" is stored as {kind}, which this version cannot compute with"
    )]
    TensorType {
        /// The file.
        source_name: String,
        /// The tensor, by its GGUF name.
        tensor: String,
        /// Its element type.
        kind: String,
    },
    /// A container that was packed for other kernels.
    #[error("{source_name} is packed for \"{layout}\"; {here}")]
    Packed {
        /// The file.
        source_name: String,
        /// The order of its weights.
        layout: String,
        /// What this machine, or what was asked for, needs instead.
        here: String,
    },
    /// A tensor that the configuration implies is not there.
    #[error("{source_name}: tensor \"{tensor}\" is missing")]
    MissingTensor {
        /// The file.
        source_name: String,
        /// The tensor, by its GGUF name.
        tensor: String,
    },
    /// A tensor that the configuration does not imply.
    #[error("{source_name}: tensor \"{tensor}\" is not expected")]
    UnexpectedTensor {
        /// The file.
        source_name: String,
        /// The tensor, by its GGUF name.
        tensor: String,
    },
    /// A weight that is no number.
    #[error("{source_name}: tensor \"{tensor}\" holds {value} in row {row}")]
    NotFinite {
        /// The file.
        source_name: String,
        /// The tensor, by its GGUF name.
        tensor: String,
        /// The row.
        row: usize,
        /// The value.
        value: f32,
    },
    /// The model is of a kind that this version does not run.
    #[error("{source_name}: {what}")]
    Unsupported {
        /// The file.
        source_name: String,
        /// What it is.
        what: String,
    },
    /// A container without what drawing needs.
    #[error(
        "{source_name} cannot draw: it was made to understand only ([parts] draw = false); use a container that draws"
    )]
    CannotDraw {
        /// What the model is called.
        source_name: String,
    },
    /// The tokenizer cannot be built or used.
    #[error("the tokenizer: {0}")]
    Tokenizer(String),
    /// A schema for answers is not accepted, or an answer cannot follow it.
    #[error("the schema: {0}")]
    Schema(String),
    /// A picture cannot be used.
    #[error("{0}")]
    Picture(String),
    /// A graph cannot compute a part of this model.
    #[error("the graph for {part} cannot be used: {reason}")]
    Graph {
        /// The part.
        part: &'static str,
        /// Why not.
        reason: String,
    },
    /// A request passes a bound or makes no sense.
    #[error("{what} is {got}; {expected}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// The value given.
        got: String,
        /// What is accepted.
        expected: String,
    },
    /// The caller stopped the work.
    #[error("cancelled")]
    Cancelled,
}

/// A device's refusal in words: what it says of itself, or what it means for the model.
fn told(e: &KernelError) -> String {
    match e {
        KernelError::Gpu(said) | KernelError::Lost(said) => said.clone(),
        e => format!("the model does not fit together: {e}"),
    }
}

impl ModelError {
    pub(crate) fn cannot_draw(name: &str) -> Self {
        ModelError::CannotDraw {
            source_name: name.to_owned(),
        }
    }
}
