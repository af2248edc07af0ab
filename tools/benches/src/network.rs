//! ONNX graphs of fixed shapes: tract, which runs them here, against onnxruntime.

use std::ffi::OsStr;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use crate::peer::{Best, Peer};
use crate::row::Row;
use crate::{BenchError, NetworkArguments, Result};

/// Both sides are measured so often in turn, and each time the best of some runs is taken.
const TURNS: usize = 3;
const RUNS: usize = 10;

pub(crate) fn run(arguments: &NetworkArguments, json: bool) -> Result<()> {
    for file in &arguments.files {
        for row in graph(file, arguments.onnxruntime.as_deref())? {
            row.print(json);
        }
    }
    Ok(())
}

fn graph(file: &Path, program: Option<&Path>) -> Result<Vec<Row>> {
    let mut graph =
        kinglet_boards::graph::open(file).map_err(|e| BenchError::Peer(e.to_string()))?;
    let input: Vec<f32> = (0..graph.input().values())
        .map(|i| (i % 101) as f32 / 101.0)
        .collect();
    let mut peer = match program {
        Some(program) => Some(Peer::start(program, &[file.as_os_str(), OsStr::new("1")])?),
        None => None,
    };
    let (mut ours, mut theirs) = (f64::INFINITY, Best::default());
    for _ in 0..TURNS {
        for _ in 0..RUNS {
            let start = Instant::now();
            let output = graph.run(&input);
            black_box(output.map_err(|e| BenchError::Peer(e.to_string()))?);
            ours = ours.min(start.elapsed().as_secs_f64());
        }
        if let Some(peer) = &mut peer {
            theirs.take(peer.ask(&format!("run {RUNS}"))?);
        }
    }
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let row = |peer: Option<(&str, f64)>| Row {
        work: format!("network {name}"),
        format: "F32".to_owned(),
        threads: 1,
        kernels: "tract".to_owned(),
        ours: 1.0 / ours,
        peer: peer.map(|_| "onnxruntime".to_owned()),
        peer_config: peer.map(|(config, _)| config.to_owned()),
        theirs: peer.map(|(_, seconds)| 1.0 / seconds),
        unit: "runs/s",
        ratio: peer.map(|(_, seconds)| seconds / ours),
        roof: None,
    };
    let rows: Vec<Row> = theirs.iter().map(|peer| row(Some(peer))).collect();
    Ok(if rows.is_empty() {
        vec![row(None)]
    } else {
        rows
    })
}
