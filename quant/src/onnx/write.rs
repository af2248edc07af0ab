//! A model's file, one weight at a time: weights are repeated fields of the graph, and everything's
//! length is known before the first byte is written.

use std::io::Write;
use std::path::Path;

use kinglet_container::ContainerError;
use kinglet_container::atomic::AtomicFile;
use kinglet_model::Source;
use prost::{Message, encode_length_delimiter, length_delimiter_len};

use super::messages::{Graph, Model};
use super::weights::Weight;
use crate::error::{QuantError, Result};

/// The most bytes of a protobuf message, so of an ONNX file.
const MOST_BYTES: usize = (1 << 31) - 1;

/// The keys of fields that hold bytes: the field's number, and 2.
const GRAPH: u8 = 7 << 3 | 2;
const INITIALIZER: u8 = 5 << 3 | 2;
const RAW_DATA: u8 = 9 << 3 | 2;

/// The bytes of a field with this content.
fn field(content: usize) -> usize {
    1 + length_delimiter_len(content) + content
}

fn initializer(weight: &Weight) -> usize {
    weight.head().encoded_len() + field(weight.bytes())
}

/// The bytes of the graph alone.
pub(super) fn graph_bytes(graph: &Graph, weights: &[Weight]) -> usize {
    let weights = weights.iter().map(|w| field(initializer(w)));
    graph.encoded_len() + weights.sum::<usize>()
}

/// Refuses a graph that takes so many bytes, if no file can hold them.
///
/// # Errors
/// [`QuantError::Large`].
pub(super) fn check(graph: &Graph, bytes: usize) -> Result<()> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(QuantError::Large {
        graph: graph.name.clone(),
        bytes,
        most: MOST_BYTES,
    })
}

/// Writes a file. Returns its bytes; `progress` gets those of the weights that are done, and of all.
///
/// # Errors
/// [`QuantError::Large`] before anything is written; [`ContainerError::Io`], and what
/// [`Weight::values`] refuses. `out` is then as it was before.
pub(super) fn write(
    source: &Source,
    (model, graph, weights): (&Model, &Graph, &[Weight]),
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<usize> {
    let graph_bytes = graph_bytes(graph, weights);
    let total = model.encoded_len() + field(graph_bytes);
    check(graph, total)?;
    let mut file = Out {
        file: AtomicFile::create(out)?,
        path: out,
    };
    file.bytes(&model.encode_to_vec())?;
    file.head(GRAPH, graph_bytes)?;
    file.bytes(&graph.encode_to_vec())?;
    let all = weights.iter().map(Weight::bytes).sum();
    let mut done = 0;
    for weight in weights {
        file.head(INITIALIZER, initializer(weight))?;
        file.bytes(&weight.head().encode_to_vec())?;
        file.head(RAW_DATA, weight.bytes())?;
        file.bytes(&weight.values(source)?)?;
        done += weight.bytes();
        progress(done, all);
    }
    file.file.commit()?;
    Ok(total)
}

struct Out<'a> {
    file: AtomicFile,
    path: &'a Path,
}

impl Out<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| {
            ContainerError::Io {
                path: self.path.to_owned(),
                source,
            }
            .into()
        })
    }

    /// Key and length of a field.
    fn head(&mut self, key: u8, len: usize) -> Result<()> {
        let mut head = vec![key];
        // Room is made for it, so it cannot fail; but a short field would be a broken file.
        encode_length_delimiter(len, &mut head).map_err(|e| QuantError::Output {
            path: self.path.display().to_string(),
            reason: e.to_string(),
        })?;
        self.bytes(&head)
    }
}

#[cfg(test)]
mod tests {
    // Helpers of tests are tests too.
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::onnx::weights::Content;

    /// A graph of one weight of so many values, which are not there.
    fn refused(values: usize, out: &Path) -> String {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoint");
        let source = Source::open(&source).unwrap();
        let weight = Weight {
            name: "all".to_owned(),
            shape: vec![values],
            content: Content::Stored {
                tensor: "nowhere".to_owned(),
                order: crate::onnx::weights::Order::Same,
            },
        };
        let parts = (&Model::default(), &Graph::default(), &[weight][..]);
        let e = write(&source, parts, out, &mut |_, _| {}).unwrap_err();
        e.to_string()
    }

    #[test]
    fn a_graph_that_no_file_can_hold_is_refused_before_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("graph.onnx");
        // Name and shape of the weight, and the lengths of three messages.
        let around = 31;
        let most = (MOST_BYTES - around) / 4;
        let text = refused(most + 1, &out);
        assert!(text.contains("at most 2147483647"), "{text}");
        // The next smaller one would be written, if its values were there.
        let text = refused(most, &out);
        assert!(text.contains("\"nowhere\" is missing"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
