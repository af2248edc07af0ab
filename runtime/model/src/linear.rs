//! Weights on a device: loading them by name, checked against the configuration.

use kinglet_container::TensorType;
use kinglet_kernels::{Device, Format, WeightData};

use crate::error::{ModelError, Result};
use crate::source::Source;

/// Takes weights from a source to a device.
pub struct Loader<'a, D: Device> {
    /// Where the weights go.
    pub device: &'a D,
    /// Where they come from.
    pub source: &'a Source,
}

// By hand, since a derive would ask for a device that can be copied.
impl<D: Device> Clone for Loader<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for Loader<'_, D> {}

impl<D: Device> Loader<'_, D> {
    /// The tensor `name`, which must have this shape (outermost first).
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::TensorShape`], [`ModelError::TensorType`], or
    /// what the device refuses.
    pub fn weight(&self, name: &str, shape: &[usize]) -> Result<D::Weight> {
        let tensor = self.source.tensor(name)?;
        if tensor.shape != shape {
            return Err(ModelError::TensorShape {
                source_name: self.source.name.clone(),
                tensor: name.to_owned(),
                got: tensor.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let format = format_of(tensor.kind).ok_or_else(|| ModelError::TensorType {
            source_name: self.source.name.clone(),
            tensor: name.to_owned(),
            kind: tensor.kind.to_string(),
        })?;
        // A vector is one row; a convolution's kernel [out, in, h, w] is `out` rows.
        let (rows, cols) = match shape {
            [] => (1, 1),
            [len] => (1, *len),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        };
        Ok(self.device.weight(WeightData {
            format,
            rows,
            cols,
            bytes: tensor.bytes.clone(),
        })?)
    }

    /// `name.weight` of `[outputs, inputs]` with `name.bias`.
    ///
    /// # Errors
    /// As [`Loader::weight`].
    pub fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear<D>> {
        Ok(Linear {
            bias: Some(self.weight(&format!("{name}.bias"), &[outputs])?),
            ..self.linear_without_bias(name, outputs, inputs)?
        })
    }

    /// `name.weight` of `[outputs, inputs]`.
    ///
    /// # Errors
    /// As [`Loader::weight`].
    pub fn linear_without_bias(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear<D>> {
        Ok(Linear {
            weight: self.weight(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: None,
        })
    }

    /// `name.weight` of `[len]`.
    ///
    /// # Errors
    /// As [`Loader::weight`].
    pub fn vector(&self, name: &str, len: usize) -> Result<D::Weight> {
        self.weight(&format!("{name}.weight"), &[len])
    }

    /// `name.weight` and `name.bias` of `[len]`: what a layer norm or group norm has.
    ///
    /// # Errors
    /// As [`Loader::weight`].
    pub fn norm(&self, name: &str, len: usize) -> Result<Norm<D>> {
        Ok(Norm {
            weight: self.vector(name, len)?,
            bias: self.weight(&format!("{name}.bias"), &[len])?,
        })
    }
}

/// The kernels' format of a stored element type.
pub fn format_of(kind: TensorType) -> Option<Format> {
    Format::ALL.into_iter().find(|f| f.name() == kind.name())
}

/// A linear layer.
pub struct Linear<D: Device> {
    weight: D::Weight,
    bias: Option<D::Weight>,
}

impl<D: Device> Linear<D> {
    /// `x W^T + b`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn apply(&self, device: &D, x: &D::Buffer) -> Result<D::Buffer> {
        Ok(device.matmul(x, &self.weight, self.bias.as_ref())?)
    }
}

/// Weight and bias of a norm.
pub struct Norm<D: Device> {
    /// Multiplies.
    pub weight: D::Weight,
    /// Is added.
    pub bias: D::Weight,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_and_containers_agree_on_every_block() {
        for kind in TensorType::ALL {
            if let Some(format) = format_of(*kind) {
                assert_eq!(format.block_values(), kind.block_values());
                assert_eq!(format.block_bytes(), kind.block_bytes());
            }
        }
        for format in Format::ALL {
            assert!(
                TensorType::ALL
                    .iter()
                    .any(|k| format_of(*k) == Some(format))
            );
        }
    }
}
