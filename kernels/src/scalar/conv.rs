//! Convolution and upsampling of pictures stored `[pixels, channels]`.

use rayon::prelude::*;

use super::{Matrix, Stored, matmul::dot};
use crate::device::ConvShape;
use crate::error::{KernelError, Result, product, same};

/// Convolution as a matrix product: the window under each output pixel is laid out as one row.
pub(super) fn conv2d(x: &Matrix, w: &Stored, bias: &Stored, shape: ConvShape) -> Result<Matrix> {
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
    same("conv2d", "the number of pixels", x.rows, pixels)?;
    let window = x.cols * shape.kernel * shape.kernel;
    let outputs = w.rows;
    // A stored kernel is [out, in, rows, columns]; its rows may be split anywhere.
    same("conv2d", "the values of the kernel", w.cols, window)?;
    let bias = bias.vector("conv2d bias", outputs)?;
    let kernels = decode_channels_last(w, x.cols, shape.kernel)?;

    let mut out = Matrix::new(height * width, outputs)?;
    out.values
        .par_chunks_mut(width * outputs)
        .enumerate()
        .for_each(|(row, pixels)| {
            let mut values = vec![0.0; window];
            for (column, pixel) in pixels.chunks_mut(outputs).enumerate() {
                fill_window(x, shape, row, column, &mut values);
                for (o, v) in pixel.iter_mut().enumerate() {
                    *v = dot(&values, &kernels[o * window..(o + 1) * window]) + bias[o];
                }
            }
        });
    Ok(out)
}

/// The kernels in the order (row, column, in), in which a window lies in memory.
fn decode_channels_last(w: &Stored, channels: usize, kernel: usize) -> Result<Vec<f32>> {
    let window = w.cols;
    let taps = kernel * kernel;
    let mut kernels = vec![0.0; w.rows * window];
    let mut stored = vec![0.0; window];
    for (o, out) in kernels.chunks_mut(window).enumerate() {
        w.decode(o, &mut stored)?;
        for c in 0..channels {
            for t in 0..taps {
                out[t * channels + c] = stored[c * taps + t];
            }
        }
    }
    Ok(kernels)
}

fn fill_window(x: &Matrix, shape: ConvShape, row: usize, column: usize, values: &mut [f32]) {
    let taps = values.chunks_mut(x.cols);
    for (t, tap) in taps.enumerate() {
        let y = (row * shape.stride + t / shape.kernel).checked_sub(shape.pad_before);
        let z = (column * shape.stride + t % shape.kernel).checked_sub(shape.pad_before);
        match (y, z) {
            (Some(y), Some(z)) if y < shape.height && z < shape.width => {
                tap.copy_from_slice(x.row(y * shape.width + z));
            }
            _ => tap.fill(0.0),
        }
    }
}

pub(super) fn upsample_nearest(x: &Matrix, height: usize, width: usize) -> Result<Matrix> {
    let pixels = product("upsample_nearest", height, width)?;
    same("upsample_nearest", "the number of pixels", x.rows, pixels)?;
    let mut out = Matrix::any(product("upsample_nearest", pixels, 4)?, x.cols)?;
    for (i, pixel) in out.values.chunks_mut(x.cols.max(1)).enumerate() {
        let (row, column) = (i / (2 * width), i % (2 * width));
        pixel.copy_from_slice(x.row(row / 2 * width + column / 2));
    }
    Ok(out)
}
