//! Weights in the order in which the kernels read them.
//!
//! A matrix is cut into tiles of [`Layout::rows`] output rows. A tile of a quantized matrix is a
//! sequence of blocks of 32 inputs; a block is its scales (and offsets), one a row, and then the
//! small integers: groups of [`Layout::group`] inputs, for each group the rows one after another. Rows
//! that a tile has too many are zeros.

use bytes::Bytes;
use half::f16;
use rayon::prelude::*;

use super::kind::{Kind, Layout};
use super::set::InstructionSet;
use super::{float, gemm};
use crate::blocks::{MOST_RUNS, Unpacked, decode_row, scale_and_offset, signed_scale};
use crate::error::{KernelError, Result, product};
use crate::format::Format;

/// Inputs of a block.
pub(super) const BLOCK: usize = 32;

/// A quantized matrix in tiles.
#[derive(Debug, Clone)]
pub(super) struct Integers {
    pub(super) kind: Kind,
    pub(super) layout: Layout,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) tile_bytes: usize,
    pub(super) bytes: Tiles,
}

impl Integers {
    /// A matrix of `rows` by `cols` whose tiles are there already; none for formats of floats.
    pub(super) fn from_tiles(
        format: Format,
        layout: Layout,
        (rows, cols): (usize, usize),
        bytes: Bytes,
    ) -> Option<Result<Self>> {
        let kind = Kind::of(format)?;
        Some(format.row_bytes(cols).and_then(|_| {
            let tile_bytes = Self::tile_bytes(kind, layout, cols);
            let expected = product("packed weight", tile_bytes, rows.div_ceil(layout.rows))?;
            Ok(Integers {
                kind,
                layout,
                rows,
                cols,
                tile_bytes,
                bytes: Tiles::stored(format, (rows, cols), bytes, expected)?,
            })
        }))
    }

    fn tile_bytes(kind: Kind, layout: Layout, cols: usize) -> usize {
        let blocks = cols / BLOCK;
        let block_bytes = layout.rows * (kind.scale_bytes() + kind.value_bytes());
        let supers = blocks.div_ceil(8) * layout.rows * kind.super_bytes();
        blocks * block_bytes + supers
    }

    /// Bytes of a matrix in this order; none for formats of floats.
    pub(super) fn bytes(format: Format, layout: Layout, rows: usize, cols: usize) -> Option<usize> {
        let tile = Self::tile_bytes(Kind::of(format)?, layout, cols);
        Some(tile * rows.div_ceil(layout.rows))
    }

    pub(super) fn blocks(&self) -> usize {
        self.cols / BLOCK
    }

    pub(super) fn tile(&self, t: usize) -> &[u8] {
        &self.bytes.as_slice()[t * self.tile_bytes..(t + 1) * self.tile_bytes]
    }
}

/// A matrix of floats in tiles: `[tile][input][row of the tile]`, in the type that it was stored in.
#[derive(Debug, Clone)]
pub(super) struct Floats {
    pub(super) format: Format,
    pub(super) tile_rows: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) bytes: Tiles,
}

impl Floats {
    /// A matrix of `rows` by `cols`, of floats, whose tiles are there already.
    pub(super) fn from_tiles(
        format: Format,
        tile_rows: usize,
        (rows, cols): (usize, usize),
        bytes: Bytes,
    ) -> Result<Self> {
        let tile = product("packed weight", cols, tile_rows * format.block_bytes())?;
        let expected = product("packed weight", tile, rows.div_ceil(tile_rows))?;
        Ok(Floats {
            format,
            tile_rows,
            rows,
            cols,
            bytes: Tiles::stored(format, (rows, cols), bytes, expected)?,
        })
    }

    /// Bytes of a matrix in this order.
    pub(super) fn bytes(format: Format, tile_rows: usize, rows: usize, cols: usize) -> usize {
        let quantized = format.block_values() > 1;
        let format = if quantized { Format::F32 } else { format };
        rows.div_ceil(tile_rows) * tile_rows * cols * format.block_bytes()
    }

