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

use kinglet_model::{ModelError, Source};

use crate::compress::sha256;
use crate::error::Result;
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
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// The graph's name.
    pub graph: &'static str,
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
    let (model, messages) = describe(source, graph, &part, nodes.nodes);
    let exported = Exported {
        graph: graph.name(),
        nodes: messages.node.len(),
        bytes: write::write(source, (&model, &messages, &nodes.weights), out, progress)?,
        input: (part.input.name, part.input.shape),
        output: (part.output.name, part.output.shape),
        operator_set: OPERATOR_SET,
    };
    Ok(exported)
}

fn describe(
    source: &Source,
    graph: Graph,
    part: &Part,
    node: Vec<messages::Node>,
) -> (Model, messages::Graph) {
    let doc_string = format!(
        "{} of {}. Input {}, {:?}: {}. Output {}, {:?}: {}.",
        graph.name(),
        source.config.name,
        part.input.name,
        part.input.shape,
        part.input_meaning,
        part.output.name,
        part.output.shape,
        part.output_meaning,
    );
    let property = |key: &str, value: &str| Property {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let version = env!("CARGO_PKG_VERSION");
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: "kinglet".to_owned(),
        producer_version: version.to_owned(),
        doc_string: doc_string.clone(),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: OPERATOR_SET,
        }],
        metadata_props: vec![
            property("kinglet.version", version),
            property("kinglet.graph", graph.name()),
            property("kinglet.model", &source.config.name),
            property("kinglet.source.sha256", &sha256(source)),
            property("kinglet.input", &part.input_meaning),
            property("kinglet.output", &part.output_meaning),
        ],
    };
    let info = |v: &Value, meaning: &str| ValueInfo::floats(&v.name, &v.shape, meaning);
    let graph = messages::Graph {
        node,
        name: graph.name().to_owned(),
        doc_string,
        input: vec![info(&part.input, &part.input_meaning)],
        output: vec![info(&part.output, &part.output_meaning)],
    };
    (model, graph)
}

/// Refuses a size whose sides are no multiples of `stride`, or larger than the position table.
fn fits(size: Size, stride: usize, largest: usize) -> Result<()> {
    let fits = |side: usize| side > 0 && side <= largest && side.is_multiple_of(stride);
    if fits(size.0) && fits(size.1) {
        return Ok(());
    }
    let largest = largest / stride * stride;
    Err(ModelError::Request {
        what: "the size",
        got: format!("{}x{}", size.0, size.1),
        expected: format!("sides must be multiples of {stride} from {stride} to {largest}"),
    }
    .into())
}
