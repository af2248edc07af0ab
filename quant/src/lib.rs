//! Checkpoint in, smaller container out.
//!
//! # Layout
//! - [`recipe`]: [`Recipe`], what the user asks for, one table a pass.
//! - [`passes`]: one file a pass: [`passes::precision`], the type of every tensor,
//!   [`passes::budget`], by a budget of bytes;
//!   [`passes::experts`], splitting a feed-forward network; [`passes::depth`], scoring layers.
//! - [`compress`](mod@compress): runs the passes and writes the container, one tensor at a time.
//! - [`mod@pack`]: a container in the order of one instruction set's kernels.
//! - [`importance`]: how much the columns of a matrix matter; `bands`: rows encoded on all threads.
//! - [`error`]: what is refused.

mod bands;
pub mod compress;
pub mod error;
pub mod importance;
pub mod pack;
pub mod passes;
pub mod recipe;

pub use compress::{Report, compress, compress_weighted};
pub use error::{QuantError, Result};
pub use importance::Importance;
pub use recipe::Recipe;
