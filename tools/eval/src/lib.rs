//! What the product's `see` and `draw` are worth on held-out scenes. The program is run as a user
//! runs it; only the table links the model, since it needs thousands of pictures.
//!
//! # Layout
//! - [`program`]: running `kinglet`.
//! - [`see`]: answers against the truth of `scenes/`.
//! - [`draw`]: drawings before two referees.
//! - [`judge`]: the referees: small CNNs trained by tools/scenes/judge.py.
//! - [`share`]: shares with their intervals.
//! - [`table`]: what compression costs; [`steps`]: what fewer passes do.

pub mod draw;
pub mod judge;
pub mod program;
pub mod see;
pub mod share;
pub mod steps;
pub mod table;

pub use program::{EvalError, Program, Result};
pub use share::Share;

use std::path::PathBuf;

/// A file of this crate.
pub fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
