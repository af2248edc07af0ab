//! Tensors by their GGUF name, whatever file they lie in.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use kinglet_container::Tensor;
use kinglet_container::gguf::Gguf;
use kinglet_kernels::Format;
use kinglet_kernels::blocks::decode_row;

use crate::error::{ModelError, Result};
use crate::linear::format_of;
use crate::packed::Packed;
use crate::tokenizer::Tokenizer;
use crate::{Config, directory, metadata};

/// A checkpoint that has been opened and checked, but not yet loaded: configuration, tokenizer and
/// tensors under their GGUF names.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file's or folder's name, for errors.
    pub name: String,
    /// Sizes and defaults.
    pub config: Config,
    /// The tokenizer as tokenizer.json.
    pub tokenizer: String,
    /// Tensors by GGUF name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Values that are not in the checkpoint and were taken from the release's scripts.
    pub defaults: Vec<String>,
    /// Which tensors lie in the order of one instruction set's kernels.
    pub packed: Option<Packed>,
}

/// What a tensor is, whether or not it is packed.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// The values' format.
    pub format: Format,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// Its bytes.
    pub bytes: &'a Bytes,
    /// The bytes are tiles in the order that [`Packed::layout`] names.
    pub packed: bool,
}

impl Source {
    /// Opens a GGUF file or an original BAGEL directory.
    ///
    /// # Errors
    /// [`ModelError`] if it is missing, damaged, or no model that this version runs.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            directory::open(path)
        } else {
            Self::from_gguf(Gguf::open(path)?)
        }
    }

    /// A GGUF file that is already in memory; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn from_bytes(bytes: Bytes, name: &str) -> Result<Self> {
        Self::from_gguf(Gguf::parse(bytes, name)?)
    }

    fn from_gguf(gguf: Gguf) -> Result<Self> {
        let config = metadata::read(&gguf)?;
        let tokenizer = gguf.require(metadata::TOKENIZER, "a string", |v| v.as_str())?;
        let tensors = gguf.tensors().iter().cloned().collect();
        Ok(Source {
            name: gguf.name().to_owned(),
            config,
            tokenizer: tokenizer.to_owned(),
            packed: Packed::read(&gguf, &tensors)?,
            tensors,
            defaults: Vec::new(),
        })
    }

    /// Builds the tokenizer and checks it against the vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_json(&self.tokenizer, self.config.language.vocabulary)
    }

    /// Reads every weight and names those that are no numbers, at most one for each tensor.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] if a tensor's bytes do not fit its shape, [`ModelError::Packed`].
    pub fn not_finite(&self) -> Result<Vec<ModelError>> {
        self.unpacked()?;
        let mut problems = Vec::new();
        for (name, tensor) in &self.tensors {
            let Some(format) = format_of(tensor.kind) else {
                continue;
            };
            let cols = tensor.shape.last().copied().unwrap_or(1);
            let mut values = vec![0.0; cols];
            let rows = tensor.bytes.chunks_exact(format.row_bytes(cols)?.max(1));
            for (row, bytes) in rows.enumerate() {
                decode_row(format, bytes, &mut values)?;
                if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                    problems.push(ModelError::NotFinite {
                        source_name: self.name.clone(),
                        tensor: name.clone(),
                        row,
                        value: *value,
                    });
                    break;
                }
            }
        }
        Ok(problems)
    }

    /// The tensor `name`, and what it is if it is packed.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::TensorType`].
    pub fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let tensor = self.tensor(name)?;
        let packed = self.packed.as_ref().and_then(|p| p.tensors.get(name));
        let (format, shape) = match packed {
            Some((format, shape)) => (*format, &shape[..]),
            None => {
                let format = format_of(tensor.kind).ok_or_else(|| ModelError::TensorType {
                    source_name: self.name.clone(),
                    tensor: name.to_owned(),
                    kind: tensor.kind.to_string(),
                })?;
                (format, &tensor.shape[..])
            }
        };
        Ok(Stored {
            format,
            shape,
            bytes: &tensor.bytes,
            packed: packed.is_some(),
        })
    }

    /// Refuses a packed container for what needs the weights in their own order.
    ///
    /// # Errors
    /// [`ModelError::Packed`].
    pub fn unpacked(&self) -> Result<&Self> {
        match &self.packed {
            None => Ok(self),
            Some(packed) => Err(ModelError::Packed {
                source_name: self.name.clone(),
                layout: packed.layout.clone(),
                here: "this needs the container that it was made of".to_owned(),
            }),
        }
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor {
                source_name: self.name.clone(),
                tensor: name.to_owned(),
            })
    }
}
