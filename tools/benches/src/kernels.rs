//! Single products, against ggml's.

use kinglet_kernels::cpu::timed::{COLD, Product};
use kinglet_kernels::{Cpu, Device, Format, Roof};

use crate::peer::{Best, Peer};
use crate::row::Row;
use crate::{KernelArguments, Result};

/// The formats that are measured.
const FORMATS: [Format; 6] = [
    Format::Q8_0,
    Format::Q4_0,
    Format::Q2_K,
    Format::Q4_K,
    Format::Q6_K,
    Format::F16,
];
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

pub(crate) fn run(cpu: Cpu, arguments: &KernelArguments, json: bool) -> Result<()> {
    let wanted = |f: &Format| {
        arguments.formats.is_empty() || arguments.formats.iter().any(|name| name == f.name())
    };
    let mut roof = Roof::measure(cpu.set());
    eprintln!(
        "{}: {:.0} Gop/s on integers, {:.1} GB/s read",
        cpu.describe(),
        roof.integers.unwrap_or(0.0) / 1e9,
        roof.read / 1e9
    );
    let mut peers = Vec::new();
    if let Some(program) = &arguments.ggml {
        peers.push(Peer::start(program, &[])?);
        peers.push(Peer::start_in_large_pages(program, &[])?);
    }
    for format in FORMATS.into_iter().filter(wanted) {
        // Other programs may have been in the way.
        let again = Roof::measure(cpu.set());
        roof.read = roof.read.max(again.read);
        if again.integers > roof.integers {
            roof.integers = again.integers;
        }
        for shape in SHAPES {
            for row in matmul(cpu, format, shape, &roof, &mut peers)? {
                row.print(json);
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
    peers: &mut [Peer],
) -> Result<Vec<Row>> {
    let (m, k, n) = shape;
    let threads = rayon::current_num_threads();
    let product = Product::new(cpu, format, shape, COLD)?;
    let operations = 2.0 * m as f64 * k as f64 * n as f64;
    let repeats = 3;
    let copies = product.copies();
    let mut ours = f64::INFINITY;
    let mut theirs = Best::default();
    for _ in 0..TURNS {
        ours = ours.min(product.seconds(repeats)?);
        for peer in &mut *peers {
            let name = format.name();
            theirs.take(peer.ask(&format!("{name} {m} {k} {n} {copies} {threads} {repeats}"))?);
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
    let mut rows: Vec<Row> = theirs
        .iter()
        .map(|(config, s)| row(Some(("ggml", config, s))))
        .collect();
    if rows.is_empty() {
        rows.push(row(None));
    }
    Ok(rows)
}
