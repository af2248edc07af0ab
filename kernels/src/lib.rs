//! Devices and the operations that a unified multimodal model needs from them.
//!
//! # Layout
//! - [`device`]: the [`Device`] trait: opaque buffers and a small set of operations on them.
//! - [`mod@format`]: [`Format`], the block formats of a weight, named as GGUF names them.
//! - [`blocks`]: decoding and encoding of the rows of each format.
//! - [`scalar`]: [`Scalar`], the reference device: plain f32, readable in one sitting. Every other
//!   device is tested against it.
//! - [`cpu`]: [`Cpu`], fast kernels for the instruction sets of desks and boards.
//! - [`cuda`]: [`Cuda`], the graphics processors of NVIDIA.
//! - [`plan`]: [`Plan`], which computes nothing and counts what the fast kernels would take;
//!   [`footprint`]: the result.
//! - [`fixed_graph`]: [`FixedGraph`], a part of a model that something else runs.
//! - [`error`]: what can be refused.
//!
//! This crate knows neither models nor files nor pictures.

pub mod blocks;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod error;
pub mod fixed_graph;
pub mod footprint;
pub mod format;
pub mod plan;
pub mod scalar;

pub use cpu::{Cpu, InstructionSet, Roof};
pub use cuda::Cuda;
pub use device::{
    AttentionShape, ConvShape, Device, Expert, GroupMoments, HeadNorms, Mask, RenormSpan, Role,
    WeightData,
};
pub use error::{KernelError, Result};
pub use fixed_graph::{FixedGraph, GraphError, Port};
pub use footprint::Footprint;
pub use format::Format;
pub use plan::Plan;
pub use scalar::Scalar;
