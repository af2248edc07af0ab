//! Pieces of a processor's memory.
#![allow(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use super::gpu::{Argument, Gpu};
use crate::error::{KernelError, Result};

/// Memory that is given back when it is dropped.
pub(super) struct Memory {
    gpu: Arc<dyn Gpu>,
    at: u64,
    bytes: usize,
    /// Whether it is the host's, to be read only.
    shared: bool,
}

impl Memory {
    /// Memory of which nothing is known.
    pub(super) fn any(gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<Self> {
        // Nothing is no address.
        let at = gpu.allocate(bytes.max(1))?;
        Ok(Memory {
            gpu: Arc::clone(gpu),
            at,
            bytes,
            shared: false,
        })
    }

    pub(super) fn zeros(gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<Self> {
        let memory = Memory::any(gpu, bytes)?;
        // SAFETY: so much was allocated.
        unsafe { gpu.zero(memory.at, bytes)? };
        Ok(memory)
    }

    pub(super) fn of(gpu: &Arc<dyn Gpu>, bytes: &[u8]) -> Result<Self> {
        let memory = Memory::any(gpu, bytes.len())?;
        // SAFETY: so much was allocated.
        unsafe { gpu.write(memory.at, bytes)? };
        Ok(memory)
    }

    /// These bytes: where they are if the processor can read them there, or else a copy.
    pub(super) fn shared(gpu: &Arc<dyn Gpu>, bytes: &Bytes) -> Result<Self> {
        let Some(at) = gpu.share(bytes) else {
            return Memory::of(gpu, bytes);
        };
        Ok(Memory {
            gpu: Arc::clone(gpu),
            at,
            bytes: bytes.len(),
            shared: true,
        })
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    pub(super) fn floats(gpu: &Arc<dyn Gpu>, values: &[f32]) -> Result<Self> {
        Memory::of(gpu, bytes_of(values))
    }

    pub(super) fn address(&self) -> Argument<'static> {
        Argument::Address(self.at)
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies all of `from` to `offset` bytes from the start.
    pub(super) fn put(&self, offset: usize, from: &Memory, bytes: usize) -> Result<()> {
        let fits = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.bytes);
        if !fits || bytes > from.bytes {
            return Err(KernelError::Gpu(format!(
                "a copy of {bytes} bytes to {offset} of {} leaves its memory",
                self.bytes
            )));
        }
        // SAFETY: both ranges were checked; different pieces do not overlap.
        unsafe { self.gpu.copy(self.at + offset as u64, from.at, bytes) }
    }

    pub(super) fn copy(&self) -> Result<Self> {
        let copy = Memory::any(&self.gpu, self.bytes)?;
        copy.put(0, self, self.bytes)?;
        Ok(copy)
    }

    pub(super) fn read<const N: usize, T>(&self, number: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let mut bytes = vec![0; self.bytes];
        // SAFETY: so much was allocated.
        unsafe { self.gpu.read(self.at, &mut bytes)? };
        Ok(bytes
            .as_chunks::<N>()
            .0
            .iter()
            .map(|c| number(*c))
            .collect())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated or shared here; what was asked for earlier comes first.
        unsafe {
            if self.shared {
                self.gpu.release();
            } else {
                self.gpu.free(self.at);
            }
        }
    }
}

fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: floats are four bytes each, without padding, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
