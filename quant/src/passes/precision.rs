//! The type of every tensor.

use std::collections::BTreeMap;

use kinglet_kernels::Format;
use serde::Deserialize;

use crate::error::{QuantError, Result};

/// `[precision]`: a default or a budget for matrices, and exceptions by the beginning of a tensor's
/// name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Precision {
    /// The type of every matrix; left out: Q8_0.
    pub default: Option<String>,
    /// Instead of it the bytes that all tensors may take, as `6.5GiB` (the tokenizer and what else a
    /// file holds come on top): each matrix gets a type of its own (see [`super::budget`]).
    pub budget: Option<String>,
    /// Types of tensors whose name begins so; the longest beginning counts.
    pub keep: BTreeMap<String, String>,
}

/// What a tensor becomes, and whether it is what the recipe asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub format: Format,
    /// The asked type's blocks do not divide the rows, so another type took its place.
    pub fell_back: bool,
}

impl Precision {
    /// Checks that every type that is named exists, and that there is no more than one of default and
    /// budget.
    ///
    /// # Errors
    /// [`QuantError::Recipe`].
    pub fn check(&self) -> Result<()> {
        if self.default.is_some() && self.budget.is_some() {
            return Err(QuantError::Recipe(
                "[precision] has a default and a budget; leave out one of them".to_owned(),
            ));
        }
        self.budget()?;
        let mut names = self.keep.values().chain(&self.default);
        names.try_for_each(|name| by_name(name).map(drop))
    }

    /// The bytes that all tensors may take, if they are bounded.
    ///
    /// # Errors
    /// [`QuantError::Recipe`] if the recipe's text is no size.
    pub fn budget(&self) -> Result<Option<usize>> {
        self.budget.as_deref().map(super::budget::size).transpose()
    }

    /// The name of the default type.
    pub fn default_name(&self) -> &str {
        self.default.as_deref().unwrap_or(Format::Q8_0.name())
    }

    /// Whether the budget decides on a tensor's type: it is a matrix and no exception.
    pub fn is_open(&self, name: &str, shape: &[usize]) -> bool {
        let excepted = |beginning: &String| name.starts_with(beginning.as_str());
        self.budget.is_some() && shape.len() > 1 && !self.keep.keys().any(excepted)
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
        by_name(exception.map_or(self.default_name(), |(_, format)| format))
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
        let format = fitting(wanted, *cols);
        Ok(Choice {
            format,
            fell_back: format != wanted,
        })
    }
}

/// The type itself if its blocks divide rows of `cols`; else one of blocks of 32 that is at least as
/// close; else [`Format::F16`].
pub(super) fn fitting(wanted: Format, cols: usize) -> Format {
    let smaller = match wanted {
        Format::Q2_K | Format::Q3_K => Format::Q4_0,
        Format::Q4_K => Format::Q4_1,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        other => other,
    };
    let mut types = [wanted, smaller].into_iter();
    let fits = |f: &Format| cols.is_multiple_of(f.block_values());
    types.find(fits).unwrap_or(Format::F16)
}

fn by_name(name: &str) -> Result<Format> {
    let mut known = Format::ALL.iter().copied();
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
        precision.default = Some("Q4_K".to_owned());
        let choose = |cols| precision.choose("w", &[8, cols]).unwrap();
        assert_eq!(choose(512).format, Format::Q4_K);
        assert_eq!(choose(96).format, Format::Q4_1);
        assert_eq!(choose(50).format, Format::F16);
        assert!(choose(96).fell_back);
    }

    #[test]
    fn an_unknown_type_is_refused_by_name() {
        let precision = Precision {
            default: Some("Q9_Z".to_owned()),
            ..Precision::default()
        };
        assert!(precision.check().unwrap_err().to_string().contains("Q9_Z"));
    }
}
