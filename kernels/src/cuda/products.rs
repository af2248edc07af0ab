//! Matrix products and convolutions.

use super::device::{Cuda, CudaMatrix, CudaWeight, blocks, count};
use super::gpu::Argument;
use super::memory::Memory;
use crate::device::{ConvShape, Role};
use crate::error::{KernelError, Result, product, same};
use crate::format::Format;

/// Bytes of `Quantized` in kernels/cuda/matmul.cu.
pub(crate) const QUANTIZED: usize = 48;
/// `MOST_TOKENS`, `ROWS_A_BLOCK` and `TILE` there, `SIDE` of floats.cu and `STEP` of halves.cu.
pub(super) const MOST_TOKENS: usize = 8;
pub(super) const ROWS_A_BLOCK: u32 = 4;
pub(super) const TILE: u32 = 64;
pub(super) const SIDE: usize = 32;
const STEP: usize = 64;
pub(super) const WARP: usize = 32;

/// What products read in place of a matrix, made once for all of them.
#[derive(Default)]
pub(super) struct Inputs {
    /// Integers for weights in blocks.
    quantized: Option<Memory>,
    /// 16 bits for weights of this format, with a factor for each row.
    rounded: Vec<(Format, Memory, Memory)>,
}

impl Cuda {
    /// `x W^T + b` for several weights; the activations are quantized once.
    pub(super) fn products(
        &self,
        x: &CudaMatrix,
        weights: &[(&CudaWeight, Option<&CudaWeight>)],
    ) -> Result<Vec<CudaMatrix>> {
        let mut inputs = Inputs::default();
        let products = weights
            .iter()
            .map(|(w, bias)| self.product(x, &mut inputs, w, *bias, None));
        products.collect()
    }

    /// `silu(x gate^T) * (x up^T)`: few tokens at once, many in two products, the second one in the place of the first.
    pub(super) fn gated_products(
        &self,
        x: &CudaMatrix,
        gate: &CudaWeight,
        up: &CudaWeight,
    ) -> Result<CudaMatrix> {
        same("gated", "the rows of up", up.rows, gate.rows)?;
        let mut inputs = Inputs::default();
        let alike = gate.format == up.format && gate.format.block_values() > 1;
        if !alike || x.rows > MOST_TOKENS || x.rows * gate.rows == 0 {
            let gated = self.product(x, &mut inputs, gate, None, None)?;
            return self.product(x, &mut inputs, up, None, Some(gated));
        }
        fits(x, gate)?;
        fits(x, up)?;
        let out = self.any(x.rows, gate.rows)?;
        let arguments = [
            out.address(),
            gate.memory.address(),
            up.memory.address(),
            self.quantized(x, &mut inputs)?,
            Argument::U32(count(gate.rows)?),
            Argument::U32(count(x.cols)?),
            Argument::U32(count(x.rows)?),
        ];
        let grid = [count(gate.rows)?.div_ceil(ROWS_A_BLOCK), 1, 1];
        let threads = WARP as u32 * ROWS_A_BLOCK;
        self.start(&format!("gated_{}", gate.format), grid, threads, &arguments)?;
        Ok(out)
    }

    /// `x W^T + b`; times silu of a gate, in its place.
    fn product(
        &self,
        x: &CudaMatrix,
        inputs: &mut Inputs,
        w: &CudaWeight,
        bias: Option<&CudaWeight>,
        gate: Option<CudaMatrix>,
    ) -> Result<CudaMatrix> {
        fits(x, w)?;
        let bias = match bias {
            Some(bias) => self.vector("matmul bias", bias, w.rows)?.address(),
            None => Argument::Address(0),
        };
        let gated = gate.is_some();
        let out = match gate {
            Some(gate) => gate,
            None => self.any(x.rows, w.rows)?,
        };
        let gate = if gated {
            out.address()
        } else {
            Argument::Address(0)
        };
        if out.len() == 0 {
            return Ok(out);
        }
        let [rows, cols, tokens] = [w.rows, w.cols, x.rows].map(count);
        let (rows, cols, tokens) = (rows?, cols?, tokens?);
        let sizes = [rows, cols, tokens].map(Argument::U32);
        let launch = |kind: &str, grid, threads, input: &[Argument<'_>], sizes: &[Argument<'_>]| {
            let first = [out.address(), w.memory.address()];
            let arguments = [&first, input, &[bias, gate], sizes].concat();
            self.start(&format!("{kind}_{}", w.format), grid, threads, &arguments)
        };
        let tiles = |side: u32| [rows.div_ceil(side), tokens.div_ceil(side), 1];
        let plain = w.format.block_values() == 1;
        let few = x.rows <= MOST_TOKENS;
        let rounds = plain && !few && w.format != Format::F32 && !self.exact;
        if rounds {
            let (values, factors) = self.rounded(x, inputs, w.format)?;
            let padded = Argument::U32(padded(x.cols)? as u32);
            let sizes = [sizes[0], sizes[1], padded, sizes[2]];
            launch("rounded", tiles(TILE), 2 * TILE, &[values, factors], &sizes)?;
            return Ok(out);
        }
        let input = if plain {
            x.address()
        } else {
            self.quantized(x, inputs)?
        };
        let (kind, grid, threads) = match (few, plain) {
            (true, _) => (
                "vector",
                [rows.div_ceil(ROWS_A_BLOCK), 1, 1],
                WARP as u32 * ROWS_A_BLOCK,
            ),
            (false, true) => ("matrix", tiles(SIDE as u32), 256),
            (false, false) => ("matrix", tiles(TILE), 2 * TILE),
        };
        launch(kind, grid, threads, &[input], &sizes)?;
        Ok(out)
    }

