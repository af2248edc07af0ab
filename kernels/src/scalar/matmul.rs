//! Matrix product with a stored weight.

use rayon::prelude::*;

use super::{Matrix, Stored};
use crate::error::{Result, same};

/// Output rows of the weight that one task computes.
const ROWS_A_TASK: usize = 16;

/// `x W^T + b`. Each weight row is decoded once and multiplied with every row of `x`, so the
/// product is made transposed and turned round at the end.
pub(super) fn matmul(x: &Matrix, w: &Stored, bias: Option<&Stored>) -> Result<Matrix> {
    same("matmul", "the row length of x", x.cols, w.cols)?;
    let mut out = Matrix::new(x.rows, w.rows)?;
    let bias = match bias {
        Some(b) => b.vector("matmul bias", w.rows)?,
        None => vec![0.0; w.rows],
    };
    if x.rows == 0 || w.rows == 0 {
        return Ok(out);
    }
    let mut transposed = vec![0.0; out.values.len()];
    transposed
        .par_chunks_mut(x.rows * ROWS_A_TASK)
        .enumerate()
        .try_for_each(|(task, chunk)| {
            let mut decoded = vec![0.0; w.cols];
            for (i, products) in chunk.chunks_mut(x.rows).enumerate() {
                let row = task * ROWS_A_TASK + i;
                w.decode(row, &mut decoded)?;
                for (n, p) in products.iter_mut().enumerate() {
                    *p = dot(x.row(n), &decoded) + bias[row];
                }
            }
            Ok(())
        })?;
    for (n, row) in out.values.chunks_mut(w.rows).enumerate() {
        for (m, v) in row.iter_mut().enumerate() {
            *v = transposed[m * x.rows + n];
        }
    }
    Ok(out)
}

/// Scalar product. Independent partial sums let the compiler use vector registers.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for l in 0..LANES {
            sums[l] += a[l] * b[l];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
