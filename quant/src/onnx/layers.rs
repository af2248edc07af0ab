//! Layers that both graphs, or many parts of one, are built of. Formulas: docs/model.md, 3.5 and 3.12.

use kinglet_model::ModelError;

use super::messages::Attribute;
use super::nodes::{Nodes, Value};
use super::weights::Order;
use crate::error::Result;

/// Epsilon of the autoencoder's group norms.
const EPSILON: f32 = 1e-6;

impl Nodes<'_> {
    /// `x W^T + b` with `name.weight` of `[outputs, inputs]` and `name.bias`.
    pub(super) fn linear(&mut self, name: &str, x: &Value, outputs: usize) -> Result<Value> {
        let inputs = x.shape.last().copied().unwrap_or(1);
        let tensor = format!("{name}.weight");
        self.check(&tensor, &[outputs, inputs])?;
        let weight = self.stored(&tensor, Order::Transposed, &[inputs, outputs]);
        let bias = self.vector(&format!("{name}.bias"), &[outputs])?;
        let product = self.matmul(&format!("{name}.product"), x, &weight);
        Ok(self.add(name, &product, &bias))
    }

    /// Layer norm over the last dimension with `name.weight` and `name.bias`, in plain operators.
    pub(super) fn layer_norm(&mut self, name: &str, x: &Value, epsilon: f32) -> Result<Value> {
        let width = x.shape.last().copied().unwrap_or(1);
        let weight = self.vector(&format!("{name}.weight"), &[width])?;
        let bias = self.vector(&format!("{name}.bias"), &[width])?;
        let part = |part: &str| format!("{name}.{part}");
        let mean = self.mean(&part("mean"), x);
        let apart = self.binary("Sub", &part("apart"), x, &mean);
        let squares = self.mul(&part("squares"), &apart, &apart);
        let variance = self.mean(&part("variance"), &squares);
        let epsilon = self.number(epsilon);
        let variance = self.add(&part("variance_epsilon"), &variance, &epsilon);
        let deviation = self.unary("Sqrt", &part("deviation"), &variance);
        let norm = self.binary("Div", &part("norm"), &apart, &deviation);
        let scaled = self.mul(&part("scaled"), &norm, &weight);
        Ok(self.add(name, &scaled, &bias))
    }

    /// GELU by its tanh approximation: `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    pub(super) fn gelu_tanh(&mut self, name: &str, x: &Value) -> Value {
        let part = |part: &str| format!("{name}.gelu_{part}");
        let cube = self.number(0.044_715);
        let slope = self.number(std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2);
        let (half, one) = (self.number(0.5), self.number(1.0));
        let square = self.mul(&part("square"), x, x);
        let third = self.mul(&part("third"), &square, x);
        let third = self.mul(&part("third_scaled"), &third, &cube);
        let inner = self.add(&part("inner"), x, &third);
        let inner = self.mul(&part("inner_scaled"), &inner, &slope);
        let tanh = self.unary("Tanh", &part("tanh"), &inner);
        let gate = self.add(&part("gate"), &tanh, &one);
        let product = self.mul(&part("product"), x, &gate);
        self.mul(&format!("{name}.gelu"), &product, &half)
    }

    /// Softmax attention of `q` over `k` and `v`. `q` and `v` are `[1, heads, n, length]`, `k` is
    /// `[1, heads, length, n]`.
    pub(super) fn attention(&mut self, name: &str, q: &Value, k: &Value, v: &Value) -> Value {
        let length = q.shape.last().copied().unwrap_or(1);
        let scale = self.number(1.0 / (length as f32).sqrt());
        // Fewer products than scaling the scores.
        let q = self.mul(&format!("{name}.q_scaled"), q, &scale);
        let scores = self.matmul(&format!("{name}.scores"), &q, k);
        let shares = self.softmax(&format!("{name}.shares"), &scores);
        self.matmul(&format!("{name}.mixed"), &shares, v)
    }

    /// A convolution that keeps the picture's size, with `name.weight` of
    /// `[outputs, inputs, side, side]` and `name.bias`. The number of outputs is what is stored.
    pub(super) fn conv(&mut self, name: &str, x: &Value, side: usize) -> Result<Value> {
        let tensor = format!("{name}.weight");
        let stored = self.source.stored(&tensor)?.shape;
        let outputs = stored.first().copied().unwrap_or(0);
        let shape = [outputs, x.shape[1], side, side];
        self.check(&tensor, &shape)?;
        let weight = self.stored(&tensor, Order::Same, &shape);
        self.convolve(name, x, &weight, (1, side / 2))
    }

    /// A convolution with a kernel at hand and `name.bias`, by stride and padding on all sides.
    pub(super) fn convolve(
        &mut self,
        name: &str,
        x: &Value,
        weight: &Value,
        (stride, padding): (usize, usize),
    ) -> Result<Value> {
        let (outputs, side) = (weight.shape[0], weight.shape[2]);
        let bias = self.vector(&format!("{name}.bias"), &[outputs])?;
        let output = |size: usize| (size + 2 * padding - side) / stride + 1;
        let shape = [1, outputs, output(x.shape[2]), output(x.shape[3])];
        let attributes = vec![
            Attribute::ints("dilations", &[1, 1]),
            Attribute::int("group", 1),
            Attribute::ints("kernel_shape", &[side, side]),
            Attribute::ints("pads", &[padding; 4]),
            Attribute::ints("strides", &[stride; 2]),
        ];
        Ok(self.node("Conv", name, &[x, weight, &bias], attributes, &shape))
    }

    /// Group norm of a picture with `name.weight` and `name.bias`: an instance norm whose channels
    /// are the groups.
    pub(super) fn group_norm(&mut self, name: &str, x: &Value, groups: usize) -> Result<Value> {
        let channels = x.shape[1];
        if !channels.is_multiple_of(groups) {
            return Err(ModelError::Config {
                source_name: self.source.name.clone(),
                field: "groups of the autoencoder's norms".to_owned(),
                value: groups.to_string(),
                expected: format!("they must divide the {channels} channels of {name}"),
            }
            .into());
        }
        let weight = self.vector(&format!("{name}.weight"), &[1, channels, 1, 1])?;
        let bias = self.vector(&format!("{name}.bias"), &[1, channels, 1, 1])?;
        let part = |part: &str| format!("{name}.{part}");
        let rest = x.shape.iter().product::<usize>() / groups;
        let grouped = self.reshape(&part("groups"), x, &[1, groups, rest]);
        let (ones, zeros) = (self.filled(1.0, groups), self.filled(0.0, groups));
        let epsilon = vec![Attribute::float("epsilon", EPSILON)];
        let inputs = [&grouped, &ones, &zeros];
        let shape = grouped.shape.clone();
        let norm = self.node(
            "InstanceNormalization",
            &part("norm"),
            &inputs,
            epsilon,
            &shape,
        );
        let norm = self.reshape(&part("channels"), &norm, &x.shape);
        let scaled = self.mul(&part("scaled"), &norm, &weight);
        Ok(self.add(name, &scaled, &bias))
    }

    /// `x * sigmoid(x)`.
    pub(super) fn swish(&mut self, name: &str, x: &Value) -> Value {
        let gate = self.unary("Sigmoid", &format!("{name}.sigmoid"), x);
        self.mul(&format!("{name}.swish"), x, &gate)
    }

    /// Every pixel twice in both directions.
    pub(super) fn upsample(&mut self, name: &str, x: &Value) -> Value {
        let scales = self.constant(&[1.0, 1.0, 2.0, 2.0]);
        // An input that is left out has no name.
        let region = Value {
            name: String::new(),
            shape: Vec::new(),
        };
        let attributes = vec![
            Attribute::text("coordinate_transformation_mode", "asymmetric"),
            Attribute::text("mode", "nearest"),
            Attribute::text("nearest_mode", "floor"),
        ];
        let shape = [1, x.shape[1], 2 * x.shape[2], 2 * x.shape[3]];
        self.node("Resize", name, &[x, &region, &scales], attributes, &shape)
    }
}
