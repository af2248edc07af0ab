//! The processor, with kernels for its instruction set.
//!
//! # Layout
//! - `set`: [`InstructionSet`], chosen at run time.
//! - `lanes`: vectors of f32; `gemm`: products, written once over them; `float`: functions of values, too.
//! - `pack`: weights in the order in which kernels read them; `quantize`: activations as integers.
//! - `int8`: products of integers, one file an instruction set.
//! - `roof`: what the processor can do at most; `timed`: products to compare with it.
//! - `threads`: which cores work; `pool`: how they share work.
//! - `matmul`, `conv`, `attention`: the operations, cut into tasks for threads.
//!
//! Quantized weights are multiplied with activations that are quantized too, 32 values to a scale;
//! sums of integers are exact. Float weights are multiplied in f32.
//!
//! # Unsafe code
//! Three things need it: intrinsics (which run only in functions compiled for a set that was detected,
//! see `lanes::dispatched` and `int8::tile`), raw reads in kernels (whose lengths their one caller
//! checks), and threads that write disjoint columns of one matrix (`matmul::Shared`).
#![allow(unsafe_code)]

mod attention;
mod cache;
mod conv;
mod float;
mod gemm;
mod int8;
mod kind;
mod lanes;
mod matmul;
mod pack;
mod pool;
mod quantize;
pub mod roof;
pub mod set;
#[cfg(test)]
mod tests;
pub mod threads;
pub mod timed;

use crate::device::{
    AttentionShape, ConvShape, Device, Expert, GroupMoments, RenormSpan, Role, WeightData,
};
use crate::error::{KernelError, Result, same};
use crate::format::Format;
use crate::scalar::{HalfMatrix, Matrix, Scalar, Stored, choose, factor, scales_of_groups};
pub(crate) use attention::FEW as FEW_QUERIES;
pub use cache::{Cache, CacheFormat};
use kind::Layout;
use matmul::Then;
use pack::{Floats, Integers};
use quantize::{Activations, Rows};
pub use roof::Roof;
pub use set::InstructionSet;

/// Values that one task of an operation on each value takes.
const VALUES: usize = 1 << 14;

/// The processor with one of its instruction sets.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    set: InstructionSet,
    cache: CacheFormat,
}

/// A weight in this device's order.
#[derive(Debug, Clone)]
pub struct Weight {
    role: Role,
    rows: usize,
    cols: usize,
    kept: Kept,
}

#[derive(Debug, Clone)]
enum Kept {
    Integers(Integers),
    Floats(Floats),
    Vector(Vec<f32>),
    Table(Stored),
}

impl Cpu {
    /// The processor with its best instruction set, or the one that `KINGLET_KERNELS` names.
    ///
    /// # Errors
    /// [`KernelError::InstructionSet`] if there is none of that name, or this processor lacks it.
    pub fn from_environment() -> Result<Self> {
        match std::env::var("KINGLET_KERNELS") {
            Ok(name) if !name.is_empty() => Self::new(InstructionSet::named(&name)?),
            _ => Ok(Self::best()),
        }
    }

    /// The processor with its best instruction set.
    pub fn best() -> Self {
        Cpu {
            set: InstructionSet::best(),
            cache: CacheFormat::F32,
        }
    }

    /// The processor with this instruction set.
    ///
    /// # Errors
    /// [`KernelError::InstructionSet`] if this processor lacks it.
    pub fn new(set: InstructionSet) -> Result<Self> {
        InstructionSet::named(set.name()).map(|set| Cpu {
            set,
            cache: CacheFormat::F32,
        })
    }

    /// The same with keys and values kept so.
    #[must_use]
    pub fn with_cache(self, cache: CacheFormat) -> Self {
        Cpu { cache, ..self }
    }

    /// The instruction set.
    pub fn set(&self) -> InstructionSet {
        self.set
    }

