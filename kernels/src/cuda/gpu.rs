//! What the device needs of a processor.
#![allow(unsafe_code)]

use bytes::Bytes;

use crate::error::Result;

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// An address on the processor; 0 is none.
    Address(u64),
    /// A 32-bit count.
    U32(u32),
    /// A 64-bit count.
    U64(u64),
    /// A number.
    F32(f32),
    /// A structure as C lays it out.
    Bytes(&'a [u8]),
}

impl Argument<'_> {
    /// The argument as it lies in memory, padded to whole cells.
    #[must_use]
    pub fn cells(&self) -> Vec<u64> {
        let cell = |bytes: &[u8]| {
            let mut cell = [0; 8];
            cell[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(cell)
        };
        match self {
            Argument::Address(v) | Argument::U64(v) => vec![*v],
            Argument::U32(v) => vec![cell(&v.to_ne_bytes())],
            Argument::F32(v) => vec![cell(&v.to_ne_bytes())],
            Argument::Bytes(bytes) => bytes.chunks(8).map(cell).collect(),
        }
    }
}

/// A processor with memory of its own. Work is done in the order in which it is asked for; reading waits for it.
pub trait Gpu: Send + Sync + 'static {
    /// What it is, for logs.
    fn describe(&self) -> String;
    /// Memory of so many bytes, at a multiple of 256.
    ///
    /// # Errors
    /// [`crate::KernelError::Gpu`] naming what was asked for and what is free.
    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// Gives memory back.
    ///
    /// # Safety
    /// `at` came from [`Gpu::allocate`] and is not used by anything asked for later.
    unsafe fn free(&self, at: u64);
    /// The address of the host's bytes for a processor that reads them where they are; none where it does not. Nothing
    /// writes there.
    fn share(&self, _: &Bytes) -> Option<u64> {
        None
    }
    /// Gives back what [`Gpu::share`] gave once.
    ///
    /// # Safety
    /// The bytes are not used by anything asked for later.
    unsafe fn release(&self) {}
    /// Copies bytes there.
    ///
    /// # Safety
    /// So much memory lies at `to`.
    ///
    /// # Errors
    /// [`crate::KernelError::Gpu`] if the processor is lost.
    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Copies bytes back.
    ///
    /// # Safety
    /// So much memory lies at `from`.
    ///
    /// # Errors
    /// As [`Gpu::write`].
    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Copies bytes from place to place.
    ///
    /// # Safety
    /// So much memory lies at both, without overlap.
    ///
    /// # Errors
    /// As [`Gpu::write`].
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;
    /// Sets bytes to zero.
    ///
    /// # Safety
    /// So much memory lies at `at`.
    ///
    /// # Errors
    /// As [`Gpu::write`].
    unsafe fn zero(&self, at: u64, bytes: usize) -> Result<()>;
    /// Starts a kernel on a grid of blocks, each of `threads` threads.
    ///
    /// # Safety
    /// The arguments are those of the kernel of this name, in number, order and type, and the memory that they name is
    /// as large as the kernel takes it to be.
    ///
    /// # Errors
    /// [`crate::KernelError::Gpu`] if there is no such kernel or it cannot be started.
    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        arguments: &[Argument<'_>],
    ) -> Result<()>;
}
