//! The processor's own limits, measured.

use std::time::Instant;

use super::device::Cuda;
use super::gpu::Argument;
use super::memory::Memory;
use crate::error::{KernelError, Result};

/// Threads of a block, and blocks: enough for any processor's units.
const THREADS: u32 = 256;
const BLOCKS: u32 = 2048;
/// `ROOF_CHAINS` of kernels/cuda/roof.cu, and operations of one of its products.
const CHAINS: f64 = 8.0;
const PRODUCT: f64 = 2.0 * 16.0 * 8.0 * 32.0;

/// The best that was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuRoof {
    /// Bytes a second of a copy from place to place, read and written counted together.
    pub copy: f64,
    /// Multiplications and additions a second of 8-bit integers.
    pub integers: f64,
}

/// How much work a measurement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Bytes of a copy.
    pub bytes: usize,
    /// Rounds of a kernel that only multiplies.
    pub rounds: u32,
    /// The best of so many is taken.
    pub repeats: usize,
}

impl Effort {
    /// For a processor.
    pub const FULL: Effort = Effort {
        bytes: 512 << 20,
        rounds: 2000,
        repeats: 5,
    };
    /// For what stands in for one.
    pub const LEAST: Effort = Effort {
        bytes: 1 << 16,
        rounds: 1,
        repeats: 1,
    };
}

impl Cuda {
    /// Measures the limits of this processor.
    ///
    /// # Errors
    /// [`KernelError::Gpu`], [`KernelError::Lost`].
    pub fn roof(&self, effort: Effort) -> Result<GpuRoof> {
        let from = Memory::zeros(&self.gpu, effort.bytes)?;
        let to = Memory::any(&self.gpu, effort.bytes)?;
        let copy = || to.put(0, &from, effort.bytes);
        let blocks = if effort == Effort::LEAST { 1 } else { BLOCKS };
        let values = (blocks * THREADS) as usize;
        let out = Memory::any(&self.gpu, values * size_of::<i32>())?;
        let arguments = [out.address(), Argument::U32(effort.rounds)];
        let multiply = || self.start("roof_integers", [blocks, 1, 1], THREADS, &arguments);
        let warps = f64::from(blocks * THREADS / 32);
        let operations = warps * f64::from(effort.rounds) * CHAINS * PRODUCT;
        Ok(GpuRoof {
            copy: 2.0 * effort.bytes as f64 / self.best(effort.repeats, copy)?,
            integers: operations / self.best(effort.repeats, multiply)?,
        })
    }

    /// Seconds of the quickest of several, after one that does not count.
    fn best(&self, repeats: usize, work: impl Fn() -> Result<()>) -> Result<f64> {
        work()?;
        self.wait()?;
        let mut best = f64::INFINITY;
        for _ in 0..repeats {
            let start = Instant::now();
            work()?;
            self.wait()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    /// Waits until all that was asked for is done.
    ///
    /// # Errors
    /// [`KernelError::Lost`]: something that was asked for before has failed.
    pub fn wait(&self) -> Result<()> {
        let word = Memory::zeros(&self.gpu, size_of::<u32>())?;
        // Work is done in order, and reading waits.
        match word.read(u32::from_le_bytes)?[..] {
            [0] => Ok(()),
            _ => Err(KernelError::Gpu("memory does not keep a zero".to_owned())),
        }
    }
}
