//! The device: every operation a launch or a few.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::attention::CudaCache;
use super::gpu::{Argument, Gpu};
use super::memory::Memory;
use super::planes::in_planes;
use super::uploads::Uploads;
use crate::device::{
    AttentionShape, ConvShape, Device, Expert, GroupMoments, HeadNorms, RenormSpan, Role,
    WeightData,
};
use crate::error::{KernelError, Result, product, same};
use crate::format::Format;
use crate::scalar::{Scalar, Stored, channels_of_moments, in_range, rows_of, scales_of_groups};

/// Threads of a block where any number does.
pub(super) const THREADS: u32 = 256;
/// The most blocks of a grid's first side.
const MOST_BLOCKS: u64 = (1 << 31) - 1;

/// A graphics processor.
pub struct Cuda {
    pub(super) gpu: Arc<dyn Gpu>,
    /// Whether keys and values are kept in halves.
    pub(super) half_cache: bool,
    /// Whether activations stay floats before weights of 16 bits.
    pub(super) exact: bool,
    /// Whether there are weights in blocks, before which activations are quantized.
    integers: AtomicBool,
    uploads: Uploads,
}

/// A matrix of f32 on the processor.
pub struct CudaMatrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) memory: Memory,
    /// Its runs as products with blocks read them, if a norm has made them and nothing has changed since.
    pub(super) quantized: Option<Memory>,
}

/// A weight on the processor.
pub struct CudaWeight {
    pub(super) role: Role,
    /// How it lies there: vectors and kernels are decoded, matrices of some formats are in planes.
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) memory: Memory,
}

/// A matrix in half precision, without the factor that was taken out of it.
pub struct CudaHalf {
    rows: usize,
    cols: usize,
    factor: Memory,
    memory: Memory,
}

impl Cuda {
    /// The device on a processor. Keys and values are kept in f32, or in f16 where `half_cache` is set.
    pub fn new(gpu: Arc<dyn Gpu>, half_cache: bool) -> Self {
        Cuda {
            gpu,
            half_cache,
            exact: false,
            integers: AtomicBool::new(false),
            uploads: Uploads::default(),
        }
    }

    /// The same, with activations that stay floats before weights of 16 bits. (Otherwise those of many tokens are rounded
    /// to 16 bits, for tensor cores. Before weights of 32 bits they stay in any case.)
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    /// What it runs on, for another device.
    #[must_use]
    pub fn processor(&self) -> Arc<dyn Gpu> {
        Arc::clone(&self.gpu)
    }

    /// Bytes that are only read there.
    pub(super) fn uploaded(&self, bytes: Vec<u8>) -> Result<Arc<Memory>> {
        self.uploads.get(&self.gpu, bytes)
    }

    pub(super) fn numbers(&self, values: &[u32]) -> Result<Arc<Memory>> {
        self.uploaded(values.iter().flat_map(|v| v.to_ne_bytes()).collect())
    }

    pub(super) fn floats(&self, values: &[f32]) -> Result<Arc<Memory>> {
        self.uploaded(values.iter().flat_map(|v| v.to_ne_bytes()).collect())
    }

    /// A matrix of which nothing is known.
    pub(super) fn any(&self, rows: usize, cols: usize) -> Result<CudaMatrix> {
        let bytes = product(
            "allocate",
            product("allocate", rows, cols)?,
            size_of::<f32>(),
        )?;
        let memory = Memory::any(&self.gpu, bytes)?;
        Ok(CudaMatrix::new(rows, cols, memory))
    }

    /// Starts a kernel with a thread for each of `count`.
    pub(super) fn each(
        &self,
        kernel: &str,
        count: usize,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let blocks = (count as u64).div_ceil(u64::from(THREADS));
        if blocks > MOST_BLOCKS {
            return Err(KernelError::Gpu(format!(
                "{kernel}: {count} values are too many"
            )));
        }
        self.start(kernel, [blocks as u32, 1, 1], THREADS, arguments)
    }

