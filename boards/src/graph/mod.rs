//! Graphs that something else than Kinglet's own kernels runs.
//!
//! # Layout
//! - [`onnx`]: ONNX files, by tract on the cores: works everywhere, and shows that a graph is sound.
//! - [`rknn`]: RKNN files, by Rockchip's library on the NPU of an RK3588 and its kin.

#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(all(unix, target_pointer_width = "64"))]
pub mod rknn;

use std::path::Path;

use kinglet_kernels::{FixedGraph, GraphError};

/// The largest file of a graph, in bytes: protobuf's bound.
const LARGEST: u64 = 2 << 30;

/// Opens a graph: what its file's name ends with says what runs it.
///
/// # Errors
/// [`GraphError`] naming the file and what is wrong.
pub fn open(file: &Path) -> Result<Box<dyn FixedGraph>, GraphError> {
    let refuse =
        |reason: &dyn std::fmt::Display| GraphError(format!("{}: {reason}", file.display()));
    match file.extension().and_then(|e| e.to_str()) {
        #[cfg(feature = "onnx")]
        Some("onnx") => Ok(Box::new(
            onnx::OnnxGraph::open(&read(file)?).map_err(|e| refuse(&e))?,
        )),
        #[cfg(not(feature = "onnx"))]
        Some("onnx") => Err(refuse(&"this build runs no ONNX graphs (feature onnx)")),
        #[cfg(all(unix, target_pointer_width = "64"))]
        Some("rknn") => {
            let runtime = rknn::Runtime::find().map_err(|e| refuse(&e))?;
            Ok(Box::new(
                runtime.graph(&read(file)?).map_err(|e| refuse(&e))?,
            ))
        }
        _ => Err(refuse(&"a graph's name ends with .onnx or .rknn")),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, GraphError> {
    let refuse = |e: &dyn std::fmt::Display| GraphError(format!("{}: {e}", file.display()));
    let size = std::fs::metadata(file).map_err(|e| refuse(&e))?.len();
    if size > LARGEST {
        return Err(refuse(&format_args!(
            "{size} bytes; {LARGEST} are accepted"
        )));
    }
    std::fs::read(file).map_err(|e| refuse(&e))
}

/// The start of what a library says, on one line.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}
