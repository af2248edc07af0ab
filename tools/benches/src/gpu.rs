//! A graphics processor: single products, and the 7B shape, as shares of what that processor does at best.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use kinglet_kernels::cuda::driver::{Driver, cache_folder};
use kinglet_kernels::cuda::{CudaMatrix, CudaWeight, Effort, Gpu, GpuRoof};
use kinglet_kernels::{AttentionShape, Cuda, Device, Format, Mask, Role, WeightData};
use kinglet_model::Model;
use kinglet_tests::shape::Shape;

use crate::model::{next, operations_of_a_token, read_by_a_token};
use crate::row::Row;
use crate::{GpuArguments, Result, random};

const FORMATS: [Format; 6] = [
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4_K,
    Format::Q6_K,
    Format::F16,
    Format::BF16,
];
/// Outputs and inputs of the 7B shape's matrices.
const SHAPES: [(usize, usize); 2] = [(3584, 3584), (18_944, 3584)];
const TOKENS: [usize; 3] = [1, 256, 1024];
/// Weights of one token's products take turns on so many bytes, so that no cache holds them.
const COLD: usize = 2 << 30;
const REPEATS: usize = 5;

struct Bench {
    gpu: Cuda,
    name: String,
    roof: GpuRoof,
    small: bool,
    json: bool,
}

/// Measures the first processor of this machine.
///
/// # Errors
/// There is none, or it fails.
pub(crate) fn run(arguments: &GpuArguments, json: bool) -> Result<()> {
    let driver = Driver::first(cache_folder().as_deref())?;
    let name = driver.describe();
    let gpu = Cuda::new(driver, true);
    let small = arguments.small;
    let roof = gpu.roof(if small { Effort::LEAST } else { Effort::FULL })?;
    eprintln!(
        "{name}: copies {:.1} GB/s, {:.1} Top/s on 8-bit integers",
        roof.copy / 1e9,
        roof.integers / 1e12
    );
    let bench = Bench {
        gpu,
        name,
        roof,
        small,
        json,
    };
    bench.products()?;
    bench.attention()?;
    bench.model()
}

impl Bench {
    fn row(&self, work: String, format: &str, ours: f64, unit: &'static str, roof: Option<f64>) {
        let row = Row {
            work,
            format: format.to_owned(),
            threads: 1,
            kernels: self.name.clone(),
            ours,
            peer: None,
            peer_config: None,
            theirs: None,
            unit,
            ratio: None,
            roof,
        };
        row.print(self.json);
    }

