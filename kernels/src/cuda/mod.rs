//! The device of NVIDIA's graphics processors.
//!
//! # Layout
//! - [`gpu`]: [`Gpu`], what the device needs of a processor: memory, copies, launches. The driver has it, and so
//!   has a stand-in that runs the same kernels on the CPU for tests (`kernels/cuda/shim`).
//! - `memory`: pieces of its memory, given back when they are dropped.
//! - `device`: [`Cuda`], a [`Device`](crate::Device) on it; `planes`: how its weights lie; `products`: matrix products
//!   and convolutions; `heads` and `attention`: caches and attention; `mixture`: experts.
//! - `roof`: what the processor can do at best.
//! - [`source`]: the kernels' text (`kernels/cuda/`).
//! - `uploads`: small things that are uploaded again and again.
//! - `driver`: the real thing, opened at run time: building needs nothing of CUDA; `compile` compiles for it, `pieces`
//!   keeps memory for later, `queue` and `graph` launch what repeats as one; `registry`: weights where the host has them;
//!   `error`: the driver's words.

mod attention;
#[cfg(feature = "cuda")]
mod compile;
mod device;
#[cfg(feature = "cuda")]
pub mod driver;
#[cfg(feature = "cuda")]
mod error;
pub mod gpu;
#[cfg(feature = "cuda")]
mod graph;
mod heads;
mod memory;
mod mixture;
#[cfg(feature = "cuda")]
mod pieces;
mod planes;
mod products;
#[cfg(feature = "cuda")]
mod queue;
#[cfg(feature = "cuda")]
mod registry;
mod roof;
pub mod source;
mod uploads;

pub use device::{Cuda, CudaMatrix, CudaWeight};
pub use gpu::{Argument, Gpu};
pub(crate) use products::QUANTIZED;
pub use roof::{Effort, GpuRoof};