    /// Starts a kernel; an empty grid is nothing to do.
    pub(super) fn start(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: every caller in this module gives the arguments that the kernel of this name declares
        // (kernels/cuda), with memory of the shapes that it has checked. Types are not checked by the compiler:
        // the suite runs every kernel.
        unsafe { self.gpu.launch(kernel, grid, threads, arguments) }
    }

    /// A vector's values.
    pub(super) fn vector<'a>(
        &self,
        operation: &'static str,
        weight: &'a CudaWeight,
        len: usize,
    ) -> Result<&'a Memory> {
        same(
            operation,
            "the vector's length",
            weight.rows * weight.cols,
            len,
        )?;
        if weight.role != Role::Vector {
            return Err(KernelError::Role {
                operation,
                role: weight.role,
            });
        }
        Ok(&weight.memory)
    }

    fn with(
        &self,
        kernel: &'static str,
        x: &mut CudaMatrix,
        y: &CudaMatrix,
        more: &[Argument<'_>],
    ) -> Result<()> {
        same(kernel, "the number of rows", y.rows, x.rows)?;
        same(kernel, "the row length", y.cols, x.cols)?;
        let mut arguments = vec![x.changed(), y.address()];
        arguments.extend_from_slice(more);
        arguments.push(x.count());
        self.each(kernel, x.len(), &arguments)
    }
}

impl CudaMatrix {
    fn new(rows: usize, cols: usize, memory: Memory) -> Self {
        CudaMatrix {
            rows,
            cols,
            memory,
            quantized: None,
        }
    }

    /// The address for a kernel that changes the values.
    pub(super) fn changed(&mut self) -> Argument<'static> {
        self.quantized = None;
        self.memory.address()
    }

    pub(super) fn len(&self) -> usize {
        self.rows * self.cols
    }

    pub(super) fn address(&self) -> Argument<'static> {
        self.memory.address()
    }

    pub(super) fn count(&self) -> Argument<'static> {
        Argument::U64(self.len() as u64)
    }

    pub(super) fn row_length(&self) -> Argument<'static> {
        Argument::U64(self.cols as u64)
    }
}

impl Device for Cuda {
    type Buffer = CudaMatrix;
    type Weight = CudaWeight;
    type Cache = CudaCache;
    type Half = CudaHalf;

    fn describe(&self) -> String {
        self.gpu.describe()
    }

    fn weight(&self, data: WeightData) -> Result<CudaWeight> {
        let stored: Stored = Scalar.weight(data)?;
        let (rows, cols) = (stored.rows, stored.cols);
        let decoded = |stored: &Stored| {
            let mut values = vec![0.0; rows * cols];
            for (i, row) in values.chunks_mut(cols.max(1)).enumerate() {
                stored.decode(i, row)?;
            }
            Ok::<_, KernelError>(values)
        };
        let (format, memory) = match stored.role {
            Role::Matrix => {
                if stored.format.block_values() > 1 {
                    self.integers.store(true, Ordering::Relaxed);
                }
                let memory = match in_planes(stored.format, &stored.bytes) {
                    Some(planes) => Memory::of(&self.gpu, &planes)?,
                    None => Memory::shared(&self.gpu, &stored.bytes)?,
                };
                (stored.format, memory)
            }
            Role::Table => (stored.format, Memory::shared(&self.gpu, &stored.bytes)?),
            Role::Vector => (Format::F32, Memory::floats(&self.gpu, &decoded(&stored)?)?),
            // Windows lie in memory in the order (row, column, in).
            Role::Kernel { side } => {
                let values = channels_last(&decoded(&stored)?, cols, side)?;
                (Format::F32, Memory::floats(&self.gpu, &values)?)
            }
        };
        Ok(CudaWeight {
            role: stored.role,
            format,
            rows,
            cols,
            memory,
        })
    }

    fn shares_bytes(&self, weight: &CudaWeight) -> bool {
        weight.memory.is_shared()
    }

    fn weight_shape(&self, weight: &CudaWeight) -> (usize, usize) {
        (weight.rows, weight.cols)
    }

