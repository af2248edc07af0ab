//! Weights on a device: loading them by name, checked against the configuration.

use std::cell::RefCell;
use std::collections::BTreeMap;

use kinglet_container::TensorType;
use kinglet_container::bytes_source::give_back;
use kinglet_kernels::{Device, Format, KernelError, Role, WeightData};

use crate::error::{ModelError, Result};
use crate::source::Source;

/// Takes weights from a source to a device.
pub struct Loader<'a, D: Device> {
    /// Where the weights go.
    pub device: &'a D,
    /// Where they come from.
    pub source: &'a Source,
    /// Collects what is wrong instead of stopping at the first; nothing that was loaded so may be
    /// used.
    pub audit: Option<&'a Audit>,
}

/// What is wrong with a checkpoint, tensor by tensor.
#[derive(Default)]
pub struct Audit {
    used: RefCell<BTreeMap<String, Role>>,
    problems: RefCell<Vec<ModelError>>,
}

impl Audit {
    /// All problems: tensors that are missing, have another shape or type, or are not expected.
    pub fn finish(self, source: &Source) -> Vec<ModelError> {
        let used = self.used.into_inner();
        let mut problems = self.problems.into_inner();
        for name in source
            .tensors
            .keys()
            .filter(|name| !used.contains_key(*name))
        {
            // Stored by the adapted code even where there is no shared expert.
            if name.contains(".ffn_gate_inp_shexp") {
                continue;
            }
            problems.push(ModelError::UnexpectedTensor {
                source_name: source.name.clone(),
                tensor: name.clone(),
            });
        }
        problems
    }

    /// What each tensor that was asked for is for.
    pub(crate) fn roles(self) -> BTreeMap<String, Role> {
        self.used.into_inner()
    }

    pub(crate) fn problem(&self, e: ModelError) {
        self.problems.borrow_mut().push(e);
    }
}

// By hand, since a derive would ask for a device that can be copied.
impl<D: Device> Clone for Loader<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for Loader<'_, D> {}

