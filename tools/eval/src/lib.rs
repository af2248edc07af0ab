//! What the product's `see` and `draw` are worth on held-out scenes. The program is run as a user
//! runs it; only the table links the model, since it needs thousands of pictures.
//!
//! # Layout
//! - [`program`]: running `kinglet`.
//! - [`see`]: answers against the truth of `scenes/`.
//! - [`draw`]: drawings before two referees.
//! - [`drawings`]: drawings and edits by GenEval's categories, before two judges of places.
//! - [`judge`]: the referees: small CNNs trained by tools/scenes/judge.py.
//! - [`questions`]: answers to what tools/train/held_out.py asks, by ability and condition; [`page`]: them as a page.
//! - [`places`]: judges that say what lies where, trained by tools/train/train_judge.py.
//! - [`share`]: shares with their intervals.
//! - [`table`]: what compression costs; [`steps`]: what fewer passes do.

pub mod draw;
pub mod drawings;
pub mod judge;
pub mod page;
pub mod places;
pub mod program;
pub mod questions;
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