    /// `x W^T + b`, or a gate; `a` is `x` quantized, made when the first weight needs it.
    fn product(
        &self,
        x: &Matrix,
        a: &mut Option<Activations>,
        w: &Weight,
        bias: Option<&Weight>,
    ) -> Result<Matrix> {
        same("matmul", "the row length of x", x.cols, w.cols)?;
        let bias = bias.map(|b| b.vector("matmul bias", w.rows)).transpose()?;
        let mut out = Matrix::any(x.rows, w.rows)?;
        match &w.kept {
            Kept::Integers(integers) => {
                let a = a.get_or_insert_with(|| {
                    Rows::new(self.set, &x.values, x.cols).arrange(self.set)
                });
                matmul::integers(self.set, a, integers, Then::Bias(bias), &mut out.values);
            }
            Kept::Floats(floats) if w.role == Role::Matrix => {
                matmul::floats(self.set, &x.values, floats, bias, &mut out.values);
            }
            _ => return Err(w.mistaken("matmul")),
        }
        Ok(out)
    }

    fn gated_product(
        &self,
        x: &Matrix,
        a: &mut Option<Activations>,
        gate: &Weight,
        up: &Weight,
    ) -> Result<Matrix> {
        same("gated", "the rows of up", up.rows, gate.rows)?;
        same("gated", "the row length of up", up.cols, gate.cols)?;
        if let (Kept::Integers(gate), Kept::Integers(up)) = (&gate.kept, &up.kept) {
            same("gated", "the row length of x", x.cols, gate.cols)?;
            let mut out = Matrix::any(x.rows, gate.rows)?;
            let a =
                a.get_or_insert_with(|| Rows::new(self.set, &x.values, x.cols).arrange(self.set));
            matmul::integers(self.set, a, gate, Then::Gate(up), &mut out.values);
            return Ok(out);
        }
        let mut out = self.product(x, a, gate, None)?;
        let up = self.product(x, a, up, None)?;
        self.swiglu(&mut out, &up)?;
        Ok(out)
    }

    /// Runs `f` on parts of the values, on all threads if there are many.
    fn each(&self, x: &mut Matrix, f: impl Fn(&mut [f32]) + Sync) {
        if x.values.len() <= VALUES {
            f(&mut x.values);
        } else {
            pool::chunks(&mut x.values, VALUES, |_, part| f(part));
        }
    }

    /// Runs `f` on parts of the values and the same parts of `y`'s.
    fn pairs(
        &self,
        operation: &'static str,
        x: &mut Matrix,
        y: &Matrix,
        f: impl Fn(&mut [f32], &[f32]) + Sync,
    ) -> Result<()> {
        same(operation, "the number of rows", y.rows, x.rows)?;
        same(operation, "the row length", y.cols, x.cols)?;
        if x.values.len() <= VALUES {
            f(&mut x.values, &y.values);
        } else {
            pool::chunks(&mut x.values, VALUES, |i, x| {
                f(x, &y.values[i * VALUES..][..x.len()]);
            });
        }
        Ok(())
    }

    /// Runs `f` on each run of `len` values, which it reads from `x` and writes to the result.
    fn runs(
        &self,
        x: &Matrix,
        len: usize,
        f: impl Fn(&[f32], &mut [f32]) + Sync,
    ) -> Result<Matrix> {
        let mut out = Matrix::any(x.rows, x.cols)?;
        let some = (VALUES / len + 1) * len;
        pool::chunks(&mut out.values, some, |i, out| {
            let runs = x.values[i * some..].chunks(len).zip(out.chunks_mut(len));
            runs.for_each(|(x, out)| f(x, out));
        });
        Ok(out)
    }

    /// Mean and variance.
    fn moments(&self, x: &[f32]) -> (f64, f64) {
        let len = x.len().max(1) as f64;
        let mut sums = [0.0; 2];
        float::sums(self.set, x, 0.0, &mut sums);
        let mean = sums[0] / len;
        let mut sums = [0.0; 2];
        float::sums(self.set, x, mean as f32, &mut sums);
        (mean, sums[1] / len)
    }
}

