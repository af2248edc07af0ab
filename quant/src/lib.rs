//! Checkpoint in, smaller container out.
//!
//! # Layout
//! - [`recipe`]: [`Recipe`], what the user asks for, one table a pass.
//! - [`calibration`]: watching the source model at work, to learn what matters to it.
//! - [`plan`]: what the container will hold, which passes change before anything is decoded.
//! - [`passes`]: one file a pass: [`passes::parts`], what the result can do; [`passes::depth`], layers left out; [`passes::width`], neurons left
//!   out; [`passes::experts`], feed-forward networks split, with [`passes::router`]; [`passes::steps`],
//!   the defaults of drawings; [`passes::precision`], the type of every tensor, or [`passes::budget`],
//!   the bytes of all.
//! - [`layers`]: which layers a pass is for.
//! - [`compress`](mod@compress): runs the passes and writes the container, some rows at a time;
//!   `scan`: the source read once before; `describe`: the result's metadata; `encode`: a tensor in its
//!   new type; `bands`: rows encoded on all threads.
//! - [`cost`], [`measure`](mod@measure): what a model costs, and how far the result is from its
//!   source; [`report`]: both, for the container and as a page.
//! - [`mod@pack`]: a container in the order of one instruction set's kernels.
//! - [`onnx`]: parts of a model as ONNX graphs, for accelerators.
//! - [`error`]: what is refused.

mod bands;
pub mod calibration;
pub mod compress;
pub mod cost;
mod describe;
mod encode;
pub mod error;
pub mod layers;
pub mod measure;
pub mod onnx;
pub mod pack;
pub mod passes;
pub mod plan;
pub mod recipe;
pub mod report;
mod scan;

pub use compress::{Options, Work, compress, predict};
pub use error::{QuantError, Result};
pub use recipe::Recipe;
pub use report::Report;
