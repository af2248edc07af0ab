//! One unified multimodal model of the BAGEL family: it sees and it draws with one set of weights.
//!
//! # Layout
//! - [`config`]: [`Config`], every size and default; read from a checkpoint directory's JSON files
//!   ([`directory`]) or from GGUF metadata ([`metadata`]).
//! - [`names`]: the names of tensors in the original layout and in GGUF.
//! - [`source`]: [`Source`], tensors by GGUF name, whatever file they lie in.
//! - [`tokenizer`]: text to token ids and back; the four special tokens.
//! - [`picture`]: decoding, resizing exactly as the reference does, normalising, patches.
//! - [`linear`]: weights on a device; [`packed`]: weights that were stored in a device's own order.
//! - [`vision`], [`language`], [`latent`], [`autoencoder`]: the four parts of the network.
//! - [`model`]: [`Model`], all of it on one device.
//! - [`elsewhere`]: parts that an accelerator runs.
//! - [`context`]: [`Context`], a KV cache that only grows: push text and pictures, write text, fork.
//! - [`answer`]: answers of a shape that was asked for (a JSON Schema, or one of some words).
//! - [`schedule`], [`draw`]: flow matching: timesteps, guidance, the Euler loop.
//! - [`preview`]: a small picture of a drawing that is not done.
//! - [`recipes`]: the contexts that a drawing, an edit and a thought need.
//! - [`mod@footprint`]: what a request takes of a machine.
//! - [`observe`]: looking at inner results (golden vectors, calibration).
//!
//! Everything is generic over [`kinglet_kernels::Device`]. Formulas are those of the BAGEL reference
//! implementation and of the FLUX autoencoder; section numbers in comments refer to docs/model.md.

pub mod answer;
pub mod autoencoder;
pub mod config;
pub mod context;
pub mod directory;
pub mod draw;
pub mod elsewhere;
pub mod error;
mod feed_forward;
pub mod footprint;
pub mod language;
pub mod latent;
pub mod linear;
pub mod metadata;
pub mod model;
pub mod names;
pub mod observe;
pub mod packed;
pub mod picture;
pub mod preview;
pub mod recipes;
mod resampler;
mod sampling;
pub mod schedule;
pub mod solver;
pub mod source;
mod taylor;
pub mod tokenizer;
pub mod vision;

pub use answer::{Constraint, Schema, Shape, Vocabulary};
pub use config::Config;
pub use context::{Context, Sampling, WriteOptions, Written};
pub use draw::{DrawOptions, Drawing, Guidance, Step};
pub use elsewhere::Part;
pub use error::{ModelError, Result};
pub use model::Model;
pub use picture::Picture;
pub use solver::Sampler;
pub use source::Source;
