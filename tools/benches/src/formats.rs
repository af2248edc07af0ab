//! How close the block formats come to real weights: our encoders beside ggml's.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use kinglet_container::gguf::Gguf;
use kinglet_container::tensors::SafeTensors;
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::Format;
use kinglet_kernels::blocks::{decode_row, encode_row_weighted};
use serde::Serialize;

use crate::{BenchError, Result};

/// Rows of a tensor that are measured, spread over all of it.
const ROWS: usize = 64;

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    format: &'static str,
    model: String,
    /// Weights measured.
    weights: usize,
    bits_per_weight: f64,
    /// Whether columns had unequal importance.
    weighted: bool,
    /// Root mean square, over the tensors, of the relative L2 error.
    ours: f64,
    theirs: Option<f64>,
    ratio: Option<f64>,
    /// Weights a second of one thread.
    our_speed: f64,
    their_speed: Option<f64>,
}

impl Line {
    pub(crate) fn print(&self, json: bool) {
        if json {
            // Numbers and strings, which always serialize.
            println!("{}", serde_json::to_string(self).unwrap_or_default());
            return;
        }
        let peer = match (self.theirs, self.ratio, self.their_speed) {
            (Some(theirs), Some(ratio), Some(speed)) => {
                format!("ggml {theirs:.6}, ratio {ratio:.3}, {:.1} M/s", speed / 1e6)
            }
            _ => "no peer".to_owned(),
        };
        println!(
            "{:5} {:14} {:7.4} bits {:10} {:.6} {:6.1} M/s  {peer}",
            self.format,
            self.model,
            self.bits_per_weight,
            if self.weighted { "weighted" } else { "plain" },
            self.ours,
            self.our_speed / 1e6,
        );
    }
}

/// A tensor's sampled rows as f32.
struct Sample {
    cols: usize,
    values: Vec<f32>,
}

/// The matrices of a GGUF or safetensors file.
fn samples(path: &Path) -> Result<Vec<Sample>> {
    if path.extension().is_some_and(|e| e == "gguf") {
        let file = Gguf::open(path)?;
        let tensors = file.tensors().iter().map(|(_, t)| t);
        tensors.filter_map(|t| sample(t).transpose()).collect()
    } else {
        let file = SafeTensors::open(path)?;
        let tensors = file.iter().map(|(_, t)| t);
        tensors.filter_map(|t| sample(t).transpose()).collect()
    }
}

fn sample(tensor: &Tensor) -> Result<Option<Sample>> {
    let (Some(format), [_, .., cols]) = (format_of(tensor.kind), &tensor.shape[..]) else {
        return Ok(None);
    };
    let stored: Vec<&[u8]> = tensor
        .bytes
        .chunks_exact(format.row_bytes(*cols)?)
        .collect();
    let step = stored.len().div_ceil(ROWS).max(1);
    let mut values = Vec::new();
    let mut row = vec![0.0; *cols];
    for bytes in stored.into_iter().step_by(step) {
        decode_row(format, bytes, &mut row)?;
        values.extend_from_slice(&row);
    }
    Ok(Some(Sample {
        cols: *cols,
        values,
    }))
}

fn format_of(kind: TensorType) -> Option<Format> {
    Format::ALL
        .iter()
        .copied()
        .find(|f| f.name() == kind.name())
}

/// Made up, and always the same: from 1/16 to 16, evenly in its logarithm.
fn importance(cols: usize) -> Vec<f32> {
    let column = |i: usize| {
        let hash = (i as u32).wrapping_mul(2_654_435_761) >> 8;
        (8.0 * hash as f32 / (1u32 << 24) as f32 - 4.0).exp2()
    };
    (0..cols).map(column).collect()
}

/// The squared relative error of a tensor.
fn error(sample: &Sample, format: Format, importance: &[f32], bytes: &[u8]) -> Result<f64> {
    let mut back = vec![0.0; sample.cols];
    let (mut off, mut all) = (0.0, 0.0);
    let rows = sample.values.chunks_exact(sample.cols);
    for (row, bytes) in rows.zip(bytes.chunks_exact(format.row_bytes(sample.cols)?)) {
        decode_row(format, bytes, &mut back)?;
        for ((x, y), w) in row.iter().zip(&back).zip(importance) {
            off += f64::from(*w) * (f64::from(*x) - f64::from(*y)).powi(2);
            all += f64::from(*w) * f64::from(*x).powi(2);
        }
    }
    Ok(if all > 0.0 { off / all } else { 0.0 })
}