    /// Seconds of the quickest of several, after one that does not count.
    fn best(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        work()?;
        self.gpu.wait()?;
        let mut best = f64::INFINITY;
        for _ in 0..if self.small { 1 } else { REPEATS } {
            let start = Instant::now();
            work()?;
            self.gpu.wait()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    fn values(&self, rows: usize, cols: usize) -> Result<CudaMatrix> {
        let values: Vec<f32> = (0..rows * cols)
            .map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0)
            .collect();
        Ok(self.gpu.upload(&values, cols)?)
    }

    fn products(&self) -> Result<()> {
        for format in FORMATS {
            for (rows, cols) in if self.small { [(64, 256); 2] } else { SHAPES } {
                let bytes: Vec<u8> = (0..rows * format.row_bytes(cols)?)
                    .map(|i| (i * 29 % 47) as u8)
                    .collect();
                let bytes = bytes::Bytes::from(bytes);
                let copies = if self.small {
                    2
                } else {
                    COLD / bytes.len() + 1
                };
                let weight = |_| {
                    self.gpu.weight(WeightData {
                        role: Role::Matrix,
                        format,
                        rows,
                        cols,
                        bytes: bytes.clone(),
                    })
                };
                let weights: Vec<CudaWeight> = (0..copies)
                    .map(weight)
                    .collect::<kinglet_kernels::Result<_>>()?;
                for tokens in TOKENS {
                    let tokens = if self.small { tokens.min(16) } else { tokens };
                    let x = self.values(tokens, cols)?;
                    // Many tokens come out of arithmetic: a few weights will do.
                    let used = &weights[..if tokens == 1 { copies } else { 2 }];
                    let seconds = self.best(|| {
                        for w in used {
                            black_box(self.gpu.matmul(&x, w, None)?);
                        }
                        Ok(())
                    })? / used.len() as f64;
                    let operations = 2.0 * (tokens * rows * cols) as f64;
                    let roof = match (tokens, format.block_values()) {
                        (1, _) => Some(bytes.len() as f64 / seconds / self.roof.copy),
                        (_, 1) => None,
                        _ => Some(operations / seconds / self.roof.integers),
                    };
                    let work = format!("matmul M={rows} K={cols} N={tokens}");
                    self.row(
                        work,
                        format.name(),
                        operations / seconds / 1e9,
                        "Gop/s",
                        roof,
                    );
                }
            }
        }
        Ok(())
    }

    /// The heads of the 7B shape: latents of a picture of 512 x 512 behind a prompt, and one token behind a long context.
    fn attention(&self) -> Result<()> {
        let (heads, kv_heads, head_dim) = (28, 4, 128);
        for (queries, before) in [(1024, 64), (1, 4096)] {
            let (queries, before) = if self.small {
                (queries.min(32), 48)
            } else {
                (queries, before)
            };
            let width = kv_heads * head_dim;
            let mut cache = self.gpu.cache(width);
            let past = self.values(before, width)?;
            self.gpu.cache_append(&mut cache, &past, &past)?;
            let (q, k) = (
                self.values(queries, heads * head_dim)?,
                self.values(queries, width)?,
            );
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                mask: Mask::Full,
            };
            let turns = if self.small { 1 } else { 20 };
            let seconds = self.best(|| {
                for _ in 0..turns {
                    black_box(self.gpu.attention(&q, &[&cache], &k, &k, shape)?);
                }
                Ok(())
            })? / turns as f64;
            let operations = 4.0 * (queries * (before + queries) * heads * head_dim) as f64;
            let work = format!("attention, {queries} queries, {before} before, 28 heads of 128");
            self.row(work, "F16", operations / seconds / 1e9, "Gop/s", None);
        }
        Ok(())
    }

    /// The 7B shape: a token, and one pass for a picture of 512 x 512.
    fn model(&self) -> Result<()> {
        let shape = if self.small {
            Shape {
                hidden: 256,
                inner: 512,
                heads: 2,
                kv_heads: 1,
                layers: 2,
                vocabulary: 512,
                vision_layers: 1,
                ..Shape::RELEASE
            }
        } else {
            Shape::RELEASE
        };
        let side = if self.small { 4 } else { 32 };
        for format in [Format::Q4_K, Format::Q8_0] {
            let source = random::source(&shape, format)?;
            let (read, operations) = (read_by_a_token(&source), operations_of_a_token(&source));
            let device = Cuda::new(self.gpu.processor(), true);
            let start = Instant::now();
            let model: Arc<Model<Cuda>> = Model::load(&source, device)?;
            self.row(
                "7B shape, loaded".to_owned(),
                format.name(),
                1.0 / start.elapsed().as_secs_f64(),
                "loads/s",
                None,
            );
            let tokens = if self.small { 2 } else { 64 };
            let ids: Vec<u32> = (0..16).collect();
            let seconds = self.best(|| {
                let mut context = model.context();
                next(&model, &mut context, &ids)?;
                (0..tokens).try_for_each(|i| next(&model, &mut context, &[i * 41 % 500]))
            })? / f64::from(tokens);
            let share = read / seconds / self.roof.copy;
            self.row(
                "7B shape, decode".to_owned(),
                format.name(),
                1.0 / seconds,
                "tokens/s",
                Some(share),
            );

            let values = model.config.latent.token_values();
            let x = self.values(side * side, values)?;
            let mut context = model.context();
            context.push_ids(&ids, &mut None)?;
            let seconds = self.best(|| {
                black_box(context.velocity(&x, 0.75, (side, side), &mut None)?);
                Ok(())
            })?;
            let all = operations * (side * side) as f64;
            self.row(
                format!("7B shape, pass for {0}x{0}", side * 16),
                format.name(),
                1.0 / seconds,
                "passes/s",
                Some(all / seconds / self.roof.integers),
            );
        }
        Ok(())
    }
}
