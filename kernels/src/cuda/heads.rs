//! Heads of queries and keys: their norm and their rotary position embedding.

use std::sync::Arc;

use super::device::{Cuda, CudaMatrix, CudaWeight, blocks, count};
use super::gpu::Argument;
use super::memory::Memory;
use crate::device::HeadNorms;
use crate::error::{KernelError, Result, same};

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
        check(x, positions, head_dim)?;
        let frequencies = self.frequencies(head_dim, theta)?;
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
        check(q, positions, head)?;
        check(k, positions, head)?;
        let scales = [norms.q, norms.k].map(|w| self.vector("turn_heads", w, head));
        let [q_scale, k_scale] = scales;
        let frequencies = self.frequencies(head, norms.theta)?;
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

    /// `theta^(-2 j / head_dim)` of every pair.
    fn frequencies(&self, head_dim: usize, theta: f32) -> Result<Arc<Memory>> {
        let of = |j: usize| 1.0 / theta.powf((2 * j) as f32 / head_dim as f32);
        self.uploaded(
            (0..head_dim / 2)
                .map(of)
                .flat_map(f32::to_ne_bytes)
                .collect(),
        )
    }
}

/// One position a row, and rows of whole heads.
fn check(x: &CudaMatrix, positions: &[u32], head_dim: usize) -> Result<()> {
    same("rope", "the number of positions", positions.len(), x.rows)?;
    if head_dim == 0 || !head_dim.is_multiple_of(2) || !x.cols.is_multiple_of(head_dim) {
        return Err(KernelError::Shape {
            operation: "rope",
            what: "the head length",
            got: head_dim,
            expected: x.cols,
        });
    }
    Ok(())
}