/// The name of the order in which a set's kernels read weights. What was packed for one set serves
/// all that have this name.
pub const fn layout(set: InstructionSet) -> &'static str {
    match set {
        InstructionSet::Scalar => "scalar-2",
        InstructionSet::Avx2 => "avx2-2",
        InstructionSet::Avx512Vnni => "avx512-vnni-2",
        InstructionSet::Neon | InstructionSet::NeonDotprod => "neon-2",
        InstructionSet::NeonI8mm => "neon-i8mm-2",
    }
}

/// How a weight is kept once it has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keeping {
    /// Bytes of memory of its own.
    pub(crate) bytes: usize,
    /// Whether it is multiplied in integers.
    pub(crate) integers: bool,
}

/// How a set keeps a weight.
pub(crate) fn keeping(set: InstructionSet, data: &WeightData) -> Keeping {
    let WeightData {
        role,
        rows,
        cols,
        format,
        ..
    } = *data;
    let floats = |format| Floats::bytes(format, gemm::tile(set), rows, cols);
    let integers = match role {
        Role::Matrix => Integers::bytes(format, Layout::of(set), rows, cols),
        _ => None,
    };
    let bytes = match role {
        // The stored bytes are read.
        Role::Table => 0,
        Role::Vector => rows * cols * size_of::<f32>(),
        Role::Kernel { .. } => floats(Format::F32),
        Role::Matrix => integers.unwrap_or_else(|| floats(format)),
    };
    Keeping {
        bytes,
        integers: integers.is_some(),
    }
}

/// A weight in a set's order, as bytes to be stored; none if it is kept as it is given. The set need
/// not be one of this processor.
///
/// # Errors
/// What [`Device::weight`] refuses.
pub fn pack(set: InstructionSet, data: WeightData) -> Result<Option<Vec<u8>>> {
    Ok(match Weight::new(set, data)?.kept {
        Kept::Integers(m) => Some(m.bytes.as_slice().to_vec()),
        Kept::Floats(m) => Some(m.bytes.as_slice().to_vec()),
        Kept::Vector(_) | Kept::Table(_) => None,
    })
}

impl Weight {
    fn new(set: InstructionSet, data: WeightData) -> Result<Self> {
        // The reference device checks the lengths.
        let stored = Scalar.weight(data)?;
        let (role, rows, cols) = (stored.role, stored.rows, stored.cols);
        let tile = gemm::tile(set);
        let kept = match role {
            Role::Table => Kept::Table(stored),
            Role::Vector => Kept::Vector(stored.vector("weight", rows * cols)?),
            Role::Kernel { side } => Kept::Floats(kernel(&stored, side, tile)?),
            Role::Matrix => {
                let source = pack::Source {
                    format: stored.format,
                    rows,
                    cols,
                    row_bytes: stored.row_bytes,
                    bytes: stored.bytes,
                };
                match source.integers(Layout::of(set)) {
                    Some(integers) => Kept::Integers(integers),
                    None => Kept::Floats(source.floats(tile)?),
                }
            }
        };
        Ok(Weight {
            role,
            rows,
            cols,
            kept,
        })
    }

    /// A weight that [`pack`] made for this set.
    fn from_tiles(set: InstructionSet, data: WeightData) -> Result<Self> {
        let (role, rows, cols) = (data.role, data.rows, data.cols);
        let (shape, tile) = ((rows, cols), gemm::tile(set));
        let integers =
            || Integers::from_tiles(data.format, Layout::of(set), shape, data.bytes.clone());
        let kept = match role {
            Role::Table | Role::Vector => {
                return Err(KernelError::Role {
                    operation: "packed weight",
                    role,
                });
            }
            Role::Kernel { .. } => {
                Kept::Floats(Floats::from_tiles(Format::F32, tile, shape, data.bytes)?)
            }
            Role::Matrix => match integers().transpose()? {
                Some(integers) => Kept::Integers(integers),
                None => Kept::Floats(Floats::from_tiles(data.format, tile, shape, data.bytes)?),
            },
        };
        Ok(Weight {
            role,
            rows,
            cols,
            kept,
        })
    }

