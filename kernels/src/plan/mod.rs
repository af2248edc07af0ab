//! A device that computes nothing: it counts what [`Cpu`](crate::Cpu) or [`Cuda`](crate::Cuda) would take for the same
//! operations.
//!
//! A model that runs on it says what a request costs, in the very order in which it would be computed, without
//! a second description of the model. Weights are not read; matrices have a shape and no values. What
//! depends on values is counted as if it were spread evenly (which expert a token takes).

mod ledger;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::CacheFormat;
use crate::device::{
    AttentionShape, ConvShape, Device, Expert, GroupMoments, Mask, RenormSpan, Role, WeightData,
};
use crate::error::{KernelError, Result, product, same};
use crate::footprint::{Residency, Work};
pub use ledger::Phase;
use ledger::{Held, Ledger};
pub use target::Target;

/// Bytes of a page: what is read of a mapped table comes in pages.
const PAGE: usize = 4096;

/// Counts.
#[derive(Debug, Clone)]
pub struct Plan {
    target: Target,
    cache: CacheFormat,
    ledger: Arc<Ledger>,
    /// Whether there are weights before which activations are small integers.
    integers: Arc<AtomicBool>,
}

/// A matrix without values.
#[derive(Debug)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    held: Held,
    /// The same as small integers, where a norm makes them.
    quantized: Vec<Held>,
}

impl Matrix {
    fn new(rows: usize, cols: usize, held: Held) -> Self {
        Matrix {
            rows,
            cols,
            held,
            quantized: Vec::new(),
        }
    }
}

/// A weight that is not read.
#[derive(Debug)]
pub struct Weight {
    rows: usize,
    cols: usize,
    role: Role,
    /// Bytes that a product reads.
    bytes: usize,
    integers: bool,
    number: usize,
}

/// Keys and values without values.
#[derive(Debug)]
pub struct Cache {
    width: usize,
    tokens: usize,
    held: Vec<Held>,
}

impl Plan {
    /// Counts what the kernels of an instruction set, or of a graphics processor, would take, with keys and values
    /// kept so.
    #[must_use]
    pub fn new(target: impl Into<Target>, cache: CacheFormat) -> Self {
        Plan {
            target: target.into(),
            cache,
            ledger: Arc::new(Ledger::default()),
            integers: Arc::default(),
        }
    }

    /// From here on weights are used for this.
    pub fn phase(&self, phase: Phase) {
        self.ledger.phase(phase);
    }

    /// What was counted since the last call; memory is what was held at once.
    pub fn take(&self) -> Work {
        self.ledger.take()
    }

    /// Bytes of weights by the phases in which they were used: of their own, and in the mapped file.
    pub fn weights(&self) -> (Residency, Residency) {
        self.ledger.weights()
    }

    fn matrix(&self, rows: usize, cols: usize) -> Result<Matrix> {
        let held = Held::new(&self.ledger, product("plan", rows, cols)?);
        Ok(Matrix::new(rows, cols, held))
    }

    /// Rows of `x` as small integers.
    fn quantized(&self, x: &Matrix, any: bool) -> Vec<Held> {
        if !any || !x.quantized.is_empty() {
            return Vec::new();
        }
        let (passing, kept) = self.target.quantized(x.rows, x.cols / 32);
        let hold = |values: Vec<usize>| -> Vec<Held> {
            let hold = |values| Held::new(&self.ledger, values);
            values.into_iter().map(hold).collect()
        };
        let _passing = hold(passing);
        hold(kept)
    }

    fn multiply(&self, rows: usize, w: &Weight) -> Result<()> {
        let operations = product("plan", rows, product("plan", w.rows, w.cols)?)? as u64;
        self.ledger.compute(operations, w.integers);
        self.ledger.read(w.number, w.bytes);
        Ok(())
    }

