//! A mixture of experts, without the host: the processor chooses, sorts tokens by expert, and computes the products of
//! all experts in one launch each.

use super::device::{Cuda, CudaMatrix, CudaWeight, THREADS, count};
use super::gpu::Argument;
use super::memory::Memory;
use super::products::{Inputs, MOST_TOKENS, ROWS_A_BLOCK, SIDE, TILE, WARP};
use crate::device::{Device, Expert, Role};
use crate::error::{KernelError, Result, product, same};
use crate::format::Format;

/// Bytes of `ExpertMatrix` in kernels/cuda/experts.cu.
const EXPERT_MATRIX: usize = 16;

/// Where each expert's slots are.
struct Slots {
    /// All of them: so many experts a token.
    count: usize,
    experts: usize,
    offsets: Memory,
    /// The token of each.
    tokens: Memory,
    /// Of each token the slots and the experts.
    slots: Memory,
    experts_of: Memory,
}

impl Cuda {
    pub(super) fn experts(
        &self,
        x: &CudaMatrix,
        logits: &CudaMatrix,
        experts: &[Expert<'_, CudaWeight>],
        used: usize,
    ) -> Result<CudaMatrix> {
        same("mixture", "the rows of the logits", logits.rows, x.rows)?;
        same(
            "mixture",
            "the number of logits",
            logits.cols,
            experts.len(),
        )?;
        if used > experts.len() {
            return Err(KernelError::Shape {
                operation: "mixture",
                what: "the number of experts used",
                got: used,
                expected: experts.len(),
            });
        }
        for expert in experts {
            let (gate, up, down) = (expert.gate, expert.up, expert.down);
            same("mixture", "the row length of gate", gate.cols, x.cols)?;
            same("mixture", "the row length of up", up.cols, x.cols)?;
            same("mixture", "the rows of up", up.rows, gate.rows)?;
            same("mixture", "the row length of down", down.cols, gate.rows)?;
            same(
                "mixture",
                "the width of an expert's output",
                down.rows,
                x.cols,
            )?;
        }
        if x.rows * used == 0 {
            return self.zeros(x.rows, x.cols);
        }
        let out = self.any(x.rows, x.cols)?;
        let slots = self.slots(logits, used)?;
        let mine = self.any(slots.count, x.cols)?;
        let arguments = [
            mine.address(),
            x.address(),
            slots.tokens.address(),
            mine.count(),
            mine.row_length(),
        ];
        self.each("gather_rows", mine.len(), &arguments)?;
        // Gates of all slots, and after them what they let through.
        let widest = experts.iter().map(|e| e.gate.rows).max().unwrap_or(0);
        let both = self.any(2 * slots.count, widest)?;
        let matrices: Vec<&CudaWeight> = (experts.iter().map(|e| e.gate))
            .chain(experts.iter().map(|e| e.up))
            .collect();
        self.grouped(&both, &matrices, &mine, &slots)?;
        drop(mine);
        let rows = slots.count;
        let inner = CudaMatrix { rows, ..both };
        let up = inner.memory.at() + (inner.len() * size_of::<f32>()) as u64;
        let arguments = [inner.address(), Argument::Address(up), inner.count()];
        self.each("swiglu", inner.len(), &arguments)?;
        let matrices: Vec<&CudaWeight> = experts.iter().map(|e| e.down).collect();
        let y = self.any(slots.count, x.cols)?;
        self.grouped(&y, &matrices, &inner, &slots)?;
        let arguments = [
            out.address(),
            y.address(),
            logits.address(),
            slots.slots.address(),
            slots.experts_of.address(),
            out.count(),
            out.row_length(),
            Argument::U32(count(slots.experts)?),
            Argument::U32(count(used)?),
        ];
        self.each("add_experts", out.len(), &arguments)?;
        Ok(out)
    }

    /// The router's choice.
    fn slots(&self, logits: &CudaMatrix, used: usize) -> Result<Slots> {
        let numbers = |count: usize| {
            let bytes = product("mixture", count, size_of::<u32>())?;
            Memory::any(&self.gpu, bytes)
        };
        let all = product("mixture", logits.rows, used)?;
        let (chosen, slots) = (
            numbers(logits.len())?,
            Slots {
                count: all,
                experts: logits.cols,
                offsets: numbers(logits.cols + 1)?,
                tokens: numbers(all)?,
                slots: numbers(all)?,
                experts_of: numbers(all)?,
            },
        );
        let (tokens, experts, used) = (count(logits.rows)?, count(logits.cols)?, count(used)?);
        let (experts_32, used_32) = (Argument::U32(experts), Argument::U32(used));
        let arguments = [
            chosen.address(),
            logits.address(),
            logits.count(),
            experts_32,
            used_32,
        ];
        self.each("choose_experts", logits.len(), &arguments)?;
        let arguments = [
            slots.offsets.address(),
            slots.tokens.address(),
            slots.slots.address(),
            slots.experts_of.address(),
            chosen.address(),
            Argument::U32(tokens),
            experts_32,
            used_32,
        ];
        self.start("sort_tokens", [experts, 1, 1], THREADS, &arguments)?;
        Ok(slots)
    }

    /// Every slot's row of `x` times its expert's matrices, one after another: `matrices` holds every expert's first
    /// one, then every second one. A launch for each format among them.
    fn grouped(
        &self,
        y: &CudaMatrix,
        matrices: &[&CudaWeight],
        x: &CudaMatrix,
        slots: &Slots,
    ) -> Result<()> {
        if let Some(w) = matrices.iter().find(|w| w.role != Role::Matrix) {
            return Err(KernelError::Role {
                operation: "mixture",
                role: w.role,
            });
        }
        let kinds = matrices.len() / slots.experts.max(1);
        let widest = matrices.iter().map(|w| w.rows).max().unwrap_or(0);
        let tiles = |side: usize| {
            // Each expert's last tile may be in part empty.
            count(slots.count / side + slots.experts.min(slots.count))
        };
        let has = |format: &&Format| matrices.iter().any(|w| w.format == **format);
        let mut inputs = Inputs::default();
        for format in Format::ALL.iter().filter(has) {
            let mut table = Vec::with_capacity(matrices.len() * EXPERT_MATRIX);
            for w in matrices {
                let at = if w.format == *format {
                    w.memory.at()
                } else {
                    0
                };
                table.extend(at.to_ne_bytes());
                table.extend(count(w.rows)?.to_ne_bytes());
                table.extend(count(w.cols)?.to_ne_bytes());
            }
            let table = self.uploaded(table)?;
            let (kernel, rows, side, threads, input, stride) = if format.block_values() == 1 {
                ("matrix", SIDE, SIDE, THREADS as usize, x.address(), x.cols)
            } else {
                let input = self.quantized(x, &mut inputs)?;
                let stride = x.cols / WARP;
                // With few tokens an expert, most of a tile would be empty.
                if slots.count <= MOST_TOKENS * slots.experts {
                    let rows = ROWS_A_BLOCK as usize;
                    ("vector", rows, MOST_TOKENS, WARP * rows, input, stride)
                } else {
                    let side = TILE as usize;
                    ("matrix", side, side, 2 * side, input, stride)
                }
            };
            let arguments = [
                y.address(),
                table.address(),
                input,
                slots.offsets.address(),
                Argument::U32(count(slots.experts)?),
                Argument::U32(count(stride)?),
                Argument::U32(count(widest)?),
            ];
            let grid = [count(widest.div_ceil(rows))?, tiles(side)?, count(kinds)?];
            self.start(
                &format!("experts_{kernel}_{format}"),
                grid,
                count(threads)?,
                &arguments,
            )?;
        }
        Ok(())
    }
}
