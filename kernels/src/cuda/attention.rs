//! Caches and attention.

use super::device::{Cuda, CudaMatrix, blocks, count};
use super::gpu::Argument;
use super::memory::Memory;
use crate::device::{AttentionShape, Mask};
use crate::error::{KernelError, Result, product, same};
use crate::scalar::check_shapes;

/// `MOST_RUNS` and `MOST_HEAD` of kernels/cuda/attention.cu.
const MOST_RUNS: usize = 16;
const MOST_HEAD: usize = 256;
/// `KEY_WARPS` there, and keys that a warp takes at once.
const KEY_WARPS: usize = 4;
const WARP: usize = 32;
/// Fewer queries than these are not worth a tile of them.
const MANY: usize = 16;
/// Queries of a block, and the heads (up to so many values) of kernels/cuda/flash.cu.
const QUERIES: usize = 64;
const FLASH: [usize; 3] = [64, 80, 128];
/// The keys of few queries are split until there are so many blocks (some for each multiprocessor of a large chip), into
/// parts of so many keys at least.
const ENOUGH_BLOCKS: usize = 256;
const KEYS_A_PART: usize = 2 * KEY_WARPS * WARP;
/// Tokens that a cache has room for at first.
const FIRST: usize = 64;

/// Keys and values of some tokens on the processor.
pub struct CudaCache {
    width: usize,
    tokens: usize,
    half: bool,
    /// Keys and values, with room for `room` tokens.
    memory: Option<(Memory, Memory)>,
    room: usize,
}

impl CudaCache {
    pub(super) fn new(width: usize, half: bool) -> Self {
        CudaCache {
            width,
            tokens: 0,
            half,
            memory: None,
            room: 0,
        }
    }

    fn value_bytes(&self) -> usize {
        if self.half {
            size_of::<u16>()
        } else {
            size_of::<f32>()
        }
    }
}

/// `KeyRuns` as C lays it out: 16 runs of two addresses and two counts, their number.
struct Runs {
    bytes: Vec<u8>,
    count: u32,
}

impl Runs {
    fn new() -> Self {
        Runs {
            bytes: Vec::with_capacity(MOST_RUNS * 24 + 8),
            count: 0,
        }
    }

    fn push(&mut self, keys: u64, values: u64, tokens: u32, half: bool) {
        self.bytes.extend(keys.to_ne_bytes());
        self.bytes.extend(values.to_ne_bytes());
        self.bytes.extend(tokens.to_ne_bytes());
        self.bytes.extend(u32::from(half).to_ne_bytes());
        self.count += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(MOST_RUNS * 24, 0);
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes
    }
}

impl Cuda {
    pub(super) fn append(
        &self,
        cache: &mut CudaCache,
        k: &CudaMatrix,
        v: &CudaMatrix,
    ) -> Result<()> {
        same("cache_append", "the width of k", k.cols, cache.width)?;
        same("cache_append", "the width of v", v.cols, cache.width)?;
        same("cache_append", "the rows of v", v.rows, k.rows)?;
        let tokens = cache.tokens + k.rows;
        let row = cache.width * cache.value_bytes();
        if tokens > cache.room || cache.memory.is_none() {
            // Twice as much, so that appending costs the same on the whole.
            let room = tokens.max(2 * cache.room).max(FIRST);
            let bytes = product("cache_append", room, row)?;
            let larger = (
                Memory::any(&self.gpu, bytes)?,
                Memory::any(&self.gpu, bytes)?,
            );
            if let Some((keys, values)) = &cache.memory {
                larger.0.put(0, keys, cache.tokens * row)?;
                larger.1.put(0, values, cache.tokens * row)?;
            }
            cache.memory = Some(larger);
            cache.room = room;
        }
        let Some((keys, values)) = &cache.memory else {
            return Err(KernelError::Gpu("a cache without memory".to_owned()));
        };
        if cache.half {
            let arguments = [
                keys.address(),
                values.address(),
                k.address(),
                v.address(),
                Argument::U64((cache.tokens * cache.width) as u64),
                k.count(),
            ];
            self.each("append_half", k.len(), &arguments)?;
        } else {
            for (to, from) in [(keys, k), (values, v)] {
                to.put(cache.tokens * row, &from.memory, from.memory.bytes())?;
            }
        }
        cache.tokens = tokens;
        Ok(())
    }

