//! safetensors files: reading and writing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors as Parsed, View, serialize_to_file};

use crate::bytes_source;
use crate::error::{ContainerError, Refusal, Result};
use crate::{Tensor, TensorType};

/// A safetensors file: tensors by name. The `safetensors` crate checks the header (its length is
/// capped at 100 MB, offsets must be in order, without holes and inside the file).
#[derive(Debug, Clone)]
pub struct SafeTensors {
    name: String,
    tensors: BTreeMap<String, Tensor>,
}

impl SafeTensors {
    /// Maps and checks a file.
    ///
    /// # Errors
    /// [`ContainerError`] if it cannot be read or is not sound.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(bytes_source::map(path)?, &path.display().to_string())
    }

    /// Checks bytes that are called `name` in errors.
    ///
    /// # Errors
    /// [`ContainerError::Refused`] if they are not sound.
    pub fn parse(bytes: Bytes, name: &str) -> Result<Self> {
        let refuse = |refusal| ContainerError::Refused {
            name: name.to_owned(),
            refusal,
        };
        let parsed =
            Parsed::deserialize(&bytes).map_err(|e| refuse(Refusal::SafeTensors(e.to_string())))?;
        let mut tensors = BTreeMap::new();
        for (tensor, view) in parsed.iter() {
            let kind = kind_of(view.dtype()).ok_or_else(|| {
                refuse(Refusal::UnknownTensorType {
                    tensor: tensor.to_owned(),
                    id: format!("{:?}", view.dtype()),
                })
            })?;
            tensors.insert(
                tensor.to_owned(),
                Tensor {
                    kind,
                    shape: view.shape().to_vec(),
                    bytes: bytes.slice_ref(view.data()),
                },
            );
        }
        Ok(SafeTensors {
            name: name.to_owned(),
            tensors,
        })
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`Refusal::MissingTensor`].
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .ok_or_else(|| ContainerError::Refused {
                name: self.name.clone(),
                refusal: Refusal::MissingTensor(name.to_owned()),
            })
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, t)| (name.as_str(), t))
    }
}

/// A tensor to be written, whose bytes are there or are made when they are due.
pub struct Lazy {
    dtype: Dtype,
    shape: Vec<usize>,
    content: Content,
}

enum Content {
    Stored(Bytes),
    Made(Box<dyn Fn() -> Vec<u8>>),
}

impl Lazy {
    /// A tensor as it is stored; none if safetensors has no such type.
    pub fn stored(tensor: Tensor) -> Option<Self> {
        Some(Lazy {
            dtype: dtype_of(tensor.kind)?,
            shape: tensor.shape,
            content: Content::Stored(tensor.bytes),
        })
    }

    /// A tensor of f32, little-endian, that `make` gives.
    pub fn f32(shape: Vec<usize>, make: impl Fn() -> Vec<u8> + 'static) -> Self {
        Lazy {
            dtype: Dtype::F32,
            shape,
            content: Content::Made(Box::new(make)),
        }
    }
}

impl View for Lazy {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.content {
            Content::Stored(bytes) => Cow::Borrowed(bytes),
            Content::Made(make) => Cow::Owned(make()),
        }
    }

    fn data_len(&self) -> usize {
        match &self.content {
            Content::Stored(bytes) => bytes.len(),
            Content::Made(_) => self.shape.iter().product::<usize>() * size_of::<f32>(),
        }
    }
}

/// Writes a safetensors file, one tensor in memory at a time, to the disk.
///
/// # Errors
/// [`ContainerError::Io`] if it cannot be written.
pub fn write(path: &Path, tensors: Vec<(String, Lazy)>) -> Result<()> {
    let refuse = |source| ContainerError::Io {
        path: path.to_owned(),
        source,
    };
    serialize_to_file(tensors, None, path).map_err(|e| match e {
        SafeTensorError::IoError(e) => refuse(e),
        e => refuse(std::io::Error::other(e)),
    })?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(refuse)
}

fn dtype_of(kind: TensorType) -> Option<Dtype> {
    Some(match kind {
        TensorType::F32 => Dtype::F32,
        TensorType::F16 => Dtype::F16,
        TensorType::BF16 => Dtype::BF16,
        _ => return None,
    })
}

/// U8 has no ggml type of its own; its bytes are passed on as I8.
fn kind_of(dtype: Dtype) -> Option<TensorType> {
    Some(match dtype {
        Dtype::F32 => TensorType::F32,
        Dtype::F16 => TensorType::F16,
        Dtype::BF16 => TensorType::BF16,
        Dtype::F64 => TensorType::F64,
        Dtype::I8 | Dtype::U8 => TensorType::I8,
        Dtype::I16 => TensorType::I16,
        Dtype::I32 => TensorType::I32,
        Dtype::I64 => TensorType::I64,
        _ => return None,
    })
}
