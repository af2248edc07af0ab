//! What is refused.

/// The result of asking about boards.
pub type Result<T> = std::result::Result<T, BoardError>;

/// Why a board cannot be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// No profile has this name.
    #[error("there is no board \"{name}\"; there are {known}")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A profile that cannot be.
    #[error("the profile {name}: {reason}")]
    Profile {
        /// Its name, or the file's.
        name: String,
        /// What is wrong.
        reason: String,
    },
}
