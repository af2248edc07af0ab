//! Checkpoint in, smaller container out.
//!
//! # Layout
//! - [`recipe`]: [`Recipe`], what the user asks for, one table a pass.
//! - [`passes`]: one file a pass: [`passes::precision`], the type of every tensor;
//!   [`passes::experts`], splitting a feed-forward network; [`passes::depth`], scoring layers.
//! - [`compress`](mod@compress): runs the passes and writes the container, one tensor at a time.
//! - [`mod@pack`]: a container in the order of one instruction set's kernels.
//! - [`error`]: what is refused.

pub mod compress;
pub mod error;
pub mod pack;
pub mod passes;
pub mod recipe;

pub use compress::{Report, compress};
pub use error::{QuantError, Result};
pub use recipe::Recipe;
