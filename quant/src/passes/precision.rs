//! The type of every tensor.

use std::collections::BTreeMap;

use kinglet_kernels::Format;
use serde::Deserialize;

use crate::error::{QuantError, Result};

/// `[precision]`: a default for matrices, and exceptions by the beginning of a tensor's name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Precision {
    /// The type of every matrix.
    pub default: String,
    /// Types of tensors whose name begins so; the longest beginning counts.
    pub keep: BTreeMap<String, String>,
}

impl Default for Precision {
    fn default() -> Self {
        Precision {
            default: Format::Q8_0.name().to_owned(),
            keep: BTreeMap::new(),
        }
    }
}

/// What a tensor becomes, and whether it is what the recipe asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub format: Format,
    /// The asked type's blocks do not divide the rows, so [`Format::F16`] took its place.
    pub fell_back: bool,
}

impl Precision {
    /// Checks that every type that is named exists.
    ///
    /// # Errors
    /// [`QuantError::Recipe`].
    pub fn check(&self) -> Result<()> {
        let names = self.keep.values().chain([&self.default]);
        names
            .into_iter()
            .try_for_each(|name| by_name(name).map(drop))
    }

    /// The type that the recipe asks for, whether or not the tensor can take it.
    ///
    /// # Errors
    /// [`QuantError::Recipe`] if the recipe names an unknown type.
    pub fn wanted(&self, name: &str) -> Result<Format> {
        let exception = self
            .keep
            .iter()
            .filter(|(beginning, _)| name.starts_with(beginning.as_str()))
            .max_by_key(|(beginning, _)| beginning.len());
        by_name(exception.map_or(&self.default, |(_, format)| format))
    }

    /// The type of a tensor. Vectors (norms, biases) are too small to be worth an error and stay
    /// F32.
    ///
    /// # Errors
    /// [`QuantError::Recipe`] if the recipe names an unknown type.
    pub fn choose(&self, name: &str, shape: &[usize]) -> Result<Choice> {
        let [_, .., cols] = shape else {
            return Ok(Choice {
                format: Format::F32,
                fell_back: false,
            });
        };
        let wanted = self.wanted(name)?;
        let fell_back = !cols.is_multiple_of(wanted.block_values());
        Ok(Choice {
            format: if fell_back { Format::F16 } else { wanted },
            fell_back,
        })
    }
}

fn by_name(name: &str) -> Result<Format> {
    let mut known = Format::ALL.iter().copied().filter(|f| f.can_be_written());
    known.clone().find(|f| f.name() == name).ok_or_else(|| {
        let names: Vec<&str> = known.by_ref().map(Format::name).collect();
        QuantError::Recipe(format!(
            "there is no type \"{name}\" to write; known are {}",
            names.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_counts_and_odd_rows_fall_back() {
        let mut precision = Precision::default();
        precision.keep.insert("vae.".to_owned(), "F16".to_owned());
        precision
            .keep
            .insert("vae.encoder.".to_owned(), "F32".to_owned());
        let choose = |name, shape: &[usize]| precision.choose(name, shape).unwrap();
        assert_eq!(
            choose("blk.0.attn_q.weight", &[64, 64]).format,
            Format::Q8_0
        );
        assert_eq!(choose("blk.0.attn_q.bias", &[64]).format, Format::F32);
        assert_eq!(
            choose("vae.decoder.conv_in.weight", &[8, 32]).format,
            Format::F16
        );
        assert_eq!(
            choose("vae.encoder.conv_in.weight", &[8, 32]).format,
            Format::F32
        );
        let odd = choose("v.patch_embd.weight", &[64, 588]);
        assert_eq!((odd.format, odd.fell_back), (Format::F16, true));
    }

    #[test]
    fn an_unknown_type_is_refused_by_name() {
        let precision = Precision {
            default: "Q9_Z".to_owned(),
            ..Precision::default()
        };
        assert!(precision.check().unwrap_err().to_string().contains("Q9_Z"));
    }
}
