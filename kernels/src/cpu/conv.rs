//! Convolution as a matrix product without laying windows out: for each tap of the kernel, the rows of
//! the product are the input pixels under it.

use super::gemm;
use super::matmul::Shared;
use super::pack::Floats;
use super::pool;
use super::set::InstructionSet;
use crate::device::ConvShape;
use crate::error::{KernelError, Result, product, same};
use crate::scalar::Matrix;

/// Output pixels that one task computes.
const PIXELS: usize = 96;

/// `w` is `[outputs, taps * channels]`, channels last.
pub(super) fn conv2d(
    set: InstructionSet,
    x: &Matrix,
    w: &Floats,
    bias: &[f32],
    shape: ConvShape,
) -> Result<Matrix> {
    let (height, width) = shape.output();
    if height == 0 || width == 0 {
        return Err(KernelError::Shape {
            operation: "conv2d",
            what: "the smaller picture side",
            got: shape.height.min(shape.width),
            expected: shape.kernel,
        });
    }
    let pixels = product("conv2d", shape.height, shape.width)?;
    let taps = product("conv2d", shape.kernel, shape.kernel)?;
    same("conv2d", "the number of pixels", x.rows, pixels)?;
    same(
        "conv2d",
        "the values of the kernel",
        w.cols,
        product("conv2d", x.cols, taps)?,
    )?;
    same("conv2d", "the length of the bias", bias.len(), w.rows)?;

    let channels = x.cols;
    let mut out = Matrix::any(product("conv2d", height, width)?, w.rows)?;
    let shared = Shared(out.values.as_mut_ptr());
    let nothing = vec![0.0; channels];
    let under = |pixel: usize, tap: usize| -> &[f32] {
        let (row, column) = (pixel / width, pixel % width);
        let y = (row * shape.stride + tap / shape.kernel).checked_sub(shape.pad_before);
        let z = (column * shape.stride + tap % shape.kernel).checked_sub(shape.pad_before);
        match (y, z) {
            (Some(y), Some(z)) if y < shape.height && z < shape.width => x.row(y * shape.width + z),
            _ => &nothing,
        }
    };
    let count = height * width;
    pool::for_each(count.div_ceil(PIXELS), |task| {
        let pixels = task * PIXELS..((task + 1) * PIXELS).min(count);
        let windows: Vec<Vec<&[f32]>> = (0..taps)
            .map(|tap| pixels.clone().map(|p| under(p, tap)).collect())
            .collect();
        let tile = w.tile_rows;
        let mut sums = vec![0.0; pixels.len() * tile];
        let mut room = Vec::new();
        for t in 0..w.rows.div_ceil(tile) {
            let first = t * tile;
            let bias = &bias[first..(first + tile).min(w.rows)];
            for sum in sums.chunks_exact_mut(tile) {
                sum[..bias.len()].copy_from_slice(bias);
                sum[bias.len()..].fill(0.0);
            }
            for (tap, windows) in windows.iter().enumerate() {
                let part = w.part(set, t, tap * channels, (tap + 1) * channels, &mut room);
                gemm::gemm(set, part, tile, channels, windows, &mut sums);
            }
            for (pixel, sum) in pixels.clone().zip(sums.chunks_exact(tile)) {
                // SAFETY: the pixel is within `out`, and no other task has it.
                unsafe { shared.write(pixel * w.rows + first, &sum[..bias.len()]) };
            }
        }
    });
    Ok(out)
}
