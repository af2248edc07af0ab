//! The reference device: plain f32 on the CPU, threads over rows.
//!
//! It is written to be read. Weights stay as they were given and are decoded row by row when they
//! are used; every operation is the formula of its documentation.

pub(crate) use attention::{check as check_attention, check_shapes, frequencies};
pub(crate) use elementwise::channels_of_moments;
pub(crate) use half::factor;
pub(crate) use mixture::choose;
pub(crate) use norm::scales_of_groups;

mod attention;
mod conv;
mod elementwise;
mod half;
mod matmul;
mod mixture;
mod norm;
#[cfg(test)]
mod tests;
mod values;

use bytes::Bytes;
pub use half::HalfMatrix;
pub(crate) use values::{Kept, Piece, Values};

use crate::blocks::decode_row;
use crate::device::{
    AttentionShape, ConvShape, Device, Expert, GroupMoments, RenormSpan, Role, WeightData,
};
use crate::error::{KernelError, Result, product, same};
use crate::format::Format;

/// The reference device.
#[derive(Debug, Default, Clone, Copy)]
pub struct Scalar;

/// A matrix of f32 in main memory.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) values: Values,
}

impl Matrix {
    pub(crate) fn new(rows: usize, cols: usize) -> Result<Self> {
        let values = Values::zeros(product("allocate", rows, cols)?);
        Ok(Matrix { rows, cols, values })
    }

    /// A matrix all of whose values will be written.
    pub(crate) fn any(rows: usize, cols: usize) -> Result<Self> {
        let values = Values::any(product("allocate", rows, cols)?);
        Ok(Matrix { rows, cols, values })
    }

    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.cols..(i + 1) * self.cols]
    }
}

/// A weight as it was stored.
#[derive(Debug, Clone)]
pub struct Stored {
    pub(crate) role: Role,
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_bytes: usize,
    pub(crate) bytes: Bytes,
}

impl Stored {
    /// Decodes row `i`; `out` has `cols` values.
    pub(crate) fn decode(&self, i: usize, out: &mut [f32]) -> Result<()> {
        decode_row(
            self.format,
            &self.bytes[i * self.row_bytes..(i + 1) * self.row_bytes],
            out,
        )
    }

    /// The only row of a vector, which must have `len` values.
    pub(crate) fn vector(&self, operation: &'static str, len: usize) -> Result<Vec<f32>> {
        same(operation, "the vector's length", self.rows * self.cols, len)?;
        let mut out = vec![0.0; len];
        for (i, row) in out.chunks_mut(self.cols.max(1)).enumerate() {
            self.decode(i, row)?;
        }
        Ok(out)
    }
}

/// Keys and values of a run of tokens.
#[derive(Debug, Clone)]
pub struct KeysValues {
    width: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KeysValues {
    fn tokens(&self) -> usize {
        self.keys.len() / self.width.max(1)
    }
}

impl Device for Scalar {
    type Buffer = Matrix;
    type Weight = Stored;
    type Cache = KeysValues;
    type Half = HalfMatrix;

    fn describe(&self) -> String {
        format!("scalar f32, {} threads", rayon::current_num_threads())
    }

    fn weight(&self, data: WeightData) -> Result<Stored> {
        let row_bytes = data.format.row_bytes(data.cols)?;
        let expected = row_bytes
            .checked_mul(data.rows)
            .ok_or(KernelError::Overflow {
                operation: "weight",
                a: row_bytes,
                b: data.rows,
            })?;
        if data.bytes.len() != expected {
            return Err(KernelError::WeightBytes {
                format: data.format,
                rows: data.rows,
                cols: data.cols,
                got: data.bytes.len(),
                expected,
            });
        }
        Ok(Stored {
            role: data.role,
            format: data.format,
            rows: data.rows,
            cols: data.cols,
            row_bytes,
            bytes: data.bytes,
        })
    }

    fn shares_bytes(&self, _: &Stored) -> bool {
        true
    }