    fn upload(&self, values: &[f32], cols: usize) -> Result<CudaMatrix> {
        let rows = rows_of("upload", values.len(), cols)?;
        let memory = Memory::floats(&self.gpu, values)?;
        Ok(CudaMatrix::new(rows, cols, memory))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<CudaMatrix> {
        let bytes = product(
            "allocate",
            product("allocate", rows, cols)?,
            size_of::<f32>(),
        )?;
        let memory = Memory::zeros(&self.gpu, bytes)?;
        Ok(CudaMatrix::new(rows, cols, memory))
    }

    fn download(&self, x: &CudaMatrix) -> Result<Vec<f32>> {
        x.memory.read(f32::from_le_bytes)
    }

    fn copy(&self, x: &CudaMatrix) -> Result<CudaMatrix> {
        let memory = x.memory.copy()?;
        Ok(CudaMatrix::new(x.rows, x.cols, memory))
    }

    fn shape(&self, x: &CudaMatrix) -> (usize, usize) {
        (x.rows, x.cols)
    }

    fn reshape(&self, x: CudaMatrix, cols: usize) -> Result<CudaMatrix> {
        let rows = rows_of("reshape", x.len(), cols)?;
        Ok(CudaMatrix { rows, cols, ..x })
    }

    fn halve(&self, x: &CudaMatrix) -> Result<CudaHalf> {
        let factor = Memory::any(&self.gpu, size_of::<f32>())?;
        let arguments = [factor.address(), x.address(), x.count()];
        self.start("half_factor", [1, 1, 1], THREADS, &arguments)?;
        let memory = Memory::any(&self.gpu, x.len() * size_of::<u16>())?;
        let arguments = [memory.address(), x.address(), factor.address(), x.count()];
        self.each("halve", x.len(), &arguments)?;
        Ok(CudaHalf {
            rows: x.rows,
            cols: x.cols,
            factor,
            memory,
        })
    }

    fn restore(&self, x: &CudaHalf) -> Result<CudaMatrix> {
        let out = self.any(x.rows, x.cols)?;
        let arguments = [
            out.address(),
            x.memory.address(),
            x.factor.address(),
            out.count(),
        ];
        self.each("restore", out.len(), &arguments)?;
        Ok(out)
    }

    fn matmul(
        &self,
        x: &CudaMatrix,
        w: &CudaWeight,
        bias: Option<&CudaWeight>,
    ) -> Result<CudaMatrix> {
        let mut products = self.products(x, &[(w, bias)])?;
        products
            .pop()
            .ok_or_else(|| KernelError::Gpu("no product".to_owned()))
    }

    fn matmuls(
        &self,
        x: &CudaMatrix,
        weights: &[(&CudaWeight, Option<&CudaWeight>)],
    ) -> Result<Vec<CudaMatrix>> {
        self.products(x, weights)
    }

    fn gated(&self, x: &CudaMatrix, gate: &CudaWeight, up: &CudaWeight) -> Result<CudaMatrix> {
        self.gated_products(x, gate, up)
    }

    fn embed(&self, table: &CudaWeight, ids: &[u32]) -> Result<CudaMatrix> {
        for id in ids {
            in_range("embed", *id as usize, table.rows)?;
        }
        if table.role != Role::Table {
            return Err(KernelError::Role {
                operation: "embed",
                role: table.role,
            });
        }
        let out = self.any(ids.len(), table.cols)?;
        let numbers = self.numbers(ids)?;
        let each = if table.format.block_values() == 1 {
            1
        } else {
            32
        };
        let count = out.len() / each;
        let arguments = [
            out.address(),
            table.memory.address(),
            numbers.address(),
            Argument::U64(count as u64),
            out.row_length(),
        ];
        self.each(&format!("embed_{}", table.format), count, &arguments)?;
        Ok(out)
    }

    fn add(&self, x: &mut CudaMatrix, y: &CudaMatrix) -> Result<()> {
        if y.rows != 1 {
            same("add", "the number of rows", y.rows, x.rows)?;
        }
        same("add", "the row length", y.cols, x.cols)?;
        self.each(
            "add",
            x.len(),
            &[x.changed(), y.address(), x.count(), y.count()],
        )
    }

    fn add_scaled(&self, x: &mut CudaMatrix, a: f32, y: &CudaMatrix) -> Result<()> {
        self.with("add_scaled", x, y, &[Argument::F32(a)])
    }

    fn affine(&self, x: &mut CudaMatrix, mul: f32, add: f32) -> Result<()> {
        let arguments = [
            x.changed(),
            Argument::F32(mul),
            Argument::F32(add),
            x.count(),
        ];
        self.each("affine", x.len(), &arguments)
    }

    fn silu(&self, x: &mut CudaMatrix) -> Result<()> {
        self.each("silu", x.len(), &[x.changed(), x.count()])
    }

    fn gelu_tanh(&self, x: &mut CudaMatrix) -> Result<()> {
        self.each("gelu_tanh", x.len(), &[x.changed(), x.count()])
    }

    fn swiglu(&self, gate: &mut CudaMatrix, up: &CudaMatrix) -> Result<()> {
        self.with("swiglu", gate, up, &[])
    }

    fn mixture(
        &self,
        x: &CudaMatrix,
        logits: &CudaMatrix,
        experts: &[Expert<'_, CudaWeight>],
        used: usize,
    ) -> Result<CudaMatrix> {
        self.experts(x, logits, experts, used)
    }

    fn scale_rows(&self, x: &mut CudaMatrix, factors: &CudaMatrix) -> Result<()> {
        same("scale_rows", "the number of factors", factors.rows, x.rows)?;
        same("scale_rows", "the width of the factors", factors.cols, 1)?;
        let arguments = [x.changed(), factors.address(), x.count(), x.row_length()];
        self.each("scale_rows", x.len(), &arguments)
    }

    fn rms_norm(&self, x: &CudaMatrix, w: &CudaWeight, eps: f32) -> Result<CudaMatrix> {
        let len = w.rows * w.cols;
        if len == 0 || !x.cols.is_multiple_of(len) {
            return Err(KernelError::Shape {
                operation: "rms_norm",
                what: "the row length",
                got: x.cols,
                expected: len,
            });
        }
        let weight = self.vector("rms_norm", w, len)?;
        let mut out = self.any(x.rows, x.cols)?;
        // A norm of heads goes to no product.
        let whole = len == x.cols && len.is_multiple_of(32);
        if whole && self.integers.load(Ordering::Relaxed) {
            out.quantized = Some(self.runs_of(&out)?);
        }
        let quantized = out.quantized.as_ref();
        let arguments = [
            out.address(),
            x.address(),
            weight.address(),
            quantized.map_or(Argument::Address(0), Memory::address),
            Argument::U32(len as u32),
            Argument::F32(eps),
        ];
        self.start("rms_norm", blocks(x.len() / len)?, THREADS, &arguments)?;
        Ok(out)
    }

    fn layer_norm(
        &self,
        x: &CudaMatrix,
        w: &CudaWeight,
        b: &CudaWeight,
        eps: f32,
    ) -> Result<CudaMatrix> {
        let weight = self.vector("layer_norm weight", w, x.cols)?;
        let bias = self.vector("layer_norm bias", b, x.cols)?;
        let out = self.any(x.rows, x.cols)?;
        let arguments = [
            out.address(),
            x.address(),
            weight.address(),
            bias.address(),
            Argument::U32(x.cols as u32),
            Argument::F32(eps),
        ];
        self.start("layer_norm", blocks(x.rows)?, THREADS, &arguments)?;
        Ok(out)
    }

    fn group_moments(&self, x: &CudaMatrix, groups: usize) -> Result<GroupMoments> {
        if groups == 0 || x.cols == 0 || !x.cols.is_multiple_of(groups) {
            return Err(KernelError::Shape {
                operation: "group_moments",
                what: "the number of groups",
                got: groups,
                expected: x.cols,
            });
        }
        let width = x.cols / groups;
        let out = Memory::zeros(&self.gpu, groups * 2 * size_of::<f64>())?;
        let arguments = [
            out.address(),
            x.address(),
            Argument::U64(x.rows as u64),
            x.row_length(),
            Argument::U64(width as u64),
        ];
        self.start("group_moments", blocks(groups)?, THREADS, &arguments)?;
        let pairs = out.read(f64::from_le_bytes)?;
        let (pairs, _) = pairs.as_chunks::<2>();
        Ok(GroupMoments {
            count: (x.rows * width) as f64,
            mean: pairs.iter().map(|p| p[0]).collect(),
            squares: pairs.iter().map(|p| p[1]).collect(),
        })
    }

    fn group_norm(
        &self,
        x: &CudaMatrix,
        moments: &GroupMoments,
        w: &CudaWeight,
        b: &CudaWeight,
        eps: f32,
        swish: bool,
    ) -> Result<CudaMatrix> {
        let groups = scales_of_groups(x.cols, moments, eps)?;
        let weight = self.vector("group_norm weight", w, x.cols)?;
        let bias = self.vector("group_norm bias", b, x.cols)?;
        let pairs = groups
            .iter()
            .flat_map(|(mean, inverse)| [*mean as f32, *inverse as f32]);
        let pairs = Memory::floats(&self.gpu, &pairs.collect::<Vec<_>>())?;
        let out = self.any(x.rows, x.cols)?;
        let arguments = [
            out.address(),
            x.address(),
            pairs.address(),
            weight.address(),
            bias.address(),
            x.count(),
            x.row_length(),
            Argument::U64((x.cols / groups.len()) as u64),
            Argument::U32(u32::from(swish)),
        ];
        self.each("group_norm", x.len(), &arguments)?;
        Ok(out)
    }

    fn rope(
        &self,
        x: &mut CudaMatrix,
        positions: &[u32],
        head_dim: usize,
        theta: f32,
    ) -> Result<()> {
        self.turn(x, positions, head_dim, theta)
    }

    fn turn_heads(
        &self,
        q: &CudaMatrix,
        k: &CudaMatrix,
        norms: HeadNorms<'_, CudaWeight>,
        positions: &[u32],
    ) -> Result<(CudaMatrix, CudaMatrix)> {
        self.norm_and_turn(q, k, norms, positions)
    }

    fn cache(&self, width: usize) -> CudaCache {
        CudaCache::new(width, self.half_cache)
    }

    fn cache_append(&self, cache: &mut CudaCache, k: &CudaMatrix, v: &CudaMatrix) -> Result<()> {
        self.append(cache, k, v)
    }

    fn cache_read(&self, cache: &CudaCache) -> Result<(CudaMatrix, CudaMatrix)> {
        self.read_cache(cache)
    }

    fn attention(
        &self,
        q: &CudaMatrix,
        past: &[&CudaCache],
        k: &CudaMatrix,
        v: &CudaMatrix,
        shape: AttentionShape,
    ) -> Result<CudaMatrix> {
        self.attend(q, past, k, v, shape)
    }

    fn gather_rows(&self, x: &CudaMatrix, ids: &[u32]) -> Result<CudaMatrix> {
        for id in ids {
            in_range("gather_rows", *id as usize, x.rows)?;
        }
        let out = self.any(ids.len(), x.cols)?;
        let numbers = self.numbers(ids)?;
        let arguments = [
            out.address(),
            x.address(),
            numbers.address(),
            out.count(),
            out.row_length(),
        ];
        self.each("gather_rows", out.len(), &arguments)?;
        Ok(out)
    }

    fn scatter_rows(&self, x: &mut CudaMatrix, y: &CudaMatrix, ids: &[u32]) -> Result<()> {
        same("scatter_rows", "the number of rows", y.rows, ids.len())?;
        same("scatter_rows", "the row length", y.cols, x.cols)?;
        for id in ids {
            in_range("scatter_rows", *id as usize, x.rows)?;
        }
        // Of rows that go to the same place the last one counts, and threads have no order.
        let mut last = std::collections::BTreeMap::new();
        for (i, id) in ids.iter().enumerate() {
            last.insert(*id, i as u32);
        }
        if last.len() < ids.len() {
            let (to, from): (Vec<u32>, Vec<u32>) = last.into_iter().unzip();
            let y = self.gather_rows(y, &from)?;
            return self.scatter_rows(x, &y, &to);
        }
        let numbers = self.numbers(ids)?;
        let arguments = [
            x.changed(),
            y.address(),
            numbers.address(),
            y.count(),
            y.row_length(),
        ];
        self.each("scatter_rows", y.len(), &arguments)
    }

    fn conv2d(
        &self,
        x: &CudaMatrix,
        w: &CudaWeight,
        bias: &CudaWeight,
        shape: ConvShape,
    ) -> Result<CudaMatrix> {
        self.convolution(x, w, bias, shape)
    }

    fn upsample_nearest(&self, x: &CudaMatrix, height: usize, width: usize) -> Result<CudaMatrix> {
        let pixels = product("upsample_nearest", height, width)?;
        same("upsample_nearest", "the number of pixels", x.rows, pixels)?;
        let out = self.any(product("upsample_nearest", pixels, 4)?, x.cols)?;
        let arguments = [
            out.address(),
            x.address(),
            out.count(),
            out.row_length(),
            Argument::U64(width as u64),
        ];
        self.each("upsample_nearest", out.len(), &arguments)?;
        Ok(out)
    }

    fn gaussian(&self, x: &CudaMatrix, noise: Option<&CudaMatrix>) -> Result<CudaMatrix> {
        let channels = channels_of_moments((x.rows, x.cols), noise.map(|n| (n.rows, n.cols)))?;
        let out = self.any(x.rows, channels)?;
        let arguments = [
            out.address(),
            x.address(),
            noise.map_or(Argument::Address(0), CudaMatrix::address),
            out.count(),
            out.row_length(),
        ];
        self.each("gaussian", out.len(), &arguments)?;
        Ok(out)
    }

    fn extrapolate(&self, x: &mut CudaMatrix, base: &CudaMatrix, scale: f32) -> Result<()> {
        self.with("extrapolate", x, base, &[Argument::F32(scale)])
    }

    fn renorm(
        &self,
        x: &mut CudaMatrix,
        reference: &CudaMatrix,
        min: f32,
        span: RenormSpan,
    ) -> Result<()> {
        same("renorm", "the number of rows", reference.rows, x.rows)?;
        same("renorm", "the row length", reference.cols, x.cols)?;
        let len = match span {
            RenormSpan::Whole => x.len(),
            RenormSpan::Row => x.cols,
        }
        .max(1);
        let arguments = [
            x.changed(),
            reference.address(),
            Argument::U64(len as u64),
            Argument::F32(min.min(1.0)),
        ];
        self.start("renorm", blocks(x.len() / len)?, THREADS, &arguments)
    }
}

/// A grid of so many blocks.
pub(super) fn blocks(count: usize) -> Result<[u32; 3]> {
    let blocks = u32::try_from(count)
        .ok()
        .filter(|b| u64::from(*b) <= MOST_BLOCKS);
    let blocks = blocks.ok_or_else(|| KernelError::Gpu(format!("{count} blocks are too many")))?;
    Ok([blocks, 1, 1])
}

/// A number that a kernel takes with 32 bits.
pub(super) fn count(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| KernelError::Gpu(format!("{number} is too many")))
}

/// Kernels `[out, in, side, side]` in the order (out, row, column, in).
fn channels_last(values: &[f32], cols: usize, side: usize) -> Result<Vec<f32>> {
    let taps = side * side;
    if taps == 0 || !cols.is_multiple_of(taps) {
        return Err(KernelError::Shape {
            operation: "conv2d",
            what: "the values of the kernel",
            got: cols,
            expected: taps,
        });
    }
    let channels = cols / taps;
    let mut out = Vec::with_capacity(values.len());
    for kernel in values.chunks(cols.max(1)) {
        for tap in 0..taps {
            out.extend((0..channels).map(|c| kernel[c * taps + tap]));
        }
    }
    Ok(out)
}
