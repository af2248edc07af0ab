//! candle's quantized Qwen2 as a peer of tools/bench.
//!
//! usage: candle-peer MODEL.gguf THREADS
//! Reads lines "prefill N", "decode N" or "memory" and answers each with one line "NAME=NUMBER": seconds, or
//! the most memory so far in bytes. A prefill is N tokens at once into an empty context, a decode N tokens
//! one after another behind 16 others.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen2::ModelWeights;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, threads] = &arguments[..] else {
        return Err("usage: candle-peer MODEL.gguf THREADS".into());
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads.parse()?).build_global()?;
    let device = Device::Cpu;
    let mut file = std::fs::File::open(path)?;
    let content = Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &device)?;
    let mut push = |ids: &[u32], before: usize| -> candle_core::Result<()> {
        let ids = Tensor::new(ids, &device)?.unsqueeze(0)?;
        model.forward(&ids, before)?.to_vec2::<f32>()?;
        Ok(())
    };
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let what = words.next().unwrap_or_default();
        let n: u32 = words.next().map_or(Ok(0), str::parse)?;
        let answer = match what {
            "prefill" => {
                let ids: Vec<u32> = (0..n).map(|i| i * 37 % 1000).collect();
                let start = Instant::now();
                // A context begins anew at position 0.
                push(&ids, 0)?;
                start.elapsed().as_secs_f64()
            }
            "decode" => {
                push(&(0..16).collect::<Vec<u32>>(), 0)?;
                let start = Instant::now();
                for i in 0..n {
                    push(&[i * 41 % 1000], 16 + i as usize)?;
                }
                start.elapsed().as_secs_f64()
            }
            _ => most_memory()?,
        };
        println!("candle={answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// The most memory that this process had so far, in bytes.
fn most_memory() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).ok_or("no VmHWM")?.parse()?;
    Ok(kilobytes * 1024.0)
}
