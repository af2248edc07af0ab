//! Writing: everything but the tensors' bytes is known before the first byte goes out, so a file
//! of any size is written in one pass.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::read::alignment;
use super::{MAGIC, VERSION, Value};
use crate::TensorType;
use crate::atomic::AtomicFile;
use crate::error::{ContainerError, Refusal, Result};

/// Writes a GGUF file: metadata and tensor descriptions first, then the tensors' bytes in the same
/// order. The file appears under its name only when it is whole.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: AtomicFile,
    expected: std::vec::IntoIter<(String, usize)>,
    /// The tensor that is being written, and its bytes that are still to come.
    begun: Option<(String, usize)>,
    /// Bytes of the data section so far.
    written: u64,
    alignment: u64,
}

impl Writer {
    /// Starts a file with this metadata and these tensors (name, type, sizes outermost first). Where
    /// the metadata has `general.alignment`, tensors are aligned to that.
    ///
    /// # Errors
    /// [`ContainerError::Io`], [`Refusal::Shape`] for a tensor that its type cannot hold, or
    /// [`Refusal::Alignment`].
    pub fn create(
        path: &Path,
        metadata: &[(String, Value)],
        tensors: &[(String, TensorType, Vec<usize>)],
    ) -> Result<Self> {
        let alignment = alignment(metadata).map_err(|refusal| ContainerError::Refused {
            name: path.display().to_string(),
            refusal,
        })?;
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(&mut header, key);
            header.extend(value.type_id().to_le_bytes());
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        let mut expected = Vec::new();
        for (name, kind, shape) in tensors {
            let bytes = kind.bytes(shape).ok_or_else(|| ContainerError::Refused {
                name: path.display().to_string(),
                refusal: Refusal::Shape {
                    tensor: name.clone(),
                    kind: kind.to_string(),
                    shape: shape.iter().map(|s| *s as u64).collect(),
                },
            })?;
            put_string(&mut header, name);
            header.extend((shape.len() as u32).to_le_bytes());
            for size in shape.iter().rev() {
                header.extend((*size as u64).to_le_bytes());
            }
            header.extend(kind.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = (offset + bytes as u64).next_multiple_of(alignment);
            expected.push((name.clone(), bytes));
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);

        let mut writer = Writer {
            path: path.to_owned(),
            file: AtomicFile::create(path)?,
            expected: expected.into_iter(),
            begun: None,
            written: 0,
            alignment,
        };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Writes the next tensor's bytes.
    ///
    /// # Errors
    /// [`ContainerError::Io`], or [`Refusal::OutOfBounds`] if these are not the bytes of the tensor
    /// that was announced next.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let next = self.expected.as_slice().first();
        match next {
            Some((_, len)) if *len == bytes.len() => self.part(name, bytes),
            _ => Err(self.unexpected(name, bytes.len(), next.map_or(0, |(_, len)| *len))),
        }
    }

    /// Writes some of the next tensor's bytes, or of that which was begun.
    ///
    /// # Errors
    /// As [`Writer::tensor`]; here too if another tensor has been begun and is not complete.
    pub fn part(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.begun.is_none() {
            self.begun = self.expected.next();
        }
        let left = match &mut self.begun {
            Some((begun, left)) if begun == name && *left >= bytes.len() => {
                *left -= bytes.len();
                *left
            }
            other => {
                let left = other.as_ref().map_or(0, |(_, left)| *left);
                return Err(self.unexpected(name, bytes.len(), left));
            }
        };
        self.put(bytes)?;
        self.written += bytes.len() as u64;
        if left == 0 {
            self.begun = None;
            let padding = self.written.next_multiple_of(self.alignment) - self.written;
            self.put(&vec![0; padding as usize])?;
            self.written += padding;
        }
        Ok(())
    }

    fn unexpected(&self, name: &str, len: usize, left: usize) -> ContainerError {
        ContainerError::Refused {
            name: self.path.display().to_string(),
            refusal: Refusal::OutOfBounds {
                tensor: name.to_owned(),
                start: self.written,
                end: self.written + len as u64,
                len: self.written + left as u64,
            },
        }
    }

    /// Puts the whole file in its place.
    ///
    /// # Errors
    /// [`ContainerError::Io`], or [`Refusal::MissingTensor`] if an announced tensor was not written.
    pub fn finish(mut self) -> Result<()> {
        if let Some((name, _)) = self.begun.take().or_else(|| self.expected.next()) {
            return Err(ContainerError::Refused {
                name: self.path.display().to_string(),
                refusal: Refusal::MissingTensor(name),
            });
        }
        self.file.commit()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|source| ContainerError::Io {
                path: self.path.clone(),
                source,
            })
    }
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(s) => put_string(out, s),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Array(values) => {
            // An empty array still has an element type; a string is as good as any.
            let id = values.first().map_or(8, Value::type_id);
            out.extend(id.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for v in values {
                put_value(out, v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;

    #[test]
    fn a_tensor_written_in_parts_is_the_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let tensors: Vec<_> = ["a", "b"]
            .map(|name| (name.to_owned(), TensorType::F32, vec![3]))
            .into();
        let mut writer = Writer::create(&path, &[], &tensors).unwrap();
        writer.part("a", &[1; 5]).unwrap();
        assert!(writer.part("b", &[2; 12]).is_err(), "a is not complete");
        assert!(writer.part("a", &[1; 8]).is_err(), "a has no room");
        writer.part("a", &[1; 7]).unwrap();
        writer.tensor("b", &[2; 12]).unwrap();
        writer.finish().unwrap();
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.tensor("a").unwrap().bytes, vec![1; 12]);
        assert_eq!(file.tensor("b").unwrap().bytes, vec![2; 12]);

        let mut writer = Writer::create(&path, &[], &tensors).unwrap();
        writer.tensor("a", &[1; 12]).unwrap();
        writer.part("b", &[2; 11]).unwrap();
        assert!(writer.finish().is_err(), "b is not complete");
    }
}