    fn weight_shape(&self, weight: &Stored) -> (usize, usize) {
        (weight.rows, weight.cols)
    }

    fn upload(&self, values: &[f32], cols: usize) -> Result<Matrix> {
        let rows = rows_of("upload", values.len(), cols)?;
        Ok(Matrix {
            rows,
            cols,
            values: values.to_vec().into(),
        })
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Matrix> {
        Matrix::new(rows, cols)
    }

    fn download(&self, x: &Matrix) -> Result<Vec<f32>> {
        Ok(x.values.to_vec())
    }

    fn copy(&self, x: &Matrix) -> Result<Matrix> {
        Ok(x.clone())
    }

    fn shape(&self, x: &Matrix) -> (usize, usize) {
        (x.rows, x.cols)
    }

    fn reshape(&self, x: Matrix, cols: usize) -> Result<Matrix> {
        let rows = rows_of("reshape", x.values.len(), cols)?;
        Ok(Matrix { rows, cols, ..x })
    }

    fn halve(&self, x: &Matrix) -> Result<HalfMatrix> {
        Ok(half::halve(x))
    }

    fn restore(&self, x: &HalfMatrix) -> Result<Matrix> {
        Ok(half::restore(x))
    }

    fn matmul(&self, x: &Matrix, w: &Stored, bias: Option<&Stored>) -> Result<Matrix> {
        matmul::matmul(x, w, bias)
    }

    fn embed(&self, table: &Stored, ids: &[u32]) -> Result<Matrix> {
        let mut out = Matrix::any(ids.len(), table.cols)?;
        for (row, id) in out.values.chunks_mut(table.cols.max(1)).zip(ids) {
            in_range("embed", *id as usize, table.rows)?;
            table.decode(*id as usize, row)?;
        }
        Ok(out)
    }

    fn add(&self, x: &mut Matrix, y: &Matrix) -> Result<()> {
        elementwise::add(x, y)
    }

    fn add_scaled(&self, x: &mut Matrix, a: f32, y: &Matrix) -> Result<()> {
        elementwise::with("add_scaled", x, y, |x, y| x + a * y)
    }

    fn affine(&self, x: &mut Matrix, mul: f32, add: f32) -> Result<()> {
        elementwise::each(x, |v| mul * v + add);
        Ok(())
    }

    fn silu(&self, x: &mut Matrix) -> Result<()> {
        elementwise::each(x, elementwise::silu);
        Ok(())
    }

    fn gelu_tanh(&self, x: &mut Matrix) -> Result<()> {
        elementwise::each(x, elementwise::gelu_tanh);
        Ok(())
    }

    fn swiglu(&self, gate: &mut Matrix, up: &Matrix) -> Result<()> {
        elementwise::with("swiglu", gate, up, |g, u| elementwise::silu(g) * u)
    }

    fn mixture(
        &self,
        x: &Matrix,
        logits: &Matrix,
        experts: &[Expert<'_, Stored>],
        used: usize,
    ) -> Result<Matrix> {
        mixture::mixture(x, logits, experts, used)
    }

    fn scale_rows(&self, x: &mut Matrix, factors: &Matrix) -> Result<()> {
        same("scale_rows", "the number of factors", factors.rows, x.rows)?;
        same("scale_rows", "the width of the factors", factors.cols, 1)?;
        for (row, factor) in x.values.chunks_mut(x.cols.max(1)).zip(&factors.values) {
            for v in row {
                *v *= 1.0 + factor;
            }
        }
        Ok(())
    }

    fn rms_norm(&self, x: &Matrix, w: &Stored, eps: f32) -> Result<Matrix> {
        norm::rms_norm(x, w, eps)
    }

    fn layer_norm(&self, x: &Matrix, w: &Stored, b: &Stored, eps: f32) -> Result<Matrix> {
        norm::layer_norm(x, w, b, eps)
    }

    fn group_moments(&self, x: &Matrix, groups: usize) -> Result<GroupMoments> {
        norm::group_moments(x, groups)
    }

    fn group_norm(
        &self,
        x: &Matrix,
        moments: &GroupMoments,
        w: &Stored,
        b: &Stored,
        eps: f32,
        swish: bool,
    ) -> Result<Matrix> {
        norm::group_norm(x, moments, w, b, eps, swish)
    }

    fn rope(&self, x: &mut Matrix, positions: &[u32], head_dim: usize, theta: f32) -> Result<()> {
        attention::rope(x, positions, head_dim, theta)
    }

    fn cache(&self, width: usize) -> KeysValues {
        KeysValues {
            width,
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    fn cache_append(&self, cache: &mut KeysValues, k: &Matrix, v: &Matrix) -> Result<()> {
        same("cache_append", "the width of k", k.cols, cache.width)?;
        same("cache_append", "the width of v", v.cols, cache.width)?;
        same("cache_append", "the rows of v", v.rows, k.rows)?;
        cache.keys.extend_from_slice(&k.values);
        cache.values.extend_from_slice(&v.values);
        Ok(())
    }

    fn cache_read(&self, cache: &KeysValues) -> Result<(Matrix, Matrix)> {
        Ok((
            self.upload(&cache.keys, cache.width)?,
            self.upload(&cache.values, cache.width)?,
        ))
    }

    fn attention(
        &self,
        q: &Matrix,
        past: &[&KeysValues],
        k: &Matrix,
        v: &Matrix,
        shape: AttentionShape,
    ) -> Result<Matrix> {
        attention::attention(q, past, k, v, shape)
    }

    fn gather_rows(&self, x: &Matrix, ids: &[u32]) -> Result<Matrix> {
        let mut out = Matrix::any(ids.len(), x.cols)?;
        for (row, id) in out.values.chunks_mut(x.cols.max(1)).zip(ids) {
            in_range("gather_rows", *id as usize, x.rows)?;
            row.copy_from_slice(x.row(*id as usize));
        }
        Ok(out)
    }

    fn scatter_rows(&self, x: &mut Matrix, y: &Matrix, ids: &[u32]) -> Result<()> {
        same("scatter_rows", "the number of rows", y.rows, ids.len())?;
        same("scatter_rows", "the row length", y.cols, x.cols)?;
        for (i, id) in ids.iter().enumerate() {
            let at = *id as usize;
            in_range("scatter_rows", at, x.rows)?;
            x.values[at * x.cols..(at + 1) * x.cols].copy_from_slice(y.row(i));
        }
        Ok(())
    }

    fn conv2d(&self, x: &Matrix, w: &Stored, bias: &Stored, shape: ConvShape) -> Result<Matrix> {
        conv::conv2d(x, w, bias, shape)
    }

    fn upsample_nearest(&self, x: &Matrix, height: usize, width: usize) -> Result<Matrix> {
        conv::upsample_nearest(x, height, width)
    }

    fn gaussian(&self, x: &Matrix, noise: Option<&Matrix>) -> Result<Matrix> {
        elementwise::gaussian(x, noise)
    }

    fn extrapolate(&self, x: &mut Matrix, base: &Matrix, scale: f32) -> Result<()> {
        elementwise::with("extrapolate", x, base, |x, b| b + scale * (x - b))
    }

    fn renorm(&self, x: &mut Matrix, reference: &Matrix, min: f32, span: RenormSpan) -> Result<()> {
        norm::renorm(x, reference, min, span)
    }
}

pub(crate) fn rows_of(operation: &'static str, len: usize, cols: usize) -> Result<usize> {
    if cols == 0 || !len.is_multiple_of(cols) {
        return Err(KernelError::Shape {
            operation,
            what: "the number of columns",
            got: cols,
            expected: len,
        });
    }
    Ok(len / cols)
}

pub(crate) fn in_range(operation: &'static str, index: usize, len: usize) -> Result<()> {
    if index < len {
        Ok(())
    } else {
        Err(KernelError::Index {
            operation,
            index,
            len,
        })
    }
}
