//! Matrices that wait in half precision.

use half::f16;

use super::Matrix;

/// A matrix of f16 and the factor that was taken out of its values.
#[derive(Debug, Clone)]
pub struct HalfMatrix {
    rows: usize,
    cols: usize,
    factor: f32,
    values: Vec<f16>,
}

pub(super) fn halve(x: &Matrix) -> HalfMatrix {
    let largest = x.values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    // A power of two, so that it costs no precision.
    let mut factor = 1.0f32;
    while largest.is_finite() && largest / factor > f16::MAX.to_f32() {
        factor *= 2.0;
    }
    let inverse = 1.0 / factor;
    HalfMatrix {
        rows: x.rows,
        cols: x.cols,
        factor,
        values: x
            .values
            .iter()
            .map(|v| f16::from_f32(v * inverse))
            .collect(),
    }
}

pub(super) fn restore(x: &HalfMatrix) -> Matrix {
    Matrix {
        rows: x.rows,
        cols: x.cols,
        values: (x.values.iter().map(|v| v.to_f32() * x.factor))
            .collect::<Vec<f32>>()
            .into(),
    }
}