    /// The inputs `from..to` of tile `t` as f32: those that are stored, or decoded into `room`.
    pub(super) fn part<'a>(
        &'a self,
        set: InstructionSet,
        t: usize,
        from: usize,
        to: usize,
        room: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let value = self.format.block_bytes() * self.tile_rows;
        let start = (t * self.cols + from) * value;
        let bytes = &self.bytes.as_slice()[start..start + (to - from) * value];
        if self.format == Format::F32 && cfg!(target_endian = "little") {
            // SAFETY: every four bytes are an f32; the bytes begin at a cache line, and every value
            // before these has four.
            let (before, values, after) = unsafe { bytes.align_to::<f32>() };
            debug_assert!(before.is_empty() && after.is_empty());
            return values;
        }
        room.resize((to - from) * self.tile_rows, 0.0);
        match self.format {
            Format::F16 if cfg!(target_endian = "little") => float::from_f16(set, bytes, room),
            Format::BF16 => float::from_bf16(set, bytes, room),
            // The lengths were made to fit when the weight was packed.
            format => drop(decode_row(format, bytes, room)),
        }
        room
    }

    /// Adds the products of a few rows with tile `t`, read as it is stored; false where there is no kernel for that.
    pub(super) fn multiply_few(
        &self,
        set: InstructionSet,
        t: usize,
        rows: &[&[f32]],
        products: &mut [f32],
    ) -> bool {
        let tile = self.cols * self.tile_rows * self.format.block_bytes();
        let bytes = &self.bytes.as_slice()[t * tile..(t + 1) * tile];
        match self.format {
            _ if cfg!(not(target_endian = "little")) => return false,
            Format::F16 => gemm::gemm_f16(set, bytes, self.tile_rows, self.cols, rows, products),
            Format::BF16 => gemm::gemm_bf16(set, bytes, self.tile_rows, self.cols, rows, products),
            _ => return false,
        }
        true
    }
}

/// A matrix's tiles; they begin at a cache line.
#[derive(Debug, Clone)]
pub(super) enum Tiles {
    /// Made here.
    Own(Aligned),
    /// As they were stored.
    Stored(Bytes),
}

impl Tiles {
    fn stored(
        format: Format,
        (rows, cols): (usize, usize),
        bytes: Bytes,
        expected: usize,
    ) -> Result<Self> {
        if bytes.len() != expected {
            return Err(KernelError::WeightBytes {
                format,
                rows,
                cols,
                got: bytes.len(),
                expected,
            });
        }
        if bytes.as_ptr().addr().is_multiple_of(align_of::<Line>()) {
            return Ok(Tiles::Stored(bytes));
        }
        let mut own = Aligned::zeros(bytes.len());
        own.as_mut_slice().copy_from_slice(&bytes);
        Ok(Tiles::Own(own))
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Tiles::Own(bytes) => bytes.as_slice(),
            Tiles::Stored(bytes) => bytes,
        }
    }

    /// Whether these are the bytes that they were made of.
    pub(super) fn shared(&self) -> bool {
        matches!(self, Tiles::Stored(_))
    }
}

/// Bytes that begin at a cache line.
#[derive(Debug, Clone)]
pub(super) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Fewer bytes are not worth large pages.
const LARGE: usize = 4 << 20;

impl Aligned {
    pub(super) fn zeros(len: usize) -> Self {
        let count = len.div_ceil(size_of::<Line>());
        let mut lines = Vec::with_capacity(count);
        if len >= LARGE {
            // Before anything touches them: weights are read from end to end, again and again.
            large_pages(lines.spare_capacity_mut());
        }
        lines.resize(count, Line([0; 64]));
        Aligned { lines, len }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: a line is 64 plain bytes without padding, and `len` is within all of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Asks the system for large pages (2 MiB, or what it has) where it gives them to those who ask. None is no failure.
#[cfg(target_os = "linux")]
fn large_pages(lines: &mut [std::mem::MaybeUninit<Line>]) {
    use rustix::mm::{Advice, madvise};
    let page = rustix::param::page_size();
    let (at, bytes) = (lines.as_mut_ptr(), size_of_val(lines));
    // Whole pages alone.
    let skipped = at.addr().next_multiple_of(page) - at.addr();
    let whole = bytes.saturating_sub(skipped) / page * page;
    // SAFETY: the pages are within memory that is exclusively borrowed; the advice changes nothing that is in them.
    let _ = unsafe {
        madvise(
            at.wrapping_byte_add(skipped).cast(),
            whole,
            Advice::LinuxHugepage,
        )
    };
}

#[cfg(not(target_os = "linux"))]
fn large_pages(_: &mut [std::mem::MaybeUninit<Line>]) {}

/// A stored matrix to be packed. Its lengths have been checked.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_bytes: usize,
    pub(super) bytes: Bytes,
}

impl Source {
    fn row(&self, i: usize) -> &[u8] {
        &self.bytes[i * self.row_bytes..(i + 1) * self.row_bytes]
    }