    fn vector(&self, operation: &'static str, len: usize) -> Result<&[f32]> {
        match &self.kept {
            Kept::Vector(values) => {
                same(operation, "the vector's length", values.len(), len)?;
                Ok(values)
            }
            _ => Err(self.mistaken(operation)),
        }
    }

    fn mistaken(&self, operation: &'static str) -> KernelError {
        KernelError::Role {
            operation,
            role: self.role,
        }
    }
}

/// The kernel of a convolution as a matrix of floats, its rows in the order (row, column, in).
fn kernel(stored: &Stored, side: usize, tile: usize) -> Result<Floats> {
    let taps = crate::error::product("weight", side, side)?;
    if taps == 0 || !stored.cols.is_multiple_of(taps) {
        return Err(KernelError::Shape {
            operation: "weight",
            what: "the values of a kernel",
            got: stored.cols,
            expected: taps,
        });
    }
    let channels = stored.cols / taps;
    let mut bytes = Vec::with_capacity(stored.rows * stored.cols * size_of::<f32>());
    let mut row = vec![0.0; stored.cols];
    for i in 0..stored.rows {
        stored.decode(i, &mut row)?;
        for tap in 0..taps {
            bytes.extend((0..channels).flat_map(|c| row[c * taps + tap].to_le_bytes()));
        }
    }
    let source = pack::Source {
        format: Format::F32,
        rows: stored.rows,
        cols: stored.cols,
        row_bytes: stored.cols * size_of::<f32>(),
        bytes: bytes.into(),
    };
    source.floats(tile)
}

impl Device for Cpu {
    type Buffer = Matrix;
    type Weight = Weight;
    type Cache = Cache;
    type Half = HalfMatrix;

    fn describe(&self) -> String {
        format!("{}, {} threads", self.set, rayon::current_num_threads())
    }

    fn weight(&self, data: WeightData) -> Result<Weight> {
        Weight::new(self.set, data)
    }

    fn packed_weight(&self, data: WeightData) -> Result<Weight> {
        Weight::from_tiles(self.set, data)
    }

