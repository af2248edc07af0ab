//! What every quantized block is: small integers, and a scale (and an offset) for each run of them.

use super::{small, super_blocks};
use crate::format::Format;

/// The values of the largest block.
pub(crate) const MOST_VALUES: usize = 256;
/// The runs of the largest block.
pub(crate) const MOST_RUNS: usize = 16;

/// A block taken apart: `value = scale * q + offset`, with one scale and offset a run. For formats
/// without offsets they are zero.
#[derive(Debug, Clone)]
pub(crate) struct Unpacked {
    pub(crate) q: [i8; MOST_VALUES],
    pub(crate) scale: [f32; MOST_RUNS],
    pub(crate) offset: [f32; MOST_RUNS],
}

impl Unpacked {
    pub(crate) const fn new() -> Self {
        Unpacked {
            q: [0; MOST_VALUES],
            scale: [0.0; MOST_RUNS],
            offset: [0.0; MOST_RUNS],
        }
    }

    /// Takes apart one block. The caller has checked its length.
    pub(crate) fn read(&mut self, format: Format, block: &[u8]) {
        match format {
            Format::Q4_0 => small::q4_0(block, self),
            Format::Q4_1 => small::q4_1(block, self),
            Format::Q5_0 => small::q5_0(block, self),
            Format::Q5_1 => small::q5_1(block, self),
            Format::Q8_0 => small::q8_0(block, self),
            Format::Q2_K => super_blocks::q2_k(block, self),
            Format::Q3_K => super_blocks::q3_k(block, self),
            Format::Q4_K => super_blocks::q4_k(block, self),
            Format::Q5_K => super_blocks::q5_k(block, self),
            Format::Q6_K => super_blocks::q6_k(block, self),
            // Floats are no blocks.
            Format::F32 | Format::F16 | Format::BF16 => {}
        }
    }

    /// The values of the first `out.len()` integers, runs being `run` long. Product and sum are
    /// rounded one after the other, as GGUF's reference does it.
    pub(crate) fn values(&self, run: usize, out: &mut [f32]) {
        for (i, values) in out.chunks_mut(run).enumerate() {
            let (scale, offset) = (self.scale[i], self.offset[i]);
            for (v, q) in values.iter_mut().zip(&self.q[i * run..]) {
                *v = scale * f32::from(*q) + offset;
            }
        }
    }
}