    /// Room for the runs of a matrix.
    pub(super) fn runs_of(&self, x: &CudaMatrix) -> Result<Memory> {
        Memory::any(&self.gpu, product("quantize", x.len() / WARP, QUANTIZED)?)
    }

    pub(super) fn quantized(
        &self,
        x: &CudaMatrix,
        inputs: &mut Inputs,
    ) -> Result<Argument<'static>> {
        if let Some(quantized) = x.quantized.as_ref().or(inputs.quantized.as_ref()) {
            return Ok(quantized.address());
        }
        let memory = self.runs_of(x)?;
        let runs = Argument::U64((x.len() / WARP) as u64);
        let arguments = [memory.address(), x.address(), runs];
        self.each("quantize", x.len(), &arguments)?;
        Ok(inputs.quantized.insert(memory).address())
    }

    /// A matrix in 16 bits, and the factors of its rows.
    fn rounded(
        &self,
        x: &CudaMatrix,
        inputs: &mut Inputs,
        format: Format,
    ) -> Result<(Argument<'static>, Argument<'static>)> {
        if let Some((_, values, factors)) = inputs.rounded.iter().find(|(f, ..)| *f == format) {
            return Ok((values.address(), factors.address()));
        }
        let padded = padded(x.cols)?;
        let bytes = product("round", product("round", x.rows, padded)?, size_of::<u16>())?;
        let values = Memory::any(&self.gpu, bytes)?;
        let factors = Memory::any(&self.gpu, product("round", x.rows, size_of::<f32>())?)?;
        let arguments = [
            values.address(),
            factors.address(),
            x.address(),
            Argument::U32(count(x.cols)?),
            Argument::U32(count(padded)?),
        ];
        self.start(&format!("round_{format}"), blocks(x.rows)?, 256, &arguments)?;
        let addresses = (values.address(), factors.address());
        inputs.rounded.push((format, values, factors));
        Ok(addresses)
    }

    pub(super) fn convolution(
        &self,
        x: &CudaMatrix,
        w: &CudaWeight,
        bias: &CudaWeight,
        shape: ConvShape,
    ) -> Result<CudaMatrix> {
        let pixels = product("conv2d", shape.height, shape.width)?;
        same("conv2d", "the number of pixels", x.rows, pixels)?;
        let side = match w.role {
            Role::Kernel { side } => side,
            role => {
                return Err(KernelError::Role {
                    operation: "conv2d",
                    role,
                });
            }
        };
        same("conv2d", "the side of the kernel", side, shape.kernel)?;
        let window = product("conv2d", side * side, x.cols)?;
        // Its rows may be split anywhere.
        if window == 0 || !(w.rows * w.cols).is_multiple_of(window) {
            return Err(KernelError::Shape {
                operation: "conv2d",
                what: "the values of the kernel",
                got: w.cols,
                expected: window,
            });
        }
        same("conv2d", "the values of the kernel", w.cols, window)?;
        let outputs = w.rows;
        let bias = self.vector("conv2d bias", bias, outputs)?;
        let (height, width) = shape.output();
        let out = self.any(product("conv2d", height, width)?, outputs)?;
        let arguments = [
            out.address(),
            w.memory.address(),
            x.address(),
            bias.address(),
            Argument::U32(count(outputs)?),
            Argument::U32(count(shape.height)?),
            Argument::U32(count(shape.width)?),
            Argument::U32(count(x.cols)?),
            Argument::U32(count(shape.kernel)?),
            Argument::U32(count(shape.stride)?),
            Argument::U32(count(shape.pad_before)?),
            Argument::U32(count(height)?),
            Argument::U32(count(width)?),
        ];
        let grid = [
            count(outputs.div_ceil(SIDE))?,
            count((height * width).div_ceil(SIDE))?,
            1,
        ];
        self.start("conv2d", grid, 256, &arguments)?;
        Ok(out)
    }
}

fn fits(x: &CudaMatrix, w: &CudaWeight) -> Result<()> {
    same("matmul", "the row length of x", x.cols, w.cols)?;
    match w.role {
        Role::Matrix => Ok(()),
        role => Err(KernelError::Role {
            operation: "matmul",
            role,
        }),
    }
}

/// Values of a rounded row, zeros among them.
fn padded(cols: usize) -> Result<usize> {
    let padded = cols.checked_next_multiple_of(STEP);
    padded.ok_or_else(|| KernelError::Gpu(format!("rows of {cols} values are too long")))
}