impl<D: Device> Loader<'_, D> {
    /// The tensor `name`, which must have this shape (outermost first), for this role.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::TensorShape`], [`ModelError::TensorType`], or
    /// what the device refuses.
    pub fn weight(&self, name: &str, shape: &[usize], role: Role) -> Result<D::Weight> {
        let Some(audit) = self.audit else {
            return self.checked(name, shape, role);
        };
        audit.used.borrow_mut().insert(name.to_owned(), role);
        self.checked(name, shape, role).or_else(|e| {
            audit.problem(e);
            Ok(self.device.weight(WeightData {
                role: Role::Matrix,
                format: Format::F32,
                rows: 0,
                cols: 1,
                bytes: bytes::Bytes::new(),
            })?)
        })
    }

    fn checked(&self, name: &str, shape: &[usize], role: Role) -> Result<D::Weight> {
        let stored = self.source.stored(name)?;
        if stored.shape != shape {
            return Err(self.wrong_shape(name, shape));
        }
        // A vector is one row; a convolution's kernel [out, in, h, w] is `out` rows.
        let (rows, cols) = match shape {
            [] => (1, 1),
            [len] => (1, *len),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        };
        let data = WeightData {
            role,
            format: stored.format,
            rows,
            cols,
            bytes: stored.bytes.clone(),
        };
        self.take(data, stored.packed)
    }

    /// Hands a weight to the device. If that made a copy in an order of its own, the pages that the
    /// stored bytes were read from are given back: no weight is in memory twice.
    fn take(&self, data: WeightData, packed: bool) -> Result<D::Weight> {
        let bytes = data.bytes.clone();
        let weight = if packed {
            self.device.packed_weight(data)?
        } else {
            self.device.weight(data)?
        };
        if !self.device.shares_bytes(&weight) {
            give_back(&bytes);
        }
        Ok(weight)
    }

    /// `name.weight` of `[outputs, inputs]` with `name.bias`.
    ///
    /// # Errors
    /// As [`Loader::weight`].
    pub fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear<D>> {
        Ok(Linear {
            bias: Some(self.weight(&format!("{name}.bias"), &[outputs], Role::Vector)?),
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
            weight: self.weight(&format!("{name}.weight"), &[outputs, inputs], Role::Matrix)?,
            bias: None,
        })
    }

    /// Whether the tensor `name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.source.tensors.contains_key(name)
    }

    /// The weights of `count` experts called `name`: one tensor `[experts, rows, cols]`, or one
    /// tensor for each, `name.E`. The inner width, which is `rows` or `cols` and given as 0, is what
    /// is stored.
    ///
    /// # Errors
    /// As [`Loader::weight`].
    pub fn experts(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Vec<D::Weight>> {
        let fill = |stored: &[usize]| match stored {
            [r, c] => [
                if rows == 0 { *r } else { rows },
                if cols == 0 { *c } else { cols },
            ],
            _ => [rows, cols],
        };
        let joined = format!("{name}.weight");
        if !self.has(&joined) {
            let one = |e| {
                let name = format!("{name}.{e}.weight");
                let shape = fill(self.source.stored(&name)?.shape);
                self.weight(&name, &shape, Role::Matrix)
            };
            return (0..count).map(one).collect();
        }
        if let Some(audit) = self.audit {
            let mut used = audit.used.borrow_mut();
            used.insert(joined.clone(), Role::Matrix);
        }
        let stored = self.source.stored(&joined)?;
        let [experts, inner @ ..] = stored.shape else {
            return Err(self.wrong_shape(&joined, &[count, rows, cols]));
        };
        let [r, c] = fill(inner);
        if stored.shape != [count, r, c] || *experts == 0 {
            return Err(self.wrong_shape(&joined, &[count, r, c]));
        }
        let len = stored.bytes.len() / count;
        let one = |e: usize| {
            let data = WeightData {
                role: Role::Matrix,
                format: stored.format,
                rows: r,
                cols: c,
                bytes: stored.bytes.slice(e * len..(e + 1) * len),
            };
            self.take(data, stored.packed)
        };
        (0..count).map(one).collect()
    }

    fn wrong_shape(&self, name: &str, expected: &[usize]) -> ModelError {
        let stored = self.source.stored(name);
        ModelError::TensorShape {
            source_name: self.source.name.clone(),
            tensor: name.to_owned(),
            got: stored.map(|t| t.shape.to_vec()).unwrap_or_default(),
            expected: expected.to_vec(),
        }
    }

    /// `name.weight` of `[len]`.
    ///
    /// # Errors
    /// As [`Loader::weight`].
    pub fn vector(&self, name: &str, len: usize) -> Result<D::Weight> {
        self.weight(&format!("{name}.weight"), &[len], Role::Vector)
    }

    /// `name.weight` and `name.bias` of `[len]`: what a layer norm or group norm has.
    ///
    /// # Errors
    /// As [`Loader::weight`].
    pub fn norm(&self, name: &str, len: usize) -> Result<Norm<D>> {
        Ok(Norm {
            weight: self.vector(name, len)?,
            bias: self.weight(&format!("{name}.bias"), &[len], Role::Vector)?,
        })
    }
}

/// The kernels' format of a stored element type.
pub fn format_of(kind: TensorType) -> Option<Format> {
    Format::ALL
        .iter()
        .copied()
        .find(|f| f.name() == kind.name())
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

    /// Several layers on the same rows.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn apply_all<const N: usize>(
        layers: [&Linear<D>; N],
        device: &D,
        x: &D::Buffer,
    ) -> Result<[D::Buffer; N]> {
        let weights = layers.map(|l| (&l.weight, l.bias.as_ref()));
        let made = device.matmuls(x, &weights)?;
        made.try_into().map_err(|made: Vec<D::Buffer>| {
            KernelError::Shape {
                operation: "matmuls",
                what: "the number of results",
                got: made.len(),
                expected: N,
            }
            .into()
        })
    }

    /// `silu(gate x) * up x`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn gated(gate: &Self, up: &Self, device: &D, x: &D::Buffer) -> Result<D::Buffer> {
        Ok(device.gated(x, &gate.weight, &up.weight)?)
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
        for format in Format::ALL.iter().copied() {
            assert!(
                TensorType::ALL
                    .iter()
                    .any(|k| format_of(*k) == Some(format))
            );
        }
    }
}