    pub(super) fn read_cache(&self, cache: &CudaCache) -> Result<(CudaMatrix, CudaMatrix)> {
        let one = |memory: Option<&Memory>| {
            let out = self.any(cache.tokens, cache.width)?;
            match memory {
                Some(memory) if cache.half => {
                    let arguments = [out.address(), memory.address(), out.count()];
                    self.each("read_half", out.len(), &arguments)?;
                }
                Some(memory) => out.memory.put(0, memory, out.memory.bytes())?,
                None => {}
            }
            Ok::<_, KernelError>(out)
        };
        let memory = cache.memory.as_ref();
        Ok((one(memory.map(|m| &m.0))?, one(memory.map(|m| &m.1))?))
    }

    pub(super) fn attend(
        &self,
        q: &CudaMatrix,
        past: &[&CudaCache],
        k: &CudaMatrix,
        v: &CudaMatrix,
        shape: AttentionShape,
    ) -> Result<CudaMatrix> {
        let sizes = |m: &CudaMatrix| (m.rows, m.cols);
        check_shapes(
            sizes(q),
            past.iter().map(|c| c.width),
            sizes(k),
            sizes(v),
            shape,
        )?;
        if shape.head_dim > MOST_HEAD {
            return Err(KernelError::Gpu(format!(
                "attention: heads of {} values; at most {MOST_HEAD} are computed",
                shape.head_dim
            )));
        }
        let filled: Vec<&&CudaCache> = past.iter().filter(|c| c.tokens > 0).collect();
        if filled.len() >= MOST_RUNS {
            return Err(KernelError::Gpu(format!(
                "attention: {} caches; at most {} are read at once",
                filled.len(),
                MOST_RUNS - 1
            )));
        }
        let mut runs = Runs::new();
        let mut keys = k.rows;
        for cache in filled {
            if let Some((past, values)) = &cache.memory {
                runs.push(past.at(), values.at(), count(cache.tokens)?, cache.half);
                keys += cache.tokens;
            }
        }
        runs.push(k.memory.at(), v.memory.at(), count(k.rows)?, false);
        let runs = runs.finish();
        let out = self.any(q.rows, q.cols)?;
        let [heads, kv_heads, head] = [shape.heads, shape.kv_heads, shape.head_dim];
        let sizes = [
            Argument::U32(count(heads)?),
            Argument::U32(count(kv_heads)?),
            Argument::U32(count(head)?),
            Argument::U32(u32::from(shape.mask == Mask::Causal)),
            Argument::F32(1.0 / (head as f32).sqrt()),
        ];
        let flash = FLASH.iter().find(|most| head <= **most);
        if let Some(most) = flash
            && self.half_cache
            && q.rows >= MANY
        {
            let mut arguments = vec![out.address(), q.address(), Argument::Bytes(&runs)];
            arguments.push(Argument::U32(count(q.rows)?));
            arguments.extend(sizes);
            let grid = [count(q.rows.div_ceil(QUERIES))?, count(heads)?, 1];
            let threads = 2 * QUERIES as u32;
            self.start(&format!("flash_{most}"), grid, threads, &arguments)?;
            return Ok(out);
        }
        let parts = parts(q.rows * heads, keys);
        let threads = (KEY_WARPS * WARP) as u32;
        let some = |into: &CudaMatrix| {
            let mut arguments = vec![into.address(), q.address(), Argument::Bytes(&runs)];
            arguments.extend(sizes);
            let grid = [count(q.rows)?, count(heads)?, count(parts)?];
            self.start("attention", grid, threads, &arguments)
        };
        if parts == 1 {
            some(&out)?;
            return Ok(out);
        }
        let results = self.any(q.rows * heads, product("attention", parts, head + 2)?)?;
        some(&results)?;
        let arguments = [
            out.address(),
            results.address(),
            Argument::U32(count(parts)?),
            Argument::U32(count(head)?),
        ];
        self.start(
            "attention_join",
            blocks(q.rows * heads)?,
            threads,
            &arguments,
        )?;
        Ok(out)
    }
}

/// Into how many parts the keys are split, for so many queries times heads.
fn parts(results: usize, keys: usize) -> usize {
    let wanted = ENOUGH_BLOCKS.div_ceil(results.max(1));
    wanted.min(keys / KEYS_A_PART).max(1)
}
