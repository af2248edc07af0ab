//! What a board is, what it has now, and whether a model fits it.
//!
//! # Layout
//! - [`profile`]: [`Profile`], what a board is on paper, one TOML file each (`boards/profiles/`).
//! - [`probe`]: [`Probe`], what the machine is that this runs on, or that a captured tree of files describes.
//! - [`mod@plan`]: [`Plan`], a request's footprint beside a board's memory and ceilings.
//! - [`governor`]: [`Governor`](governor::Governor), what a board can still be asked to do when it is hot or short of memory.
//! - [`graph`]: exported graphs that an NPU, or tract, runs ([`kinglet_kernels::FixedGraph`]).
//! - [`error`]: what is refused.
//!
//! This crate knows no model: it compares a [`kinglet_kernels::Footprint`].

pub mod error;
pub mod governor;
pub mod graph;
pub mod plan;
pub mod probe;
pub mod profile;

pub use error::{BoardError, Result};
pub use plan::Plan;
pub use probe::Probe;
pub use profile::Profile;
