//! What ends a command with exit code 1: one line.

use std::fmt;

/// Why a command could not be done.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// The result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        // One line, whatever an error's text looks like.
        let text = reason.to_string();
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        Failure(lines.join("; "))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure::new(e)
    }
}
