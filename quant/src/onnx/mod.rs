//! Parts of a model as ONNX graphs, for accelerators whose converters take those: fixed shapes, plain
//! operators of operator set 13, weights in f32. The language half, whose cache grows, is none of them.
//!
//! # Layout
//! - `vision`, `vae_decoder`: the graphs, one file each.
//! - `nodes`: builds nodes, one method an operator; `layers`: what is built of several.
//! - `weights`: tensors of the source in a graph's order; `write`: the file, one weight at a time.
//! - `messages`: ONNX's protobuf messages.

mod layers;
mod messages;
mod nodes;
mod vae_decoder;
mod vision;
mod weights;
mod write;

use std::path::Path;
use std::str::FromStr;

use kinglet_model::picture::LONGEST_SIDE;
use kinglet_model::{ModelError, Source};
use serde::Serialize;

use crate::error::Result;
use crate::scan::scan;
use messages::{IR_VERSION, Model, OPERATOR_SET, OperatorSet, Property, ValueInfo};
use nodes::{Nodes, Value};

/// A part of a model that can be a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Graph {
    /// The vision encoder and the connector: a picture to rows of the language half.
    Vision,
    /// The autoencoder's decoder: latents to a picture.
    VaeDecoder,
}

impl Graph {
    /// All of them.
    pub const ALL: &'static [Graph] = &[Graph::Vision, Graph::VaeDecoder];

    /// What the command line calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Graph::Vision => "vision",
            Graph::VaeDecoder => "vae-decoder",
        }
    }

    /// The size of pictures if none is asked for.
    pub fn usual_size(self, source: &Source) -> Size {
        match self {
            Graph::Vision => vision::usual(source),
            Graph::VaeDecoder => vae_decoder::usual(source),
        }
    }
}

impl FromStr for Graph {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let named = Graph::ALL.iter().find(|g| g.name() == name);
        named.copied().ok_or_else(|| {
            let names: Vec<&str> = Graph::ALL.iter().map(|g| g.name()).collect();
            let names = names.join(" or ");
            format!("there is no graph \"{name}\"; {names} is expected")
        })
    }
}

/// Width and height of a picture in pixels.
pub type Size = (usize, usize);

/// A graph's input and output, and what they mean.
struct Part {
    input: Value,
    input_meaning: String,
    output: Value,
    output_meaning: String,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The graph's name.
    pub graph: String,
    /// Name and shape of the input.
    pub input: (String, Vec<usize>),
    /// Name and shape of the output.
    pub output: (String, Vec<usize>),
    /// Nodes.
    pub nodes: usize,
    /// Bytes of the file.
    pub bytes: usize,
    /// ONNX's operator set.
    pub operator_set: i64,
}

/// Writes a part of `source` for pictures of a size (left out: [`Graph::usual_size`]) to the file
/// `out`. The same source gives the same bytes. `progress` gets the bytes of weights that are written
/// and of all.
///
/// # Errors
/// [`ModelError::Request`] for a size that the model's tables or strides refuse, [`ModelError`] naming
/// a tensor that is missing, not expected, of another shape or no number,
/// [`crate::QuantError::Large`]; `out` is then as it was before.
pub fn export(
    source: &Source,
    graph: Graph,
    size: Option<Size>,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Exported> {
    source.unpacked()?;
    let size = size.unwrap_or_else(|| graph.usual_size(source));
    let mut nodes = Nodes::new(source);
    let part = match graph {
        Graph::Vision => vision::build(&mut nodes, size)?,
        Graph::VaeDecoder => vae_decoder::build(&mut nodes, size)?,
    };
    let about = About::new(source, graph, &part);
    let graph = messages::Graph {
        node: nodes.nodes,
        name: graph.name().to_owned(),
        doc_string: about.text.clone(),
        input: vec![info(&part.input, &part.input_meaning)],
        output: vec![info(&part.output, &part.output_meaning)],
    };
    // Found before the hash, which reads the whole source.
    write::check(&graph, write::graph_bytes(&graph, &nodes.weights))?;
    let model = about.model(&scan(source, &mut |_, _| {})?);
    let bytes = write::write(source, (&model, &graph, &nodes.weights), out, progress)?;
    Ok(Exported {
        graph: graph.name,
        nodes: graph.node.len(),
        bytes,
        input: (part.input.name, part.input.shape),
        output: (part.output.name, part.output.shape),
        operator_set: OPERATOR_SET,
    })
}

fn info(value: &Value, meaning: &str) -> ValueInfo {
    ValueInfo::floats(&value.name, &value.shape, meaning)
}

/// What a file says about itself.
struct About {
    text: String,
    properties: Vec<(&'static str, String)>,
}

impl About {
    fn new(source: &Source, graph: Graph, part: &Part) -> Self {
        let of = |v: &Value, meaning: &str| format!("{} {:?}: {meaning}", v.name, v.shape);
        let input = of(&part.input, &part.input_meaning);
        let output = of(&part.output, &part.output_meaning);
        let (what, model) = (graph.name(), &source.config.name);
        About {
            text: format!("{what} of {model}. Input {input}. Output {output}."),
            properties: vec![
                ("kinglet.graph", what.to_owned()),
                ("kinglet.model", model.clone()),
                ("kinglet.input", input),
                ("kinglet.output", output),
            ],
        }
    }

    /// The file without its graph.
    fn model(self, sha256: &str) -> Model {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let more = [
            ("kinglet.source.sha256", sha256.to_owned()),
            ("kinglet.version", version.clone()),
        ];
        let property = |(key, value): (&str, String)| Property {
            key: key.to_owned(),
            value,
        };
        let properties = self.properties.into_iter().chain(more);
        Model {
            ir_version: IR_VERSION,
            producer_name: "kinglet".to_owned(),
            producer_version: version,
            doc_string: self.text,
            opset_import: vec![OperatorSet {
                domain: String::new(),
                version: OPERATOR_SET,
            }],
            metadata_props: properties.map(property).collect(),
        }
    }
}

/// Refuses a size whose sides are no multiples of `stride`, or larger than a position table of
/// `table` places of `place` pixels a side.
fn fits(size: Size, stride: usize, place: usize, table: usize) -> Result<()> {
    let largest = place.saturating_mul(table).min(LONGEST_SIDE) / stride * stride;
    let fits = |side: usize| side > 0 && side <= largest && side.is_multiple_of(stride);
    if fits(size.0) && fits(size.1) {
        return Ok(());
    }
    Err(ModelError::Request {
        what: "the size",
        got: format!("{}x{}", size.0, size.1),
        expected: format!("sides must be multiples of {stride} from {stride} to {largest}"),
    }
    .into())
}
