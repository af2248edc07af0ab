//! The weights and constants of a graph: where they come from, and in what order they are written.

use kinglet_container::bytes_source::give_back;
use kinglet_kernels::blocks::decode_row;
use kinglet_model::{ModelError, Source};

use super::messages::{FLOAT, INT64, TensorHead};
use crate::error::Result;

/// A tensor that a graph carries.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weight {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) content: Content,
}

/// The values of a [`Weight`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
    /// A tensor of the source, decoded when it is written.
    Stored {
        tensor: String,
        order: Order,
    },
}

/// How the values of a stored tensor are laid out in the graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Order {
    /// As they are.
    Same,
    /// `[out, in]` to `[in, out]`: what is multiplied from the right.
    Transposed,
    /// A linear layer on patches, `[out, (row, column, channel)]`, to a convolution's kernel
    /// `[out, channel, row, column]`.
    Kernel { channels: usize },
    /// These rows.
    Rows(Vec<u32>),
}

impl Weight {
    /// The tensor as a message, but for its values.
    pub(super) fn head(&self) -> TensorHead {
        TensorHead {
            dims: self.shape.iter().map(|s| *s as i64).collect(),
            data_type: match self.content {
                Content::Integers(_) => INT64,
                _ => FLOAT,
            },
            name: self.name.clone(),
        }
    }

    /// Bytes of the values.
    pub(super) fn bytes(&self) -> usize {
        let each = match self.content {
            Content::Integers(_) => 8,
            _ => 4,
        };
        each * self.shape.iter().product::<usize>()
    }

    /// The values, little-endian.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`], or what decoding refuses.
    pub(super) fn values(&self, source: &Source) -> Result<Vec<u8>> {
        let floats = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(match &self.content {
            Content::Floats(values) => floats(values),
            Content::Integers(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Content::Stored { tensor, order } => floats(&stored(source, tensor, order)?),
        })
    }
}

/// A tensor of the source in another order.
fn stored(source: &Source, name: &str, order: &Order) -> Result<Vec<f32>> {
    let stored = source.stored(name)?;
    let (rows, cols) = match stored.shape {
        [] => (1, 1),
        [len] => (1, *len),
        [rows, rest @ ..] => (*rows, rest.iter().product()),
    };
    let len = stored.format.row_bytes(cols)?;
    let decode = |row: usize, out: &mut [f32]| -> Result<()> {
        let bytes = stored.bytes.get(row * len..(row + 1) * len);
        decode_row(stored.format, bytes.unwrap_or_default(), out)?;
        match out.iter().find(|v| !v.is_finite()) {
            None => Ok(()),
            Some(value) => Err(ModelError::NotFinite {
                source_name: source.name.clone(),
                tensor: name.to_owned(),
                row,
                value: *value,
            }
            .into()),
        }
    };
    let wanted: Vec<usize> = match order {
        Order::Rows(rows) => rows.iter().map(|r| *r as usize).collect(),
        _ => (0..rows).collect(),
    };
    let mut out = vec![0.0; wanted.len() * cols];
    let mut values = vec![0.0; cols];
    for (i, row) in wanted.into_iter().enumerate() {
        decode(row, &mut values)?;
        let at = |j: usize| match order {
            Order::Same | Order::Rows(_) => i * cols + j,
            Order::Transposed => j * rows + i,
            Order::Kernel { channels } => {
                i * cols + j % channels * (cols / channels) + j / channels
            }
        };
        for (j, value) in values.iter().enumerate() {
            out[at(j)] = *value;
        }
    }
    give_back(stored.bytes);
    Ok(out)
}
