//! Builds the nodes of a graph: one method an operator, or a few that belong together. Every value has
//! a fixed shape.

use std::collections::BTreeSet;

use kinglet_model::{ModelError, Source};

use super::messages::{Attribute, Node};
use super::weights::{Content, Order, Weight};
use crate::error::Result;

/// The result of a node, an input or a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// A graph that grows. A value's name begins with that of the weights that made it.
pub(super) struct Nodes<'a> {
    pub(super) source: &'a Source,
    pub(super) nodes: Vec<Node>,
    pub(super) weights: Vec<Weight>,
    known: BTreeSet<String>,
}

impl<'a> Nodes<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Nodes {
            source,
            nodes: Vec::new(),
            weights: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    /// The name of the last value becomes `name`, that of the graph's output.
    pub(super) fn finish(&mut self, last: Value, name: &str) -> Value {
        for node in &mut self.nodes {
            for output in node.output.iter_mut().filter(|o| **o == last.name) {
                name.clone_into(output);
            }
        }
        Value {
            name: name.to_owned(),
            ..last
        }
    }

    /// Refuses a source that has tensors of this kind which the graph does not use: it would not be
    /// the model that they belong to.
    ///
    /// # Errors
    /// [`ModelError::UnexpectedTensor`].
    pub(super) fn used_all(&self, prefixes: &[&str]) -> Result<()> {
        let used: BTreeSet<&str> = self.weights.iter().filter_map(Weight::tensor).collect();
        let all = self.source.tensors.keys().map(String::as_str);
        let mut unused = all.filter(|t| prefixes.iter().any(|p| t.starts_with(p)));
        match unused.find(|t| !used.contains(t)) {
            None => Ok(()),
            Some(tensor) => Err(ModelError::UnexpectedTensor {
                source_name: self.source.name.clone(),
                tensor: tensor.to_owned(),
            }
            .into()),
        }
    }

    fn weight(&mut self, name: String, shape: &[usize], content: Content) -> Value {
        if self.known.insert(name.clone()) {
            self.weights.push(Weight {
                name: name.clone(),
                shape: shape.to_vec(),
                content,
            });
        }
        Value {
            name,
            shape: shape.to_vec(),
        }
    }

    /// Checks that the source has this tensor, and in this shape.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor.
    pub(super) fn check(&self, tensor: &str, expected: &[usize]) -> Result<()> {
        let stored = self.source.stored(tensor)?;
        if stored.shape == expected {
            return Ok(());
        }
        Err(ModelError::TensorShape {
            source_name: self.source.name.clone(),
            tensor: tensor.to_owned(),
            got: stored.shape.to_vec(),
            expected: expected.to_vec(),
        }
        .into())
    }

    /// A tensor that has been checked, in an order that makes it `shape`.
    pub(super) fn stored(&mut self, tensor: &str, order: Order, shape: &[usize]) -> Value {
        let tensor = tensor.to_owned();
        self.weight(tensor.clone(), shape, Content::Stored { tensor, order })
    }

    /// A vector that is stored, as `shape` for what it is added to or multiplied with.
    ///
    /// # Errors
    /// As [`Nodes::check`].
    pub(super) fn vector(&mut self, tensor: &str, shape: &[usize]) -> Result<Value> {
        self.check(tensor, &[shape.iter().product()])?;
        Ok(self.stored(tensor, Order::Same, shape))
    }

    /// One number.
    pub(super) fn number(&mut self, value: f32) -> Value {
        self.constant(&[value])
    }

    /// Some numbers, in one dimension. The same ones are there once.
    pub(super) fn constant(&mut self, values: &[f32]) -> Value {
        let name = format!("const.{}", joined(values));
        self.weight(name, &[values.len()], Content::Floats(values.to_vec()))
    }

    /// The same number `len` times.
    pub(super) fn filled(&mut self, value: f32, len: usize) -> Value {
        let name = format!("const.{value}.times.{len}");
        self.weight(name, &[len], Content::Floats(vec![value; len]))
    }

    pub(super) fn node(
        &mut self,
        kind: &str,
        name: &str,
        inputs: &[&Value],
        attribute: Vec<Attribute>,
        shape: &[usize],
    ) -> Value {
        self.nodes.push(Node {
            input: inputs.iter().map(|v| v.name.clone()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: kind.to_owned(),
            attribute,
        });
        Value {
            name: name.to_owned(),
            shape: shape.to_vec(),
        }
    }

    /// An operator of one input that keeps its shape.
    pub(super) fn unary(&mut self, kind: &str, name: &str, x: &Value) -> Value {
        self.node(kind, name, &[x], Vec::new(), &x.shape)
    }

    /// An operator of two inputs; `y` is of `x`'s shape, or is repeated to fit it.
    pub(super) fn binary(&mut self, kind: &str, name: &str, x: &Value, y: &Value) -> Value {
        self.node(kind, name, &[x, y], Vec::new(), &x.shape)
    }

    pub(super) fn add(&mut self, name: &str, x: &Value, y: &Value) -> Value {
        self.binary("Add", name, x, y)
    }

    pub(super) fn mul(&mut self, name: &str, x: &Value, y: &Value) -> Value {
        self.binary("Mul", name, x, y)
    }

    pub(super) fn reshape(&mut self, name: &str, x: &Value, shape: &[usize]) -> Value {
        let sizes: Vec<i64> = shape.iter().map(|s| *s as i64).collect();
        let to = format!("shape.{}", joined(shape));
        let to = self.weight(to, &[shape.len()], Content::Integers(sizes));
        self.node("Reshape", name, &[x, &to], Vec::new(), shape)
    }

    pub(super) fn transpose(&mut self, name: &str, x: &Value, axes: &[usize]) -> Value {
        let shape: Vec<usize> = axes.iter().map(|a| x.shape[*a]).collect();
        let axes = vec![Attribute::ints("perm", axes)];
        self.node("Transpose", name, &[x], axes, &shape)
    }

    /// The product of the last two dimensions.
    pub(super) fn matmul(&mut self, name: &str, x: &Value, y: &Value) -> Value {
        let mut shape = x.shape.clone();
        if let (Some(last), Some(columns)) = (shape.last_mut(), y.shape.last()) {
            *last = *columns;
        }
        self.node("MatMul", name, &[x, y], Vec::new(), &shape)
    }

    /// Softmax over the last dimension.
    pub(super) fn softmax(&mut self, name: &str, x: &Value) -> Value {
        let axis = vec![Attribute::int("axis", x.shape.len() - 1)];
        self.node("Softmax", name, &[x], axis, &x.shape)
    }

    /// The mean over the last dimension, which stays, of size 1.
    pub(super) fn mean(&mut self, name: &str, x: &Value) -> Value {
        let last = x.shape.len() - 1;
        let mut shape = x.shape.clone();
        shape[last] = 1;
        let attributes = vec![
            Attribute::ints("axes", &[last]),
            Attribute::int("keepdims", 1),
        ];
        self.node("ReduceMean", name, &[x], attributes, &shape)
    }
}

/// For names.
fn joined(values: &[impl ToString]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join("_")
}

impl Weight {
    /// The source's tensor that it is made of.
    fn tensor(&self) -> Option<&str> {
        match &self.content {
            Content::Stored { tensor, .. } => Some(tensor),
            _ => None,
        }
    }
}
