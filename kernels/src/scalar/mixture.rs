//! A mixture of experts: rows are grouped by expert, so that each expert's weights are read once.

use super::{Matrix, Scalar, Stored};
use crate::device::{Device, Expert};
use crate::error::{KernelError, Result, same};

pub(super) fn mixture(
    x: &Matrix,
    logits: &Matrix,
    experts: &[Expert<'_, Stored>],
    used: usize,
) -> Result<Matrix> {
    let rows_of = choose(x, logits, experts.len(), used)?;
    let mut out = Matrix::new(x.rows, x.cols)?;
    for (e, (expert, rows)) in experts.iter().zip(&rows_of).enumerate() {
        if rows.is_empty() {
            continue;
        }
        let mine = Scalar.gather_rows(x, rows)?;
        let mut inner = Scalar.matmul(&mine, expert.gate, None)?;
        Scalar.swiglu(&mut inner, &Scalar.matmul(&mine, expert.up, None)?)?;
        let mine = Scalar.matmul(&inner, expert.down, None)?;
        same(
            "mixture",
            "the width of an expert's output",
            mine.cols,
            x.cols,
        )?;
        for (i, n) in rows.iter().enumerate() {
            let n = *n as usize;
            let factor = 1.0 + logits.row(n)[e];
            let sum = &mut out.values[n * x.cols..(n + 1) * x.cols];
            for (s, v) in sum.iter_mut().zip(mine.row(i)) {
                *s += factor * v;
            }
        }
    }
    Ok(out)
}

/// The rows of `x` that each expert gets.
pub(crate) fn choose(
    x: &Matrix,
    logits: &Matrix,
    experts: usize,
    used: usize,
) -> Result<Vec<Vec<u32>>> {
    same("mixture", "the rows of the logits", logits.rows, x.rows)?;
    same("mixture", "the number of logits", logits.cols, experts)?;
    if used > experts {
        return Err(KernelError::Shape {
            operation: "mixture",
            what: "the number of experts used",
            got: used,
            expected: experts,
        });
    }
    let mut rows_of = vec![Vec::new(); experts];
    for n in 0..x.rows {
        for e in largest(logits.row(n), used) {
            rows_of[e].push(n as u32);
        }
    }
    Ok(rows_of)
}

/// The indexes of the `count` largest values, the first of equals, in ascending order.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(count);
    order.sort_unstable();
    order
}