/// Measures every format on the weights of each file.
pub(crate) fn run(
    files: &[(String, PathBuf)],
    quantizer: Option<&Path>,
    wanted: impl Fn(&Format) -> bool,
    json: bool,
) -> Result<()> {
    let mut peer = quantizer.map(Quantizer::start).transpose()?;
    for (model, path) in files {
        let samples = samples(path)?;
        let formats = Format::ALL.iter().copied().filter(|f| f.block_values() > 1);
        for format in formats.filter(&wanted) {
            for weighted in [false, true] {
                if let Some(line) = line(model, &samples, format, weighted, peer.as_mut())? {
                    line.print(json);
                }
            }
        }
    }
    Ok(())
}

fn line(
    model: &str,
    samples: &[Sample],
    format: Format,
    weighted: bool,
    mut peer: Option<&mut Quantizer>,
) -> Result<Option<Line>> {
    let (mut ours, mut theirs, mut tensors, mut weights) = (0.0, Some(0.0), 0, 0);
    let (mut our_seconds, mut their_seconds) = (0.0, 0.0);
    for sample in samples {
        if !sample.cols.is_multiple_of(format.block_values()) {
            continue;
        }
        let importance = if weighted {
            importance(sample.cols)
        } else {
            vec![1.0; sample.cols]
        };
        let given = weighted.then_some(&importance[..]);
        let mut bytes = Vec::new();
        let start = Instant::now();
        for row in sample.values.chunks_exact(sample.cols) {
            encode_row_weighted(format, row, given, &mut bytes)?;
        }
        our_seconds += start.elapsed().as_secs_f64();
        ours += error(sample, format, &importance, &bytes)?;
        theirs = match (peer.as_deref_mut(), theirs) {
            (Some(peer), Some(sum)) => match peer.quantize(format, sample, given)? {
                Some((seconds, bytes)) => {
                    their_seconds += seconds;
                    Some(sum + error(sample, format, &importance, &bytes)?)
                }
                None => None,
            },
            _ => None,
        };
        tensors += 1;
        weights += sample.values.len();
    }
    if tensors == 0 {
        return Ok(None);
    }
    let root = |sum: f64| (sum / f64::from(tensors)).sqrt();
    let theirs = theirs.map(root);
    Ok(Some(Line {
        format: format.name(),
        model: model.to_owned(),
        weights,
        bits_per_weight: 8.0 * format.block_bytes() as f64 / format.block_values() as f64,
        weighted,
        ours: root(ours),
        theirs,
        // Weights that a format holds exactly have none.
        ratio: theirs.filter(|t| *t > 0.0).map(|t| root(ours) / t),
        our_speed: weights as f64 / our_seconds,
        their_speed: theirs.map(|_| weights as f64 / their_seconds),
    }))
}

/// The program in tools/peers/ggml/quantize.cpp.
struct Quantizer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Quantizer {
    fn start(program: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| BenchError::Peer(format!("{}: {e}", program.display()));
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(fail)?;
        let missing = || BenchError::Peer("the peer has no pipes".to_owned());
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Quantizer {
            child,
            input,
            output,
        })
    }

    /// Seconds and bytes; none for what ggml cannot do.
    fn quantize(
        &mut self,
        format: Format,
        sample: &Sample,
        importance: Option<&[f32]>,
    ) -> Result<Option<(f64, Vec<u8>)>> {
        let fail = |e: std::io::Error| BenchError::Peer(e.to_string());
        let rows = sample.values.len() / sample.cols;
        let weighted = u8::from(importance.is_some());
        let mut request = format!("{format} {rows} {} {weighted}\n", sample.cols).into_bytes();
        let values = sample.values.iter().chain(importance.unwrap_or_default());
        request.extend(values.flat_map(|v| v.to_le_bytes()));
        self.input.write_all(&request).map_err(fail)?;
        self.input.flush().map_err(fail)?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(fail)?;
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let (Ok(seconds), Ok(len)) = (word().parse(), word().parse()) else {
            return Err(BenchError::Peer(format!("it answered \"{line}\"")));
        };
        let mut bytes = vec![0; len];
        self.output.read_exact(&mut bytes).map_err(fail)?;
        Ok((len > 0).then_some((seconds, bytes)))
    }
}

impl Drop for Quantizer {
    fn drop(&mut self) {
        // It ends when its input does; whatever happens, it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
