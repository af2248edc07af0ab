//! Reading: nothing that the file says is believed before it is checked.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;

use super::{DEFAULT_ALIGNMENT, MAGIC, VERSION, Value, limits};
use crate::bytes_source;
use crate::error::{ContainerError, Refusal, Result};
use crate::{Tensor, TensorType};

/// A GGUF file: metadata and tensors, in the file's order.
#[derive(Debug, Clone)]
pub struct Gguf {
    name: String,
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, Tensor)>,
    tensor_index: HashMap<String, usize>,
}

impl Gguf {
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
        parse(&bytes).map_or_else(
            |refusal| {
                Err(ContainerError::Refused {
                    name: name.to_owned(),
                    refusal,
                })
            },
            |(metadata, tensors)| {
                let tensor_index = tensors
                    .iter()
                    .enumerate()
                    .map(|(i, (name, _))| (name.clone(), i))
                    .collect();
                Ok(Gguf {
                    name: name.to_owned(),
                    metadata,
                    tensors,
                    tensor_index,
                })
            },
        )
    }

    /// What the file is called in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All metadata, in the file's order.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// The value of `key`, if the file has it.
    pub fn find(&self, key: &str) -> Option<&Value> {
        let entry = self.metadata.iter().find(|(k, _)| k == key);
        entry.map(|(_, value)| value)
    }

    /// The tensor `name`, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensor_index.get(name).map(|i| &self.tensors[*i].1)
    }

    /// The value of `key` as `convert` reads it.
    ///
    /// # Errors
    /// [`Refusal::MissingKey`], or [`Refusal::WrongType`] if `convert` returns none.
    pub fn require<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T> {
        let value = self
            .find(key)
            .ok_or_else(|| self.refuse(Refusal::MissingKey(key.to_owned())))?;
        convert(value).ok_or_else(|| {
            self.refuse(Refusal::WrongType {
                key: key.to_owned(),
                expected,
            })
        })
    }

    fn refuse(&self, refusal: Refusal) -> ContainerError {
        ContainerError::Refused {
            name: self.name.clone(),
            refusal,
        }
    }
}

type Parsed = (Vec<(String, Value)>, Vec<(String, Tensor)>);

fn parse(bytes: &Bytes) -> std::result::Result<Parsed, Refusal> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(4, "the magic")? != MAGIC {
        return Err(Refusal::Magic);
    }
    let version = cursor.u32("the version")?;
    if version != VERSION {
        return Err(Refusal::Version(version));
    }
    let tensor_count = cursor.count("the number of tensors", limits::TENSORS)?;
    let key_count = cursor.count("the number of metadata entries", limits::KEYS)?;

    let mut metadata: Vec<(String, Value)> = Vec::new();
    for i in 0..key_count {
        let key = cursor.string(&format!("metadata key {i}"), limits::NAME_BYTES)?;
        if key.is_empty() {
            return Err(Refusal::EmptyName(format!("metadata key {i}")));
        }
        if metadata.iter().any(|(k, _)| *k == key) {
            return Err(Refusal::Duplicate(key));
        }
        let id = cursor.u32(&key)?;
        let value = cursor.value(&key, id, true)?;
        metadata.push((key, value));
    }
    let alignment = alignment(&metadata)?;

    let mut infos = Vec::new();
    for i in 0..tensor_count {
        infos.push(cursor.tensor_info(i)?);
    }
    let data = (cursor.at as u64).next_multiple_of(alignment);
    let tensors = place(bytes, infos, data, alignment)?;
    Ok((metadata, tensors))
}

pub(super) fn alignment(metadata: &[(String, Value)]) -> std::result::Result<u64, Refusal> {
    let Some((_, value)) = metadata.iter().find(|(k, _)| k == "general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let Value::U32(alignment) = value else {
        return Err(Refusal::WrongType {
            key: "general.alignment".to_owned(),
            expected: "a 32-bit unsigned integer",
        });
    };
    let alignment = u64::from(*alignment);
    if alignment.is_power_of_two() && alignment <= limits::ALIGNMENT {
        Ok(alignment)
    } else {
        Err(Refusal::Alignment(alignment))
    }
}

struct Info {
    name: String,
    kind: TensorType,
    shape: Vec<usize>,
    bytes: usize,
    offset: u64,
}

