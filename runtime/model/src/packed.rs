//! Containers whose matrices lie in the order of one instruction set's kernels, so that loading them is
//! mapping them.
//!
//! A packed matrix is an I8 tensor of its tiles, `[bytes]` or `[experts, bytes]`; what it was before
//! stands in two metadata fields: `kinglet.layout`, the order's name, and `kinglet.packed`, an array
//! with `NAME FORMAT SIZE...` for each of them, sizes outermost first.

use std::collections::BTreeMap;

use kinglet_container::gguf::{Gguf, Value};
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::Format;

use crate::error::{ModelError, Result};

/// The metadata key of the order's name.
pub const LAYOUT: &str = "kinglet.layout";
/// The metadata key of the list of packed tensors.
pub const PACKED: &str = "kinglet.packed";

/// Which tensors are packed, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// [`kinglet_kernels::Device::layout`] of the devices that can use them.
    pub layout: String,
    /// Format and shape of each before it was packed.
    pub tensors: BTreeMap<String, (Format, Vec<usize>)>,
}

impl Packed {
    /// The two metadata fields.
    pub fn write(&self) -> [(String, Value); 2] {
        let line = |(name, (format, shape)): (&String, &(Format, Vec<usize>))| {
            let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
            Value::String(format!("{name} {format} {}", sizes.join(" ")))
        };
        let lines = self.tensors.iter().map(line).collect();
        [
            (LAYOUT.to_owned(), self.layout.as_str().into()),
            (PACKED.to_owned(), Value::Array(lines)),
        ]
    }

    /// Reads the fields; none if the file is not packed.
    ///
    /// # Errors
    /// [`ModelError::Config`] if they contradict the tensors.
    pub fn read(gguf: &Gguf, tensors: &BTreeMap<String, Tensor>) -> Result<Option<Self>> {
        if gguf.find(LAYOUT).is_none() {
            return Ok(None);
        }
        let layout = gguf.require(LAYOUT, "a string", |v| v.as_str())?;
        let lines = gguf.require(PACKED, "an array of strings", |v| v.as_array())?;
        Ok(Some(Packed {
            layout: layout.to_owned(),
            tensors: check(gguf.name(), lines, tensors)?,
        }))
    }
}

fn check(
    source_name: &str,
    lines: &[Value],
    tensors: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, (Format, Vec<usize>)>> {
    let mut packed = BTreeMap::new();
    for line in lines {
        let refuse = |expected: &str| ModelError::Config {
            source_name: source_name.to_owned(),
            field: PACKED.to_owned(),
            value: format!("{line:?}"),
            expected: expected.to_owned(),
        };
        let entry = line.as_str().and_then(parse);
        let (name, format, shape) =
            entry.ok_or_else(|| refuse("NAME FORMAT SIZE... is expected"))?;
        let stored = tensors
            .get(name)
            .ok_or_else(|| refuse("there is no such tensor"))?;
        let joined = shape.len() == 3;
        let fits = match stored.shape[..] {
            [_] => !joined,
            [experts, _] => joined && experts == shape[0],
            _ => false,
        };
        if stored.kind != TensorType::I8 || !fits {
            return Err(refuse("the tensor is not packed so"));
        }
        packed.insert(name.to_owned(), (format, shape));
    }
    Ok(packed)
}

fn parse(line: &str) -> Option<(&str, Format, Vec<usize>)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let format = words.next()?;
    let format = Format::ALL.iter().copied().find(|f| f.name() == format)?;
    let shape: Vec<usize> = words.map(|w| w.parse().ok()).collect::<Option<_>>()?;
    let product = shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s))?;
    ((2..=4).contains(&shape.len()) && product > 0).then_some((name, format, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_tensors_are_refused() {
        let (name, format, shape) = parse("blk.0.attn_q.weight Q8_0 64 32").unwrap();
        assert_eq!(
            (name, format, &shape[..]),
            ("blk.0.attn_q.weight", Format::Q8_0, &[64, 32][..])
        );
        for line in [
            "",
            "t",
            "t Q8_0",
            "t Q8_0 4",
            "t Q8_0 1 1 1 1 1",
            "t Q8_0 0 4",
            "t Q8_0 -1 4",
            "t Q8_0 4  4",
            "t Q9 4 4",
            "t F32 18446744073709551615 2",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_list_that_contradicts_the_tensors_is_refused() {
        let tensor = |kind, shape: &[usize]| Tensor {
            kind,
            shape: shape.to_vec(),
            bytes: bytes::Bytes::new(),
        };
        let tensors = BTreeMap::from([
            ("tiles".to_owned(), tensor(TensorType::I8, &[64])),
            ("experts".to_owned(), tensor(TensorType::I8, &[2, 64])),
            ("floats".to_owned(), tensor(TensorType::F32, &[64])),
        ]);
        let read = |line: &str| check("test", &[line.into()], &tensors);
        for sound in ["tiles Q8_0 8 32", "experts F32 2 8 8"] {
            let packed = Packed {
                layout: "avx2-1".to_owned(),
                tensors: read(sound).unwrap(),
            };
            assert_eq!(packed.write()[1].1, Value::Array(vec![sound.into()]));
        }
        for line in [
            "nothing Q8_0 8 32",
            "floats Q8_0 8 32",
            "tiles Q8_0 2 8 32",
            "experts Q8_0 3 8 32",
            "experts Q8_0 8 32",
        ] {
            let refused = read(line).unwrap_err().to_string();
            assert!(refused.contains(PACKED), "{line}: {refused}");
        }
    }
}
