//! Norms. Sums are taken in f64: a picture's group has up to millions of values.

use super::{Matrix, Stored, elementwise::silu};
use crate::device::{GroupMoments, RenormSpan};
use crate::error::{KernelError, Result, same};

pub(super) fn rms_norm(x: &Matrix, w: &Stored, eps: f32) -> Result<Matrix> {
    let len = w.rows * w.cols;
    if len == 0 || !x.cols.is_multiple_of(len) {
        return Err(KernelError::Shape {
            operation: "rms_norm",
            what: "the row length",
            got: x.cols,
            expected: len,
        });
    }
    let weight = w.vector("rms_norm", len)?;
    let mut out = x.clone();
    for run in out.values.chunks_mut(len) {
        let squares: f64 = run.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let inverse = 1.0 / ((squares / len as f64) as f32 + eps).sqrt();
        for (v, w) in run.iter_mut().zip(&weight) {
            *v = *v * inverse * w;
        }
    }
    Ok(out)
}

pub(super) fn layer_norm(x: &Matrix, w: &Stored, b: &Stored, eps: f32) -> Result<Matrix> {
    let weight = w.vector("layer_norm weight", x.cols)?;
    let bias = b.vector("layer_norm bias", x.cols)?;
    let mut out = x.clone();
    for row in out.values.chunks_mut(x.cols.max(1)) {
        let (mean, inverse) = moments(row.iter().copied(), row.len(), eps);
        for (c, v) in row.iter_mut().enumerate() {
            *v = (*v - mean) * inverse * weight[c] + bias[c];
        }
    }
    Ok(out)
}

pub(super) fn group_moments(x: &Matrix, groups: usize) -> Result<GroupMoments> {
    if groups == 0 || x.cols == 0 || !x.cols.is_multiple_of(groups) {
        return Err(KernelError::Shape {
            operation: "group_moments",
            what: "the number of groups",
            got: groups,
            expected: x.cols,
        });
    }
    let width = x.cols / groups;
    let count = (x.rows * width) as f64;
    let mut mean = vec![0.0; groups];
    for row in x.values.chunks_exact(x.cols) {
        for (sum, group) in mean.iter_mut().zip(row.chunks_exact(width)) {
            *sum += group.iter().copied().map(f64::from).sum::<f64>();
        }
    }
    for sum in &mut mean {
        *sum /= count.max(1.0);
    }
    let mut squares = vec![0.0; groups];
    for row in x.values.chunks_exact(x.cols) {
        for ((sum, mean), group) in squares.iter_mut().zip(&mean).zip(row.chunks_exact(width)) {
            *sum += group
                .iter()
                .map(|v| (f64::from(*v) - mean).powi(2))
                .sum::<f64>();
        }
    }
    Ok(GroupMoments {
        count,
        mean,
        squares,
    })
}

/// Mean and `1 / sqrt(variance + eps)` of every group of `cols` channels.
pub(crate) fn scales_of_groups(
    cols: usize,
    moments: &GroupMoments,
    eps: f32,
) -> Result<Vec<(f64, f64)>> {
    let groups = moments.mean.len();
    let fits = groups > 0 && cols > 0 && cols.is_multiple_of(groups);
    if !fits || moments.squares.len() != groups {
        return Err(KernelError::Shape {
            operation: "group_norm",
            what: "the number of groups",
            got: groups,
            expected: cols,
        });
    }
    let scale = |(mean, squares): (&f64, &f64)| {
        let variance = squares / moments.count.max(1.0);
        (*mean, 1.0 / (variance + f64::from(eps)).sqrt())
    };
    Ok(moments
        .mean
        .iter()
        .zip(&moments.squares)
        .map(scale)
        .collect())
}

pub(super) fn group_norm(
    x: &Matrix,
    moments: &GroupMoments,
    w: &Stored,
    b: &Stored,
    eps: f32,
    swish: bool,
) -> Result<Matrix> {
    let groups = scales_of_groups(x.cols, moments, eps)?;
    let weight = w.vector("group_norm weight", x.cols)?;
    let bias = b.vector("group_norm bias", x.cols)?;
    let width = x.cols / groups.len();
    let mut out = x.clone();
    for row in out.values.chunks_exact_mut(x.cols) {
        for (c, v) in row.iter_mut().enumerate() {
            let (mean, inverse) = groups[c / width];
            let normal = (*v - mean as f32) * inverse as f32 * weight[c] + bias[c];
            *v = if swish { silu(normal) } else { normal };
        }
    }
    Ok(out)
}

/// Mean and `1 / sqrt(variance + eps)`, in two passes.
fn moments(values: impl Iterator<Item = f32> + Clone, len: usize, eps: f32) -> (f32, f32) {
    let len = len.max(1) as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / len;
    let variance = values.map(|v| (f64::from(v) - mean).powi(2)).sum::<f64>() / len;
    (
        mean as f32,
        (1.0 / (variance + f64::from(eps)).sqrt()) as f32,
    )
}

pub(super) fn renorm(x: &mut Matrix, reference: &Matrix, min: f32, span: RenormSpan) -> Result<()> {
    same("renorm", "the number of rows", reference.rows, x.rows)?;
    same("renorm", "the row length", reference.cols, x.cols)?;
    let len = match span {
        RenormSpan::Whole => x.values.len(),
        RenormSpan::Row => x.cols,
    }
    .max(1);
    for (run, reference) in x.values.chunks_mut(len).zip(reference.values.chunks(len)) {
        let ratio = (length(reference) / (length(run) + 1e-8)).clamp(min.min(1.0), 1.0);
        for v in run {
            *v *= ratio;
        }
    }
    Ok(())
}

fn length(values: &[f32]) -> f32 {
    values
        .iter()
        .map(|v| f64::from(*v).powi(2))
        .sum::<f64>()
        .sqrt() as f32
}
