//! Matrices that wait in half precision.

use half::f16;

use super::Matrix;

/// A matrix of f16 and the factor that was taken out of its values.
#[derive(Debug, Clone)]
pub struct HalfMatrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) factor: f32,
    /// The bits of f16.
    pub(crate) values: Vec<u16>,
}

/// The factor that is taken out of values of which this is the largest: a power of two, so that it
/// costs no precision.
pub(crate) fn factor(largest: f32) -> f32 {
    let mut factor = 1.0f32;
    while largest.is_finite() && largest / factor > f16::MAX.to_f32() {
        factor *= 2.0;
    }
    factor
}

pub(super) fn halve(x: &Matrix) -> HalfMatrix {
    let factor = factor(x.values.iter().fold(0.0f32, |m, v| m.max(v.abs())));
    let values = x.values.iter().map(|v| f16::from_f32(v / factor).to_bits());
    HalfMatrix {
        rows: x.rows,
        cols: x.cols,
        factor,
        values: values.collect(),
    }
}

pub(super) fn restore(x: &HalfMatrix) -> Matrix {
    let values = x
        .values
        .iter()
        .map(|v| f16::from_bits(*v).to_f32() * x.factor);
    Matrix {
        rows: x.rows,
        cols: x.cols,
        values: values.collect::<Vec<f32>>().into(),
    }
}