/// Gives every tensor its bytes, after checking that they lie inside the file, are aligned and are
/// nobody else's.
fn place(
    bytes: &Bytes,
    infos: Vec<Info>,
    data: u64,
    alignment: u64,
) -> std::result::Result<Vec<(String, Tensor)>, Refusal> {
    let mut seen = HashMap::new();
    let mut ranges = Vec::new();
    let mut tensors = Vec::new();
    for info in infos {
        if seen.insert(info.name.clone(), ()).is_some() {
            return Err(Refusal::Duplicate(info.name));
        }
        if !info.offset.is_multiple_of(alignment) {
            return Err(Refusal::Misaligned {
                tensor: info.name,
                offset: info.offset,
                alignment,
            });
        }
        let start = data.saturating_add(info.offset);
        let end = start.saturating_add(info.bytes as u64);
        if end > bytes.len() as u64 {
            return Err(Refusal::OutOfBounds {
                tensor: info.name,
                start,
                end,
                len: bytes.len() as u64,
            });
        }
        ranges.push((start, end, info.name.clone()));
        tensors.push((
            info.name,
            Tensor {
                kind: info.kind,
                shape: info.shape,
                bytes: bytes.slice(start as usize..end as usize),
            },
        ));
    }
    ranges.sort();
    for pair in ranges.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(Refusal::Overlap(pair[0].2.clone(), pair[1].2.clone()));
        }
    }
    Ok(tensors)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, what: &str) -> std::result::Result<&'a [u8], Refusal> {
        let rest = &self.bytes[self.at..];
        if len > rest.len() {
            return Err(Refusal::Truncated {
                what: what.to_owned(),
                len: self.bytes.len(),
            });
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn array<const N: usize>(&mut self, what: &str) -> std::result::Result<[u8; N], Refusal> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> std::result::Result<u32, Refusal> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> std::result::Result<u64, Refusal> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count, bounded by `limit` and by what the rest of the file can hold at a byte each.
    fn count(&mut self, what: &str, limit: u64) -> std::result::Result<usize, Refusal> {
        let got = self.u64(what)?;
        if got > limit {
            return Err(Refusal::TooMany {
                what: what.to_owned(),
                got,
                limit,
            });
        }
        if got > (self.bytes.len() - self.at) as u64 {
            return Err(Refusal::Truncated {
                what: what.to_owned(),
                len: self.bytes.len(),
            });
        }
        Ok(got as usize)
    }

    fn string(&mut self, what: &str, limit: u64) -> std::result::Result<String, Refusal> {
        let len = self.count(&format!("the length of {what}"), limit)?;
        let bytes = self.take(len, what)?;
        match std::str::from_utf8(bytes) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => Err(Refusal::NotUtf8(what.to_owned())),
        }
    }

    fn value(&mut self, key: &str, id: u32, outer: bool) -> std::result::Result<Value, Refusal> {
        Ok(match id {
            0 => Value::U8(u8::from_le_bytes(self.array(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(key)?)),
            4 => Value::U32(self.u32(key)?),
            5 => Value::I32(i32::from_le_bytes(self.array(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(key)?)),
            7 => match self.array::<1>(key)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                got => {
                    return Err(Refusal::BadBool {
                        key: key.to_owned(),
                        got,
                    });
                }
            },
            8 => Value::String(self.string(&format!("\"{key}\""), limits::STRING_BYTES)?),
            9 if !outer => return Err(Refusal::NestedArray(key.to_owned())),
            9 => {
                let element = self.u32(key)?;
                let len = self.count(&format!("the length of \"{key}\""), limits::ARRAY_LEN)?;
                let values = (0..len).map(|_| self.value(key, element, false));
                Value::Array(values.collect::<std::result::Result<_, _>>()?)
            }
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(i64::from_le_bytes(self.array(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(key)?)),
            id => {
                return Err(Refusal::UnknownValueType {
                    key: key.to_owned(),
                    id,
                });
            }
        })
    }

    fn tensor_info(&mut self, i: usize) -> std::result::Result<Info, Refusal> {
        let name = self.string(&format!("the name of tensor {i}"), limits::NAME_BYTES)?;
        if name.is_empty() {
            return Err(Refusal::EmptyName(format!("tensor {i}")));
        }
        let what = format!("the description of tensor \"{name}\"");
        let dimensions = self.u32(&what)?;
        if u64::from(dimensions) > limits::DIMENSIONS {
            return Err(Refusal::TooMany {
                what: format!("the number of dimensions of \"{name}\""),
                got: dimensions.into(),
                limit: limits::DIMENSIONS,
            });
        }
        // GGUF stores the innermost size first.
        let mut sizes = (0..dimensions)
            .map(|_| self.u64(&what))
            .collect::<std::result::Result<Vec<u64>, _>>()?;
        sizes.reverse();
        let id = self.u32(&what)?;
        let kind = TensorType::from_id(id).ok_or_else(|| Refusal::UnknownTensorType {
            tensor: name.clone(),
            id: id.to_string(),
        })?;
        let shape: Option<Vec<usize>> = sizes
            .iter()
            .map(|s| usize::try_from(*s).ok().filter(|s| *s > 0))
            .collect();
        let Some((shape, bytes)) = shape.and_then(|s| kind.bytes(&s).map(|bytes| (s, bytes)))
        else {
            return Err(Refusal::Shape {
                tensor: name,
                kind: kind.to_string(),
                shape: sizes,
            });
        };
        let offset = self.u64(&what)?;
        Ok(Info {
            name,
            kind,
            shape,
            bytes,
            offset,
        })
    }
}
