//! The part of ONNX's protobuf messages that the graphs here need, by the field numbers of `onnx.proto`
//! (version 7 of the format, operator set 13).

use prost::Message;

/// The version of the file format.
pub(super) const IR_VERSION: i64 = 7;
/// The version of the operators. Later ones have nothing that is needed here, and not every board's
/// converter takes them.
pub(super) const OPERATOR_SET: i64 = 13;

/// Element types of tensors.
pub(super) const FLOAT: i32 = 1;
pub(super) const INT64: i32 = 7;

/// A file. Its graph is written by [`super::write`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(int64, tag = "1")]
    pub(super) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(super) producer_name: String,
    #[prost(string, tag = "3")]
    pub(super) producer_version: String,
    #[prost(string, tag = "6")]
    pub(super) doc_string: String,
    #[prost(message, repeated, tag = "8")]
    pub(super) opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    pub(super) metadata_props: Vec<Property>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorSet {
    /// Empty: ONNX's own.
    #[prost(string, tag = "1")]
    pub(super) domain: String,
    #[prost(int64, tag = "2")]
    pub(super) version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Property {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// A graph without its weights.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "10")]
    pub(super) doc_string: String,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(float, optional, tag = "2")]
    pub(super) f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub(super) i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub(super) s: Option<Vec<u8>>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(super) ints: Vec<i64>,
    /// Which of the others is meant: 1 is `f`, 2 `i`, 3 `s`, 7 `ints`.
    #[prost(int32, tag = "20")]
    pub(super) kind: i32,
}

impl Attribute {
    pub(super) fn float(name: &str, value: f32) -> Self {
        Attribute {
            name: name.to_owned(),
            f: Some(value),
            kind: 1,
            ..Attribute::default()
        }
    }

    pub(super) fn int(name: &str, value: usize) -> Self {
        Attribute {
            name: name.to_owned(),
            i: Some(value as i64),
            kind: 2,
            ..Attribute::default()
        }
    }

    pub(super) fn text(name: &str, value: &str) -> Self {
        Attribute {
            name: name.to_owned(),
            s: Some(value.into()),
            kind: 3,
            ..Attribute::default()
        }
    }

    pub(super) fn ints(name: &str, values: &[usize]) -> Self {
        Attribute {
            name: name.to_owned(),
            ints: values.iter().map(|v| *v as i64).collect(),
            kind: 7,
            ..Attribute::default()
        }
    }
}

/// A tensor without its values.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorHead {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(string, tag = "8")]
    pub(super) name: String,
}

/// A graph's input or output.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) kind: Option<Kind>,
    #[prost(string, tag = "3")]
    pub(super) doc_string: String,
}

impl ValueInfo {
    /// Floats of a fixed shape.
    pub(super) fn floats(name: &str, shape: &[usize], meaning: &str) -> Self {
        let dim = |size: &usize| Dimension {
            dim_value: *size as i64,
        };
        ValueInfo {
            name: name.to_owned(),
            kind: Some(Kind {
                tensor_type: Some(TensorKind {
                    elem_type: FLOAT,
                    shape: Some(Shape {
                        dim: shape.iter().map(dim).collect(),
                    }),
                }),
            }),
            doc_string: meaning.to_owned(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Kind {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor_type: Option<TensorKind>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorKind {
    #[prost(int32, tag = "1")]
    pub(super) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(int64, tag = "1")]
    pub(super) dim_value: i64,
}
