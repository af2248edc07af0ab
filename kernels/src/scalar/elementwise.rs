//! Operations on single values.

use super::Matrix;
use crate::error::{Result, same};

pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// GELU's tanh approximation (Hendrycks and Gimpel, 2016).
pub(super) fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)).tanh())
}

pub(super) fn each(x: &mut Matrix, f: impl Fn(f32) -> f32) {
    for v in &mut x.values {
        *v = f(*v);
    }
}

/// `x = f(x, y)`, value by value.
pub(super) fn with(
    operation: &'static str,
    x: &mut Matrix,
    y: &Matrix,
    f: impl Fn(f32, f32) -> f32,
) -> Result<()> {
    same(operation, "the number of rows", y.rows, x.rows)?;
    same(operation, "the row length", y.cols, x.cols)?;
    for (a, b) in x.values.iter_mut().zip(&y.values) {
        *a = f(*a, *b);
    }
    Ok(())
}

pub(super) fn add(x: &mut Matrix, y: &Matrix) -> Result<()> {
    if y.rows != 1 {
        return with("add", x, y, |x, y| x + y);
    }
    same("add", "the row length", y.cols, x.cols)?;
    for row in x.values.chunks_mut(x.cols.max(1)) {
        for (a, b) in row.iter_mut().zip(&y.values) {
            *a += b;
        }
    }
    Ok(())
}

/// Channels of a picture whose means and variances are `x`; shapes are rows and columns.
pub(crate) fn channels_of_moments(
    x: (usize, usize),
    noise: Option<(usize, usize)>,
) -> Result<usize> {
    let channels = x.1 / 2;
    same("gaussian", "the row length", x.1, channels * 2)?;
    if let Some((rows, cols)) = noise {
        same("gaussian", "the rows of the noise", rows, x.0)?;
        same("gaussian", "the row length of the noise", cols, channels)?;
    }
    Ok(channels)
}

pub(super) fn gaussian(x: &Matrix, noise: Option<&Matrix>) -> Result<Matrix> {
    let channels = channels_of_moments((x.rows, x.cols), noise.map(|n| (n.rows, n.cols)))?;
    let mut out = Matrix::new(x.rows, channels)?;
    for n in 0..x.rows {
        let (mean, log_variance) = x.row(n).split_at(channels);
        let row = &mut out.values[n * channels..(n + 1) * channels];
        row.copy_from_slice(mean);
        if let Some(noise) = noise {
            for (c, v) in row.iter_mut().enumerate() {
                *v += (0.5 * log_variance[c]).exp() * noise.row(n)[c];
            }
        }
    }
    Ok(out)
}