    fn layout(&self) -> Option<&'static str> {
        Some(layout(self.set))
    }

    fn shares_bytes(&self, weight: &Weight) -> bool {
        match &weight.kept {
            Kept::Integers(m) => m.bytes.shared(),
            Kept::Floats(m) => m.bytes.shared(),
            Kept::Vector(_) => false,
            Kept::Table(_) => true,
        }
    }

    fn weight_shape(&self, weight: &Weight) -> (usize, usize) {
        (weight.rows, weight.cols)
    }

    fn upload(&self, values: &[f32], cols: usize) -> Result<Matrix> {
        Scalar.upload(values, cols)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Matrix> {
        Scalar.zeros(rows, cols)
    }

    fn download(&self, x: &Matrix) -> Result<Vec<f32>> {
        Scalar.download(x)
    }

    fn copy(&self, x: &Matrix) -> Result<Matrix> {
        Scalar.copy(x)
    }

    fn shape(&self, x: &Matrix) -> (usize, usize) {
        Scalar.shape(x)
    }

    fn reshape(&self, x: Matrix, cols: usize) -> Result<Matrix> {
        Scalar.reshape(x, cols)
    }

    fn halve(&self, x: &Matrix) -> Result<HalfMatrix> {
        let part = |i: usize| &x.values[i * VALUES..x.values.len().min((i + 1) * VALUES)];
        let largest = pool::map(x.values.len().div_ceil(VALUES), |i| {
            part(i).iter().fold(0.0f32, |m, v| m.max(v.abs()))
        });
        let largest = largest.into_iter().fold(0.0, f32::max);
        let factor = factor(largest);
        let mut values = vec![0; x.values.len()];
        pool::chunks(&mut values, VALUES, |i, out| {
            float::to_f16(self.set, part(i), 1.0 / factor, out);
        });
        Ok(HalfMatrix {
            rows: x.rows,
            cols: x.cols,
            factor,
            values,
        })
    }

    fn restore(&self, x: &HalfMatrix) -> Result<Matrix> {
        let mut out = Matrix::any(x.rows, x.cols)?;
        pool::chunks(&mut out.values, VALUES, |i, out| {
            let half = &x.values[i * VALUES..][..out.len()];
            float::restore(self.set, half, x.factor, out);
        });
        Ok(out)
    }

    fn matmul(&self, x: &Matrix, w: &Weight, bias: Option<&Weight>) -> Result<Matrix> {
        self.product(x, &mut None, w, bias)
    }

    fn matmuls(&self, x: &Matrix, weights: &[(&Weight, Option<&Weight>)]) -> Result<Vec<Matrix>> {
        let mut a = None;
        weights
            .iter()
            .map(|(w, bias)| self.product(x, &mut a, w, *bias))
            .collect()
    }

    fn gated(&self, x: &Matrix, gate: &Weight, up: &Weight) -> Result<Matrix> {
        self.gated_product(x, &mut None, gate, up)
    }

    fn embed(&self, table: &Weight, ids: &[u32]) -> Result<Matrix> {
        match &table.kept {
            Kept::Table(stored) => Scalar.embed(stored, ids),
            _ => Err(table.mistaken("embed")),
        }
    }

    fn add(&self, x: &mut Matrix, y: &Matrix) -> Result<()> {
        if y.rows == 1 && x.rows != 1 {
            return Scalar.add(x, y);
        }
        self.add_scaled(x, 1.0, y)
    }

    fn add_scaled(&self, x: &mut Matrix, a: f32, y: &Matrix) -> Result<()> {
        self.pairs("add_scaled", x, y, |x, y| {
            float::add_scaled(self.set, x, a, y)
        })
    }

    fn affine(&self, x: &mut Matrix, mul: f32, add: f32) -> Result<()> {
        Scalar.affine(x, mul, add)
    }

    fn silu(&self, x: &mut Matrix) -> Result<()> {
        self.each(x, |x| float::silu(self.set, x));
        Ok(())
    }

    fn gelu_tanh(&self, x: &mut Matrix) -> Result<()> {
        self.each(x, |x| float::gelu_tanh(self.set, x));
        Ok(())
    }

    fn swiglu(&self, gate: &mut Matrix, up: &Matrix) -> Result<()> {
        self.pairs("swiglu", gate, up, |gate, up| {
            float::swiglu(self.set, gate, up)
        })
    }

    fn mixture(
        &self,
        x: &Matrix,
        logits: &Matrix,
        experts: &[Expert<'_, Weight>],
        used: usize,
    ) -> Result<Matrix> {
        let rows_of = choose(x, logits, experts.len(), used)?;
        let integers = |w: &Weight| matches!(w.kept, Kept::Integers(_));
        let shared = experts.iter().any(|e| integers(e.gate) && integers(e.up));
        let all = shared.then(|| Rows::new(self.set, &x.values, x.cols));
        let mut out = Matrix::new(x.rows, x.cols)?;
        for (e, (expert, rows)) in experts.iter().zip(&rows_of).enumerate() {
            if rows.is_empty() {
                continue;
            }
            let inner = match (&all, &expert.gate.kept, &expert.up.kept) {
                (Some(all), Kept::Integers(gate), Kept::Integers(up)) => {
                    same("mixture", "the row length of x", x.cols, gate.cols)?;
                    same("mixture", "the rows of up", up.rows, gate.rows)?;
                    same("mixture", "the row length of up", up.cols, gate.cols)?;
                    let mut inner = Matrix::any(rows.len(), gate.rows)?;
                    let a = all.gather(self.set, rows);
                    matmul::integers(self.set, &a, gate, Then::Gate(up), &mut inner.values);
                    inner
                }
                _ => {
                    let mine = self.gather_rows(x, rows)?;
                    self.gated_product(&mine, &mut None, expert.gate, expert.up)?
                }
            };
            let down = expert.down;
            same(
                "mixture",
                "the width of an expert's output",
                down.rows,
                x.cols,
            )?;
            let factors: Vec<f32> = rows
                .iter()
                .map(|n| 1.0 + logits.row(*n as usize)[e])
                .collect();
            if let Kept::Integers(w) = &down.kept {
                same("mixture", "the row length of down", w.cols, inner.cols)?;
                let a = Rows::new(self.set, &inner.values, inner.cols).arrange(self.set);
                let then = Then::Add {
                    rows,
                    factors: &factors,
                };
                matmul::integers(self.set, &a, w, then, &mut out.values);
                continue;
            }
            let mine = self.product(&inner, &mut None, down, None)?;
            for (i, (n, factor)) in rows.iter().zip(&factors).enumerate() {
                let sum = &mut out.values[*n as usize * x.cols..][..x.cols];
                float::add_scaled(self.set, sum, *factor, mine.row(i));
            }
        }
        Ok(out)
    }

    fn scale_rows(&self, x: &mut Matrix, factors: &Matrix) -> Result<()> {
        Scalar.scale_rows(x, factors)
    }

    fn rms_norm(&self, x: &Matrix, w: &Weight, eps: f32) -> Result<Matrix> {
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
        let zeros = vec![0.0; len];
        self.runs(x, len, |x, out| {
            let mut sums = [0.0; 2];
            float::sums(self.set, x, 0.0, &mut sums);
            let inverse = 1.0 / ((sums[1] / len as f64) as f32 + eps).sqrt();
            out.copy_from_slice(&zeros);
            float::add_scaled(self.set, out, inverse, x);
            for (v, w) in out.iter_mut().zip(weight) {
                *v *= w;
            }
        })
    }

    fn layer_norm(&self, x: &Matrix, w: &Weight, b: &Weight, eps: f32) -> Result<Matrix> {
        let weight = w.vector("layer_norm weight", x.cols)?;
        let bias = b.vector("layer_norm bias", x.cols)?;
        self.runs(x, x.cols.max(1), |x, out| {
            let (mean, variance) = self.moments(x);
            let inverse = (1.0 / (variance + f64::from(eps)).sqrt()) as f32;
            let mean = mean as f32;
            for ((v, x), (w, b)) in out.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                *v = (x - mean) * inverse * w + b;
            }
        })
    }

    fn group_moments(&self, x: &Matrix, groups: usize) -> Result<GroupMoments> {
        if x.values.len() <= VALUES || x.cols == 0 {
            return Scalar.group_moments(x, groups);
        }
        // Parts of whole rows, joined in order, so that threads do not change the result.
        let rows = (VALUES / x.cols).max(1);
        let size = rows * x.cols;
        let parts: Vec<Result<GroupMoments>> = pool::map(x.values.len().div_ceil(size), |i| {
            let part = &x.values[i * size..x.values.len().min((i + 1) * size)];
            Scalar.group_moments(&Scalar.upload(part, x.cols)?, groups)
        });
        let mut all: Option<GroupMoments> = None;
        for part in parts {
            let part = part?;
            all = Some(all.map_or(part.clone(), |all| all.join(&part)));
        }
        all.map_or_else(|| Scalar.group_moments(x, groups), Ok)
    }

    fn group_norm(
        &self,
        x: &Matrix,
        moments: &GroupMoments,
        w: &Weight,
        b: &Weight,
        eps: f32,
        swish: bool,
    ) -> Result<Matrix> {
        let groups = scales_of_groups(x.cols, moments, eps)?;
        let weight = w.vector("group_norm weight", x.cols)?;
        let bias = b.vector("group_norm bias", x.cols)?;
        let width = x.cols / groups.len();
        let (mul, add): (Vec<f32>, Vec<f32>) = (0..x.cols)
            .map(|c| {
                let (mean, inverse) = groups[c / width];
                let mul = f64::from(weight[c]) * inverse;
                let add = f64::from(bias[c]) - mean * mul;
                (mul as f32, add as f32)
            })
            .unzip();
        self.runs(x, x.cols, |x, out| {
            float::scale_shift(self.set, x, &mul, &add, swish, out);
        })
    }

    fn rope(&self, x: &mut Matrix, positions: &[u32], head_dim: usize, theta: f32) -> Result<()> {
        Scalar.rope(x, positions, head_dim, theta)
    }

    fn cache(&self, width: usize) -> Cache {
        Cache::new(width, self.cache)
    }

    fn cache_append(&self, cache: &mut Cache, k: &Matrix, v: &Matrix) -> Result<()> {
        same("cache_append", "the width of k", k.cols, cache.width)?;
        same("cache_append", "the width of v", v.cols, cache.width)?;
        same("cache_append", "the rows of v", v.rows, k.rows)?;
        cache.append(self.set, k, v);
        Ok(())
    }

    fn cache_read(&self, cache: &Cache) -> Result<(Matrix, Matrix)> {
        let (keys, values) = cache.parts();
        Ok((
            self.upload(&keys.to_f32(self.set), cache.width)?,
            self.upload(&values.to_f32(self.set), cache.width)?,
        ))
    }

    fn attention(
        &self,
        q: &Matrix,
        past: &[&Cache],
        k: &Matrix,
        v: &Matrix,
        shape: AttentionShape,
    ) -> Result<Matrix> {
        attention::attention(self.set, q, past, k, v, shape)
    }

    fn gather_rows(&self, x: &Matrix, ids: &[u32]) -> Result<Matrix> {
        if ids.len() * x.cols <= VALUES || x.cols == 0 {
            return Scalar.gather_rows(x, ids);
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= x.rows) {
            return Err(KernelError::Index {
                operation: "gather_rows",
                index: *id as usize,
                len: x.rows,
            });
        }
        let mut out = Matrix::any(ids.len(), x.cols)?;
        let some = VALUES / x.cols + 1;
        pool::chunks(&mut out.values, some * x.cols, |i, out| {
            for (row, id) in out.chunks_mut(x.cols).zip(&ids[i * some..]) {
                row.copy_from_slice(x.row(*id as usize));
            }
        });
        Ok(out)
    }

    fn scatter_rows(&self, x: &mut Matrix, y: &Matrix, ids: &[u32]) -> Result<()> {
        Scalar.scatter_rows(x, y, ids)
    }

    fn conv2d(&self, x: &Matrix, w: &Weight, bias: &Weight, shape: ConvShape) -> Result<Matrix> {
        let bias = bias.vector("conv2d bias", w.rows)?;
        match (&w.kept, w.role) {
            (Kept::Floats(floats), Role::Kernel { side }) => {
                same("conv2d", "the side of the kernel", side, shape.kernel)?;
                conv::conv2d(self.set, x, floats, bias, shape)
            }
            _ => Err(w.mistaken("conv2d")),
        }
    }

    fn upsample_nearest(&self, x: &Matrix, height: usize, width: usize) -> Result<Matrix> {
        Scalar.upsample_nearest(x, height, width)
    }

    fn gaussian(&self, x: &Matrix, noise: Option<&Matrix>) -> Result<Matrix> {
        Scalar.gaussian(x, noise)
    }

    fn extrapolate(&self, x: &mut Matrix, base: &Matrix, scale: f32) -> Result<()> {
        Scalar.extrapolate(x, base, scale)
    }

    fn renorm(&self, x: &mut Matrix, reference: &Matrix, min: f32, span: RenormSpan) -> Result<()> {
        Scalar.renorm(x, reference, min, span)
    }
}
