//! Heads of queries and keys: their norm and their rotary position embedding.

use super::device::{Cuda, CudaMatrix, CudaWeight, blocks, count};
use super::gpu::Argument;
use crate::device::HeadNorms;
use crate::error::Result;
use crate::scalar::frequencies;

/// `HEAD_WARPS` of kernels/cuda/heads.cu, and the threads of a warp.
const HEAD_WARPS: usize = 4;
const WARP: usize = 32;

impl Cuda {
    /// Rotary position embedding, in place.
    pub(super) fn turn(
        &self,
        x: &mut CudaMatrix,
        positions: &[u32],
        head_dim: usize,
        theta: f32,
    ) -> Result<()> {
        let frequencies = frequencies((x.rows, x.cols), positions, head_dim, theta)?;
        let frequencies = self.floats(&frequencies)?;
        let numbers = self.numbers(positions)?;
        let pairs = x.len() / 2;
        let arguments = [
            x.changed(),
            numbers.address(),
            frequencies.address(),
            Argument::U64(pairs as u64),
            x.row_length(),
            Argument::U32(head_dim as u32),
        ];
        self.each("rope", pairs, &arguments)
    }

    /// The norm of every head and its rotary position embedding in one launch.
    pub(super) fn norm_and_turn(
        &self,
        q: &CudaMatrix,
        k: &CudaMatrix,
        norms: HeadNorms<'_, CudaWeight>,
        positions: &[u32],
    ) -> Result<(CudaMatrix, CudaMatrix)> {
        let head = norms.head_dim;
        let of = |x: &CudaMatrix| frequencies((x.rows, x.cols), positions, head, norms.theta);
        of(k)?;
        let frequencies = self.floats(&of(q)?)?;
        let scales = [norms.q, norms.k].map(|w| self.vector("turn_heads", w, head));
        let [q_scale, k_scale] = scales;
        let numbers = self.numbers(positions)?;
        let turned = (self.any(q.rows, q.cols)?, self.any(k.rows, k.cols)?);
        let (q_heads, k_heads) = (q.cols / head, k.cols / head);
        let heads = positions.len() * (q_heads + k_heads);
        let arguments = [
            turned.0.address(),
            turned.1.address(),
            q.address(),
            k.address(),
            q_scale?.address(),
            k_scale?.address(),
            numbers.address(),
            frequencies.address(),
            Argument::U64(heads as u64),
            Argument::U32(count(q_heads)?),
            Argument::U32(count(k_heads)?),
            Argument::U32(count(head)?),
            Argument::F32(norms.eps),
        ];
        let grid = blocks(heads.div_ceil(HEAD_WARPS))?;
        self.start("turn_heads", grid, (HEAD_WARPS * WARP) as u32, &arguments)?;
        Ok(turned)
    }
}
