//! What the agent refuses.

/// The result of an agent operation.
pub type Result<T> = std::result::Result<T, AgentError>;

/// Why the agent could not start, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A configuration value that cannot be.
    #[error("{field}: \"{value}\" {expected}")]
    Config {
        /// The key.
        field: String,
        /// Its value.
        value: String,
        /// What is expected, as the rest of a sentence.
        expected: String,
    },
    /// A camera cannot deliver.
    #[error("camera \"{camera}\": {reason}")]
    Camera {
        /// The camera's name.
        camera: String,
        /// What is wrong.
        reason: String,
    },
    /// The state directory cannot be used.
    #[error("{path}: {reason}; [device] state names the folder where the outbox is kept")]
    State {
        /// The file or folder.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A thread or task could not be started.
    #[error("the system refused to start {what}: {reason}")]
    Start {
        /// What was to be started.
        what: &'static str,
        /// What the system said.
        reason: String,
    },
}
