//! Where everything of a file will lie: known before the first byte is written.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use super::read::alignment;
use super::{MAGIC, VERSION, Value};
use crate::TensorType;
use crate::error::{ContainerError, Refusal, Result};

/// A file's header and the places of its tensors.
#[derive(Debug, Clone)]
pub struct Layout {
    header: Vec<u8>,
    alignment: u64,
    tensors: Vec<(String, usize)>,
    /// Where the text of each string value lies in the header, and its length.
    strings: BTreeMap<String, (usize, usize)>,
}

impl Layout {
    /// The layout of a file with this metadata and these tensors (name, type, sizes outermost
    /// first). `path` is what errors call the file.
    ///
    /// # Errors
    /// [`Refusal::Shape`] for a tensor that its type cannot hold, or [`Refusal::Alignment`].
    pub fn new(
        path: &Path,
        metadata: &[(String, Value)],
        tensors: &[(String, TensorType, Vec<usize>)],
    ) -> Result<Self> {
        let refused = |refusal| ContainerError::Refused {
            name: path.display().to_string(),
            refusal,
        };
        let alignment = alignment(metadata).map_err(refused)?;
        let mut header = Vec::new();
        let mut strings = BTreeMap::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(&mut header, key);
            header.extend(value.type_id().to_le_bytes());
            put_value(&mut header, value);
            if let Value::String(text) = value {
                strings.insert(key.clone(), (header.len() - text.len(), text.len()));
            }
        }
        let mut offset = 0u64;
        let mut places = Vec::new();
        for (name, kind, shape) in tensors {
            let bytes = kind.bytes(shape).ok_or_else(|| {
                refused(Refusal::Shape {
                    tensor: name.clone(),
                    kind: kind.to_string(),
                    shape: shape.iter().map(|s| *s as u64).collect(),
                })
            })?;
            put_string(&mut header, name);
            header.extend((shape.len() as u32).to_le_bytes());
            for size in shape.iter().rev() {
                header.extend((*size as u64).to_le_bytes());
            }
            header.extend(kind.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = (offset + bytes as u64).next_multiple_of(alignment);
            places.push((name.clone(), bytes));
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        Ok(Layout {
            header,
            alignment,
            tensors: places,
            strings,
        })
    }

    /// The file's bytes before the first tensor.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The tensors in the order of the file, with their bytes, without padding.
    pub fn tensors(&self) -> &[(String, usize)] {
        &self.tensors
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.end_of(self.tensors.len())
    }

    /// Where the first `count` tensors end in the file, their padding included.
    pub(super) fn end_of(&self, count: usize) -> u64 {
        let padded =
            |(_, bytes): &(String, usize)| (*bytes as u64).next_multiple_of(self.alignment);
        let data: u64 = self.tensors.iter().take(count).map(padded).sum();
        self.header.len() as u64 + data
    }

    /// Where the text of a string value begins in the file, and its length.
    pub(super) fn string(&self, key: &str) -> Option<(usize, usize)> {
        self.strings.get(key).copied()
    }
}

/// Sees to it that the announced tensors come, in their order and whole.
#[derive(Debug)]
pub(super) struct Order {
    path: PathBuf,
    expected: VecDeque<(String, usize)>,
    /// The tensor that is being written, and its bytes that are still to come.
    begun: Option<(String, usize)>,
    /// Bytes of the data section so far.
    written: u64,
    alignment: u64,
}

impl Order {
    /// The first `done` tensors are there already.
    pub(super) fn new(path: &Path, layout: &Layout, done: usize) -> Self {
        Order {
            path: path.to_owned(),
            expected: layout.tensors.iter().skip(done).cloned().collect(),
            begun: None,
            written: layout.end_of(done) - layout.header.len() as u64,
            alignment: layout.alignment,
        }
    }

    /// Refuses bytes that are not all of the next tensor.
    pub(super) fn is_whole(&self, name: &str, len: usize) -> Result<()> {
        match self.expected.front() {
            Some((_, expected)) if *expected == len => Ok(()),
            next => Err(self.unexpected(name, len, next.map_or(0, |(_, len)| *len))),
        }
    }

    /// Takes bytes of the next tensor, or of that which was begun. Returns the padding that follows,
    /// if the tensor is now complete.
    pub(super) fn take(&mut self, name: &str, len: usize) -> Result<Option<usize>> {
        if self.begun.is_none() {
            self.begun = self.expected.pop_front();
        }
        let left = match &mut self.begun {
            Some((begun, left)) if begun == name && *left >= len => {
                *left -= len;
                *left
            }
            other => {
                let left = other.as_ref().map_or(0, |(_, left)| *left);
                return Err(self.unexpected(name, len, left));
            }
        };
        self.written += len as u64;
        if left > 0 {
            return Ok(None);
        }
        self.begun = None;
        let padding = self.written.next_multiple_of(self.alignment) - self.written;
        self.written += padding;
        Ok(Some(padding as usize))
    }

    /// Refuses an end before the last tensor is complete.
    pub(super) fn is_finished(&self) -> Result<()> {
        let next = self.begun.as_ref().or(self.expected.front());
        match next {
            None => Ok(()),
            Some((name, _)) => Err(ContainerError::Refused {
                name: self.path.display().to_string(),
                refusal: Refusal::MissingTensor(name.clone()),
            }),
        }
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
