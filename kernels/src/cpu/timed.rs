//! Products that are timed, for benches.

use std::hint::black_box;
use std::time::Instant;

use super::Cpu;
use crate::device::{Device, Role, WeightData};
use crate::error::Result;
use crate::format::Format;

/// Products with one token take turns on weights of so many bytes together, so that each comes out of
/// memory and not out of a cache, as in a model.
pub const COLD: usize = 1 << 30;

/// Weights and activations, ready to be multiplied.
pub struct Product {
    cpu: Cpu,
    x: <Cpu as Device>::Buffer,
    weights: Vec<<Cpu as Device>::Weight>,
}

impl Product {
    /// `m` outputs, `k` inputs, `n` tokens; `cold` is [`COLD`], or 0 for one weight only.
    ///
    /// # Errors
    /// [`KernelError`](crate::KernelError) if the format's blocks do not divide `k`.
    pub fn new(
        cpu: Cpu,
        format: Format,
        (m, k, n): (usize, usize, usize),
        cold: usize,
    ) -> Result<Self> {
        // Cheap numbers, so that counting instructions counts the product. Small bytes: no block has an
        // infinite factor.
        let x: Vec<f32> = (0..n * k).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let bytes: Vec<u8> = (0..m * format.row_bytes(k)?)
            .map(|i| (i * 29 % 47) as u8)
            .collect();
        let copies = if n == 1 {
            (cold / bytes.len().max(1)).max(1)
        } else {
            1
        };
        let bytes = bytes::Bytes::from(bytes);
        let weight = |_| {
            cpu.weight(WeightData {
                role: Role::Matrix,
                format,
                rows: m,
                cols: k,
                bytes: bytes.clone(),
            })
        };
        Ok(Product {
            cpu,
            x: cpu.upload(&x, k)?,
            weights: (0..copies).map(weight).collect::<Result<_>>()?,
        })
    }

    /// How many weights take turns.
    pub fn copies(&self) -> usize {
        self.weights.len()
    }

    /// The best of several rounds, for one product; quantizing the activations is part of it.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn seconds(&self, repeats: usize) -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..repeats {
            let start = Instant::now();
            for w in &self.weights {
                black_box(self.cpu.matmul(&self.x, w, None)?);
            }
            best = best.min(start.elapsed().as_secs_f64() / self.weights.len() as f64);
        }
        Ok(best)
    }
}
