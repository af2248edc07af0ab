//! Tensors by their GGUF name, whatever file they lie in.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use kinglet_container::Tensor;
use kinglet_container::gguf::Gguf;
use kinglet_kernels::blocks::decode_row;

use crate::error::{ModelError, Result};
use crate::linear::format_of;
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
        Ok(Source {
            name: gguf.name().to_owned(),
            config,
            tokenizer: tokenizer.to_owned(),
            tensors: gguf.tensors().iter().cloned().collect(),
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
    /// [`ModelError::Kernel`] if a tensor's bytes do not fit its shape.
    pub fn not_finite(&self) -> Result<Vec<ModelError>> {
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