    /// All experts at once: so many slots, `rows` of them an expert's.
    fn grouped(
        &self,
        x: &Matrix,
        experts: &[Expert<'_, Weight>],
        slots: usize,
        rows: usize,
    ) -> Result<()> {
        let widest = experts.iter().map(|e| e.gate.rows).max().unwrap_or(0);
        let mine = self.matrix(slots, x.cols)?;
        let _both = self.matrix(2 * slots, widest)?;
        drop(self.quantized(&mine, experts.iter().any(|e| e.gate.integers)));
        drop(mine);
        for expert in experts {
            for w in [expert.gate, expert.up, expert.down] {
                self.multiply(rows, w)?;
            }
        }
        let _y = self.matrix(slots, x.cols)?;
        let runs = slots * widest / 32;
        let any = experts.iter().any(|e| e.down.integers);
        let (_, kept) = self.target.quantized(1, if any { runs } else { 0 });
        for values in kept {
            drop(Held::new(&self.ledger, values));
        }
        Ok(())
    }

    fn product(&self, x: &Matrix, w: &Weight, bias: Option<&Weight>) -> Result<Matrix> {
        same("matmul", "the row length of x", x.cols, w.cols)?;
        if w.role != Role::Matrix {
            return Err(w.mistaken("matmul"));
        }
        if let Some(bias) = bias {
            same(
                "matmul bias",
                "the vector's length",
                bias.rows * bias.cols,
                w.rows,
            )?;
            self.ledger.read(bias.number, bias.bytes);
        }
        self.multiply(x.rows, w)?;
        self.matrix(x.rows, w.rows)
    }
}

impl Weight {
    fn mistaken(&self, operation: &'static str) -> KernelError {
        KernelError::Role {
            operation,
            role: self.role,
        }
    }
}

impl Device for Plan {
    type Buffer = Matrix;
    type Weight = Weight;
    type Cache = Cache;
    type Half = Matrix;

    fn describe(&self) -> String {
        format!("a plan for {}", self.target)
    }

    fn weight(&self, data: WeightData) -> Result<Weight> {
        let stored = data.bytes.len();
        let expected = product("weight", data.format.row_bytes(data.cols)?, data.rows)?;
        if stored != expected {
            return Err(KernelError::WeightBytes {
                format: data.format,
                rows: data.rows,
                cols: data.cols,
                got: stored,
                expected,
            });
        }
        let keeping = self.target.keeping(&data);
        if keeping.integers {
            self.integers.store(true, Ordering::Relaxed);
        }
        // A table that is not copied stays where it is stored.
        let table = if data.role == Role::Table {
            stored - keeping.bytes
        } else {
            0
        };
        Ok(Weight {
            rows: data.rows,
            cols: data.cols,
            role: data.role,
            bytes: keeping.bytes + table,
            integers: keeping.integers,
            number: self.ledger.weight(keeping.bytes, 0, table),
        })
    }

    fn packed_weight(&self, data: WeightData) -> Result<Weight> {
        let keeping = self.target.keeping(&data);
        same(
            "packed weight",
            "the number of bytes",
            data.bytes.len(),
            keeping.bytes,
        )?;
        Ok(Weight {
            rows: data.rows,
            cols: data.cols,
            role: data.role,
            bytes: keeping.bytes,
            integers: keeping.integers,
            number: self.ledger.weight(0, keeping.bytes, 0),
        })
    }

    fn layout(&self) -> Option<&'static str> {
        self.target.layout()
    }

    fn shares_bytes(&self, _: &Weight) -> bool {
        // There is nothing to be given back: nothing was read.
        true
    }

    fn weight_shape(&self, weight: &Weight) -> (usize, usize) {
        (weight.rows, weight.cols)
    }

