//! `kinglet-bench`: our kernels and models against their peers and against the machine's limits. See
//! `tools/bench`.

mod formats;
mod gpu;
mod kernels;
mod model;
#[cfg(feature = "networks")]
mod network;
mod peer;
mod random;
mod row;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kinglet_container::ContainerError;
use kinglet_kernels::{Cpu, Format, KernelError};
use kinglet_model::ModelError;

/// Measures; ours and a peer's alternate in one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// One JSON object a line.
    #[arg(long, global = true)]
    json: bool,
    /// Threads.
    #[arg(long, global = true)]
    threads: Option<usize>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Single products.
    Kernels(KernelArguments),
    /// Whole models of random weights.
    Model(ModelArguments),
    /// How close each format comes to weights.
    Formats(FormatArguments),
    /// ONNX graphs, by tract.
    #[cfg(feature = "networks")]
    Networks(NetworkArguments),
    /// A graphics processor, as shares of its own limits.
    Gpu(GpuArguments),
    /// What `model` starts to measure memory.
    #[command(hide = true)]
    Hold {
        /// The container.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct KernelArguments {
    /// The program `matmul` of tools/peers/ggml.
    #[arg(long)]
    ggml: Option<PathBuf>,
    /// Only formats of these names.
    #[arg(long, value_delimiter = ',')]
    formats: Vec<String>,
}

#[derive(Debug, Args)]
struct ModelArguments {
    /// What is run; left out: all of it but what takes the whole 7B shape, 10 GB of memory.
    #[arg(value_delimiter = ',')]
    work: Vec<model::Work>,
    /// The program `language` of tools/peers/ggml.
    #[arg(long)]
    llama: Option<PathBuf>,
    /// A program `block` of tools/peers/sd: NAME=FILE, one for each way in which it was built.
    #[arg(long, value_parser = named_file)]
    sd: Vec<(String, PathBuf)>,
    /// SmolLM2-135M as a GGUF file.
    #[arg(long)]
    smollm2: Option<PathBuf>,
    /// The program of tools/peers/candle.
    #[arg(long)]
    candle: Option<PathBuf>,
    /// Where model files are written.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

#[cfg(feature = "networks")]
#[derive(Debug, Args)]
struct NetworkArguments {
    /// Graphs of fixed shapes with one input and one output.
    files: Vec<PathBuf>,
    /// The program tools/peers/onnx/timed.py, or one that starts it.
    #[arg(long)]
    onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct GpuArguments {
    /// Small work, for what only stands in for a processor: its figures mean nothing.
    #[arg(long)]
    small: bool,
}

#[derive(Debug, Args)]
struct FormatArguments {
    /// The program `quantize` of tools/peers/ggml.
    #[arg(long)]
    quantizer: Option<PathBuf>,
    /// Weights to encode: NAME=FILE, a GGUF or safetensors file.
    #[arg(long, value_parser = named_file)]
    weights: Vec<(String, PathBuf)>,
    /// Only formats of these names.
    #[arg(long, value_delimiter = ',')]
    formats: Vec<String>,
}

fn named_file(text: &str) -> std::result::Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
    Ok((name.to_owned(), file.into()))
}

#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("the peer: {0}")]
    Peer(String),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Pack(#[from] kinglet_quant::QuantError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("{0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
}

type Result<T> = std::result::Result<T, BenchError>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kinglet-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut threads = rayon::ThreadPoolBuilder::new();
    if let Some(n) = arguments.threads {
        threads = threads.num_threads(n);
    }
    threads.build_global()?;
    let cpu = Cpu::from_environment()?;
    match &arguments.what {
        What::Kernels(what) => kernels::run(cpu, what, arguments.json),
        What::Model(what) => model::run(cpu, what, arguments.json),
        What::Formats(what) => {
            let wanted = |f: &Format| {
                what.formats.is_empty() || what.formats.iter().any(|name| name == f.name())
            };
            formats::run(
                &what.weights,
                what.quantizer.as_deref(),
                wanted,
                arguments.json,
            )
        }
        #[cfg(feature = "networks")]
        What::Networks(what) => network::run(what, arguments.json),
        What::Gpu(what) => gpu::run(what, arguments.json),
        What::Hold { file } => model::hold(cpu, file),
    }
}
