//! `kinglet-bench`: our kernels against their peers and against the machine's limits. See `tools/bench`.

mod formats;
mod ggml;
mod row;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use ggml::Ggml;
use kinglet_container::ContainerError;
use kinglet_kernels::cpu::timed::{COLD, Product};
use kinglet_kernels::{Cpu, Device, Format, KernelError, Roof};
use row::Row;

/// Measures kernels; ours and a peer's alternate in one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is measured.
    what: What,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// The program of tools/peers/ggml.
    #[arg(long)]
    ggml: Option<PathBuf>,
    /// ggml's quantizer, of the same folder.
    #[arg(long)]
    quantizer: Option<PathBuf>,
    /// Weights for `formats`: NAME=FILE, a GGUF or safetensors file.
    #[arg(long, value_parser = named_file)]
    weights: Vec<(String, PathBuf)>,
    /// Threads.
    #[arg(long)]
    threads: Option<usize>,
    /// Only formats of these names.
    #[arg(long, value_delimiter = ',')]
    formats: Vec<String>,
    /// Once each, and only small work: for counting instructions.
    #[arg(long)]
    once: bool,
    /// Tokens of that work.
    #[arg(long, default_value_t = 64, requires = "once")]
    tokens: usize,
    /// Outputs of that work.
    #[arg(long, default_value_t = 256, requires = "once")]
    rows: usize,
    /// Inputs of that work.
    #[arg(long, default_value_t = 512, requires = "once")]
    inputs: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Single operations.
    Kernels,
    /// How close each format comes to weights.
    Formats,
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
    Container(#[from] ContainerError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
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

/// Outputs, inputs, tokens.
const SHAPES: [(usize, usize, usize); 6] = [
    (3584, 3584, 1),
    (3584, 3584, 256),
    (3584, 3584, 1024),
    (18_944, 3584, 1),
    (18_944, 3584, 256),
    (18_944, 3584, 1024),
];
/// Both sides are measured so often in turn.
const TURNS: usize = 3;

fn run(arguments: &Arguments) -> Result<()> {
    let mut threads = rayon::ThreadPoolBuilder::new();
    if let Some(n) = arguments.threads {
        threads = threads.num_threads(n);
    }
    threads.build_global()?;
    let wanted = |f: &Format| {
        arguments.formats.is_empty() || arguments.formats.iter().any(|name| name == f.name())
    };
    match arguments.what {
        What::Kernels => kernels(arguments, wanted),
        What::Formats => {
            let quantizer = arguments.quantizer.as_deref();
            formats::run(&arguments.weights, quantizer, wanted, arguments.json)
        }
    }
}

fn kernels(arguments: &Arguments, wanted: impl Fn(&Format) -> bool) -> Result<()> {
    let cpu = Cpu::from_environment()?;
    let formats = [
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_K,
        Format::Q6_K,
        Format::F16,
    ];
    if arguments.once {
        for format in formats.into_iter().filter(&wanted) {
            for tokens in [1, arguments.tokens] {
                let shape = (arguments.rows, arguments.inputs, tokens);
                Product::new(cpu, format, shape, 0)?.seconds(1)?;
            }
        }
        return Ok(());
    }
    let mut roof = Roof::measure(cpu.set());
    eprintln!(
        "{}: {:.0} Gop/s on integers, {:.1} GB/s read",
        cpu.describe(),
        roof.integers.unwrap_or(0.0) / 1e9,
        roof.read / 1e9
    );
    let mut peer = arguments.ggml.as_deref().map(Ggml::start).transpose()?;
    for format in formats.into_iter().filter(wanted) {
        // Other programs may have been in the way.
        let again = Roof::measure(cpu.set());
        roof.read = roof.read.max(again.read);
        if again.integers > roof.integers {
            roof.integers = again.integers;
        }
        for shape in SHAPES {
            for row in matmul(cpu, format, shape, &roof, peer.as_mut())? {
                row.print(arguments.json);
            }
        }
    }
    Ok(())
}

fn matmul(
    cpu: Cpu,
    format: Format,
    shape: (usize, usize, usize),
    roof: &Roof,
    mut peer: Option<&mut Ggml>,
) -> Result<Vec<Row>> {
    let (m, k, n) = shape;
    let threads = rayon::current_num_threads();
    let product = Product::new(cpu, format, shape, COLD)?;
    let operations = 2.0 * m as f64 * k as f64 * n as f64;
    let repeats = 3;
    let copies = product.copies();
    let mut ours = f64::INFINITY;
    let mut theirs: Vec<(String, f64)> = Vec::new();
    for _ in 0..TURNS {
        ours = ours.min(product.seconds(repeats)?);
        if let Some(peer) = peer.as_deref_mut() {
            for (name, seconds) in peer.matmul(format.name(), shape, copies, threads, repeats)? {
                match theirs.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, best)) => *best = best.min(seconds),
                    None => theirs.push((name, seconds)),
                }
            }
        }
    }
    // A product with one token is bound by reading the weight, others by multiplying.
    let roof = if n == 1 {
        let bytes = (m * format.row_bytes(k)?) as f64;
        Some(bytes / ours / roof.read)
    } else if format.block_values() > 1 {
        roof.integers.map(|limit| operations / ours / limit)
    } else {
        None
    };
    let speed = |seconds: f64| operations / seconds / 1e9;
    let row = |peer: Option<(&str, &str, f64)>| Row {
        work: format!("matmul M={m} K={k} N={n}"),
        format: format.name().to_owned(),
        threads,
        kernels: cpu.set().name().to_owned(),
        ours: speed(ours),
        peer: peer.map(|(name, _, _)| name.to_owned()),
        peer_config: peer.map(|(_, config, _)| config.to_owned()),
        theirs: peer.map(|(_, _, seconds)| speed(seconds)),
        unit: "Gop/s",
        ratio: peer.map(|(_, _, seconds)| seconds / ours),
        roof,
    };
    if theirs.is_empty() {
        return Ok(vec![row(None)]);
    }
    let rows = theirs
        .iter()
        .map(|(config, s)| row(Some(("ggml", config, *s))));
    Ok(rows.collect())
}