    fn upload(&self, values: &[f32], cols: usize) -> Result<Matrix> {
        let rows = values.len() / cols.max(1);
        same("upload", "the number of values", values.len(), rows * cols)?;
        self.matrix(rows, cols)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Matrix> {
        self.matrix(rows, cols)
    }

    fn download(&self, x: &Matrix) -> Result<Vec<f32>> {
        Ok(vec![0.0; x.rows * x.cols])
    }

    fn copy(&self, x: &Matrix) -> Result<Matrix> {
        self.matrix(x.rows, x.cols)
    }

    fn shape(&self, x: &Matrix) -> (usize, usize) {
        (x.rows, x.cols)
    }

    fn reshape(&self, x: Matrix, cols: usize) -> Result<Matrix> {
        let values = x.rows * x.cols;
        let rows = values / cols.max(1);
        same("reshape", "the number of values", values, rows * cols)?;
        let Matrix {
            held, quantized, ..
        } = x;
        Ok(Matrix {
            rows,
            cols,
            held,
            quantized,
        })
    }

    fn halve(&self, x: &Matrix) -> Result<Matrix> {
        // Given back at once when it is dropped: it is not among the pieces that are kept.
        let held = Held::plain(&self.ledger, product("plan", x.rows, x.cols)?.div_ceil(2));
        let (rows, cols) = (x.rows, x.cols);
        Ok(Matrix::new(rows, cols, held))
    }

    fn restore(&self, x: &Matrix) -> Result<Matrix> {
        self.matrix(x.rows, x.cols)
    }

    fn matmul(&self, x: &Matrix, w: &Weight, bias: Option<&Weight>) -> Result<Matrix> {
        let _quantized = self.quantized(x, w.integers);
        self.product(x, w, bias)
    }

    fn matmuls(&self, x: &Matrix, weights: &[(&Weight, Option<&Weight>)]) -> Result<Vec<Matrix>> {
        let _quantized = self.quantized(x, weights.iter().any(|(w, _)| w.integers));
        let products = weights.iter().map(|(w, bias)| self.product(x, w, *bias));
        products.collect()
    }

    fn gated(&self, x: &Matrix, gate: &Weight, up: &Weight) -> Result<Matrix> {
        same("gated", "the rows of up", up.rows, gate.rows)?;
        let _quantized = self.quantized(x, gate.integers || up.integers);
        if gate.integers && up.integers {
            // Both at once, into one result.
            same("gated", "the row length of up", up.cols, x.cols)?;
            self.multiply(x.rows, up)?;
            return self.product(x, gate, None);
        }
        let out = self.product(x, gate, None)?;
        let _up = self.product(x, up, None)?;
        Ok(out)
    }

    fn embed(&self, table: &Weight, ids: &[u32]) -> Result<Matrix> {
        let row = table.bytes / table.rows.max(1);
        self.ledger.read(table.number, ids.len() * row.max(PAGE));
        self.matrix(ids.len(), table.cols)
    }

    fn add(&self, _: &mut Matrix, _: &Matrix) -> Result<()> {
        Ok(())
    }

    fn add_scaled(&self, _: &mut Matrix, _: f32, _: &Matrix) -> Result<()> {
        Ok(())
    }

    fn affine(&self, _: &mut Matrix, _: f32, _: f32) -> Result<()> {
        Ok(())
    }

    fn silu(&self, _: &mut Matrix) -> Result<()> {
        Ok(())
    }

    fn gelu_tanh(&self, _: &mut Matrix) -> Result<()> {
        Ok(())
    }

    fn swiglu(&self, _: &mut Matrix, _: &Matrix) -> Result<()> {
        Ok(())
    }

    fn mixture(
        &self,
        x: &Matrix,
        logits: &Matrix,
        experts: &[Expert<'_, Weight>],
        used: usize,
    ) -> Result<Matrix> {
        same(
            "mixture",
            "the number of logits",
            logits.cols,
            experts.len(),
        )?;
        let out = self.matrix(x.rows, x.cols)?;
        // A token alone takes some experts, many take all of them.
        let taken = (x.rows * used).min(experts.len());
        let rows = (x.rows * used).div_ceil(taken.max(1));
        if self.target.groups_experts() {
            self.grouped(x, &experts[..taken], x.rows * used, rows)?;
            return Ok(out);
        }
        let _all = self.quantized(x, experts.iter().any(|e| e.gate.integers));
        for expert in experts.iter().take(taken) {
            let mine = self.matrix(rows, x.cols)?;
            let inner = self.gated(&mine, expert.gate, expert.up)?;
            drop(mine);
            self.matmul(&inner, expert.down, None)?;
        }
        Ok(out)
    }

    fn scale_rows(&self, _: &mut Matrix, _: &Matrix) -> Result<()> {
        Ok(())
    }

    fn rms_norm(&self, x: &Matrix, w: &Weight, _: f32) -> Result<Matrix> {
        self.ledger.read(w.number, w.bytes);
        let mut out = self.matrix(x.rows, x.cols)?;
        let whole = w.rows * w.cols == x.cols && x.cols.is_multiple_of(32);
        if self.target == Target::Cuda && whole {
            out.quantized = self.quantized(x, self.integers.load(Ordering::Relaxed));
        }
        Ok(out)
    }

    fn layer_norm(&self, x: &Matrix, w: &Weight, b: &Weight, _: f32) -> Result<Matrix> {
        self.ledger.read(w.number, w.bytes);
        self.ledger.read(b.number, b.bytes);
        self.matrix(x.rows, x.cols)
    }

    fn group_moments(&self, x: &Matrix, groups: usize) -> Result<GroupMoments> {
        let zeros = || vec![0.0; groups];
        Ok(GroupMoments {
            count: (x.rows * x.cols / groups.max(1)) as f64,
            mean: zeros(),
            squares: zeros(),
        })
    }

    fn group_norm(
        &self,
        x: &Matrix,
        _: &GroupMoments,
        w: &Weight,
        b: &Weight,
        eps: f32,
        _: bool,
    ) -> Result<Matrix> {
        self.layer_norm(x, w, b, eps)
    }

    fn rope(&self, _: &mut Matrix, _: &[u32], _: usize, _: f32) -> Result<()> {
        Ok(())
    }

    fn cache(&self, width: usize) -> Cache {
        Cache {
            width,
            tokens: 0,
            held: Vec::new(),
        }
    }

    fn cache_append(&self, cache: &mut Cache, k: &Matrix, v: &Matrix) -> Result<()> {
        same("cache_append", "the width of k", k.cols, cache.width)?;
        same("cache_append", "the rows of v", v.rows, k.rows)?;
        let values = 2 * k.rows * k.cols;
        let floats = target::kept(values, self.cache);
        cache.held.push(Held::plain(&self.ledger, floats));
        cache.tokens += k.rows;
        Ok(())
    }

    fn cache_read(&self, cache: &Cache) -> Result<(Matrix, Matrix)> {
        let rows = cache.tokens;
        Ok((
            self.matrix(rows, cache.width)?,
            self.matrix(rows, cache.width)?,
        ))
    }

    fn attention(
        &self,
        q: &Matrix,
        past: &[&Cache],
        k: &Matrix,
        _: &Matrix,
        shape: AttentionShape,
    ) -> Result<Matrix> {
        let before: usize = past.iter().map(|c| c.tokens).sum();
        let visible = match shape.mask {
            Mask::Full => q.rows * (before + k.rows),
            Mask::Causal => q.rows * before + q.rows * (q.rows + 1) / 2,
        };
        let operations = 2 * visible as u64 * (shape.heads * shape.head_dim) as u64;
        self.ledger.compute(operations, false);
        let width = shape.kv_heads * shape.head_dim;
        self.ledger
            .stream(4 * target::kept(2 * before * width, self.cache));
        let keys = self.target.laid_out(q.rows, before + k.rows);
        let _laid = Held::plain(&self.ledger, 2 * keys * width);
        self.matrix(q.rows, q.cols)
    }

    fn gather_rows(&self, x: &Matrix, ids: &[u32]) -> Result<Matrix> {
        self.matrix(ids.len(), x.cols)
    }

    fn scatter_rows(&self, _: &mut Matrix, _: &Matrix, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn conv2d(&self, x: &Matrix, w: &Weight, bias: &Weight, shape: ConvShape) -> Result<Matrix> {
        let (height, width) = shape.output();
        same(
            "conv2d",
            "the number of pixels",
            x.rows,
            product("conv2d", shape.height, shape.width)?,
        )?;
        let pixels = product("conv2d", height, width)?;
        self.ledger.read(bias.number, bias.bytes);
        self.multiply(pixels, w)?;
        self.matrix(pixels, w.rows)
    }

    fn upsample_nearest(&self, x: &Matrix, height: usize, width: usize) -> Result<Matrix> {
        same(
            "upsample",
            "the number of pixels",
            x.rows,
            product("upsample", height, width)?,
        )?;
        self.matrix(product("upsample", 4, x.rows)?, x.cols)
    }

    fn gaussian(&self, x: &Matrix, _: Option<&Matrix>) -> Result<Matrix> {
        self.matrix(x.rows, x.cols / 2)
    }

    fn extrapolate(&self, _: &mut Matrix, _: &Matrix, _: f32) -> Result<()> {
        Ok(())
    }

    fn renorm(&self, _: &mut Matrix, _: &Matrix, _: f32, _: RenormSpan) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