    /// The matrix in tiles of integers; none for formats of floats.
    pub(super) fn integers(&self, layout: Layout) -> Option<Integers> {
        let kind = Kind::of(self.format)?;
        let tile_bytes = Integers::tile_bytes(kind, layout, self.cols);
        let tiles = self.rows.div_ceil(layout.rows);
        let mut bytes = Aligned::zeros(tiles * tile_bytes);
        if tile_bytes > 0 {
            bytes
                .as_mut_slice()
                .par_chunks_mut(tile_bytes)
                .enumerate()
                .for_each(|(t, tile)| {
                    for r in 0..layout.rows {
                        let row = t * layout.rows + r;
                        if row < self.rows {
                            self.pack_row(self.row(row), kind, layout, r, tile);
                        }
                    }
                });
        }
        Some(Integers {
            kind,
            layout,
            rows: self.rows,
            cols: self.cols,
            tile_bytes,
            bytes: Tiles::Own(bytes),
        })
    }

    /// Writes one row into its places in a tile.
    fn pack_row(&self, stored: &[u8], kind: Kind, layout: Layout, r: usize, tile: &mut [u8]) {
        let rows = layout.rows;
        let mut unpacked = Unpacked::new();
        let (values, run) = (self.format.block_values(), self.format.run_values());
        let block_bytes = rows * (kind.scale_bytes() + kind.value_bytes());
        let super_bytes = rows * kind.super_bytes();
        for (b, block) in stored.chunks_exact(self.format.block_bytes()).enumerate() {
            unpacked.read(self.format, block);
            for inner in 0..values / BLOCK {
                let n = b * (values / BLOCK) + inner;
                let at = n * block_bytes + (n / 8 + 1) * super_bytes;
                if super_bytes > 0 && n.is_multiple_of(8) {
                    // Each factor for all rows.
                    let factors = super_factors(self.format, block).as_chunks::<2>().0;
                    for (i, factor) in factors.iter().enumerate() {
                        let at = at - super_bytes + 2 * (i * rows + r);
                        tile[at..at + 2].copy_from_slice(factor);
                    }
                }
                let scales = &mut tile[at..at + rows * kind.scale_bytes()];
                self.pack_scales(kind, &unpacked, block, inner, run, rows, r, scales);
                let q = &unpacked.q[inner * BLOCK..(inner + 1) * BLOCK];
                let at = at + rows * kind.scale_bytes();
                pack_values(q, kind, layout, r, &mut tile[at..]);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn pack_scales(
        &self,
        kind: Kind,
        unpacked: &Unpacked,
        block: &[u8],
        inner: usize,
        run: usize,
        rows: usize,
        r: usize,
        out: &mut [u8],
    ) {
        // The first run of this block of 32, and how many it has.
        let first = inner * BLOCK / run;
        debug_assert!(first < MOST_RUNS);
        let half = |v: f32| f16::from_f32(v).to_le_bytes();
        let mut put2 = |i: usize, v: [u8; 2]| out[2 * (i * rows + r)..][..2].copy_from_slice(&v);
        match kind {
            // These are the stored f16 themselves.
            Kind::Q8_0 | Kind::Q5_0 | Kind::Q4_0 => put2(0, half(unpacked.scale[first])),
            Kind::Q5_1 | Kind::Q4_1 => {
                put2(0, half(unpacked.scale[first]));
                put2(1, half(unpacked.offset[first]));
            }
            Kind::Q5_K | Kind::Q4_K => {
                (out[r], out[rows + r]) = scale_and_offset(&block[4..16], inner);
            }
            Kind::Q2_K => (out[r], out[rows + r]) = (block[first], block[first + 1]),
            Kind::Q6_K | Kind::Q3_K => {
                let scale = |run| signed_scale(self.format, block, run) as u8;
                (out[r], out[rows + r]) = (scale(first), scale(first + 1));
            }
        }
    }
}

/// Writes the 32 integers of one row into their places in a block.
fn pack_values(q: &[i8], kind: Kind, layout: Layout, r: usize, out: &mut [u8]) {
    let (low, high) = kind.planes();
    let mut values = [0; BLOCK];
    for (value, q) in values.iter_mut().zip(q) {
        *value = *q as u8;
    }
    if low == 8 {
        let flip = if layout.unsigned { 128 } else { 0 };
        values.iter_mut().for_each(|v| *v ^= flip);
    } else if !(layout.signed && kind == Kind::Q4_0) {
        let raised = kind.raised() as u8;
        values.iter_mut().for_each(|v| *v = v.wrapping_add(raised));
    }
    let (first, second) = out.split_at_mut(layout.rows * BLOCK * low / 8);
    match low {
        8 => pack_plane::<32>(&values, layout, r, first),
        4 => pack_plane::<16>(&values, layout, r, first),
        _ => pack_plane::<8>(&values, layout, r, first),
    }
    values
        .iter_mut()
        .for_each(|v| *v = v.checked_shr(low as u32).unwrap_or(0));
    match high {
        2 => pack_plane::<8>(&values, layout, r, second),
        1 => pack_plane::<4>(&values, layout, r, second),
        _ => {}
    }
}

/// Writes the lowest bits of a row's integers to its `PART` bytes of a block's plane. Where several share a byte, they
/// are as many equal parts of the block, the first one in the lowest bits.
fn pack_plane<const PART: usize>(values: &[u8; BLOCK], layout: Layout, r: usize, plane: &mut [u8]) {
    let bits = 8 * PART / BLOCK;
    let mut bytes = [0; PART];
    for (n, values) in values.as_chunks::<PART>().0.iter().enumerate() {
        for (byte, value) in bytes.iter_mut().zip(values) {
            *byte |= (value & u8::MAX >> (8 - bits)) << (n * bits);
        }
    }
    let group = layout.group.min(PART);
    for (g, some) in bytes.chunks_exact(group).enumerate() {
        plane[(g * layout.rows + r) * group..][..group].copy_from_slice(some);
    }
}

/// What [`pack_plane`] has written.
pub(super) fn unpack_plane<const PART: usize>(
    plane: &[u8],
    layout: Layout,
    r: usize,
) -> [u8; BLOCK] {
    let bits = 8 * PART / BLOCK;
    let mut bytes = [0; PART];
    let group = layout.group.min(PART);
    for (g, some) in bytes.chunks_exact_mut(group).enumerate() {
        some.copy_from_slice(&plane[(g * layout.rows + r) * group..][..group]);
    }
    let mut values = [0; BLOCK];
    for (n, values) in values.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
        for (byte, value) in bytes.iter().zip(values) {
            *value = byte >> (n * bits) & u8::MAX >> (8 - bits);
        }
    }
    values
}

/// The f16 factors of a super-block, that of its scales and then that of its offsets.
fn super_factors(format: Format, block: &[u8]) -> &[u8] {
    match format {
        Format::Q2_K => &block[80..84],
        Format::Q3_K => &block[108..110],
        Format::Q6_K => &block[208..210],
        _ => &block[..4],
    }
}

impl Source {
    /// The matrix in tiles of floats of `tile_rows` rows. Quantized formats are decoded to f32.
    pub(super) fn floats(&self, tile_rows: usize) -> Result<Floats> {
        let quantized = self.format.block_values() > 1;
        let format = if quantized { Format::F32 } else { self.format };
        let size = format.block_bytes();
        let tiles = self.rows.div_ceil(tile_rows);
        let mut bytes = Aligned::zeros(tiles * self.cols * tile_rows * size);
        if self.cols > 0 {
            bytes
                .as_mut_slice()
                .par_chunks_mut(self.cols * tile_rows * size)
                .enumerate()
                .try_for_each(|(t, tile)| {
                    let mut decoded = vec![0.0; if quantized { self.cols } else { 0 }];
                    let mut plain = Vec::new();
                    let rows = tile_rows.min(self.rows - t * tile_rows);
                    for r in 0..rows {
                        let mut row = self.row(t * tile_rows + r);
                        if quantized {
                            decode_row(self.format, row, &mut decoded)?;
                            plain.clear();
                            plain.extend(decoded.iter().flat_map(|v| v.to_le_bytes()));
                            row = &plain;
                        }
                        for (i, value) in row.chunks_exact(size).enumerate() {
                            tile[(i * tile_rows + r) * size..][..size].copy_from_slice(value);
                        }
                    }
                    Ok::<(), crate::KernelError>(())
                })?;
        }
        Ok(Floats {
            format,
            tile_rows,
            rows: self.rows,
            cols: self.cols,
            bytes: Tiles::Own(bytes),
        })
    }
}
