//! What a model's answers and drawings are worth on held-out scenes. The model is linked: marks take thousands of pictures.
//!
//! # Layout
//! - [`questions`]: answers to what tools/train/held_out.py asks, by ability and condition.
//! - [`prompts`]: what is to be drawn; [`way`]: how; [`drawings`]: drawings and edits by GenEval's categories;
//!   [`verdict`]: whether one is what was asked for.
//! - [`judges`]: who says what is in a drawing; [`places`]: judges of ours, trained by tools/train/train_judge.py;
//!   [`colour`]: the background's name.
//! - [`page`]: answers and drawings of two containers beside each other.
//! - [`table`]: what compression costs; [`steps`]: what fewer passes do.
//! - [`share`]: shares with their intervals; [`kept`]: results on disk; [`pool`]: work on all cores;
//!   [`error`]: why something cannot be evaluated.

pub mod colour;
pub mod drawings;
pub mod error;
pub mod judges;
pub mod kept;
pub mod page;
pub mod places;
pub mod pool;
pub mod prompts;
pub mod questions;
pub mod share;
pub mod steps;
pub mod table;
pub mod verdict;
pub mod way;

pub use error::{EvalError, Result};
pub use share::Share;

use std::path::PathBuf;

/// A file of this crate.
pub fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
