//! What the container will hold: passes change it before anything is decoded.
//!
//! A pass does not make new weights. It lets the parts of a tensor carry a selection of rows or
//! columns of the source's tensor, which is decoded row by row while it is encoded, so memory stays
//! that of one tensor.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kinglet_container::bytes_source::give_back;
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::Format;
use kinglet_kernels::blocks::decode_row;
use kinglet_model::linear::format_of;
use kinglet_model::names::{self, GENERATION_SUFFIX};
use kinglet_model::{Config, Source};

use crate::error::{QuantError, Result};
use crate::passes::precision::Choice;
use crate::recipe::Recipe;

/// The container that is being planned.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// What is asked for.
    pub recipe: &'a Recipe,
    /// The configuration that will be written.
    pub config: Config,
    /// What each tensor is made of, by the name that it will have: itself, or one part for each
    /// expert.
    pub tensors: BTreeMap<String, Vec<Part>>,
}

/// A tensor of the source, or some of its rows or columns.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its GGUF name in the source.
    pub name: String,
    tensor: Tensor,
    rows: Option<Arc<[usize]>>,
    columns: Option<Arc<[usize]>>,
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub parts: Vec<Part>,
    /// Its sizes: those of a part, padded, behind the number of experts.
    pub shape: Vec<usize>,
    /// Its type.
    pub choice: Choice,
}

impl<'a> Plan<'a> {
    /// Every tensor of the source as it is, the experts of a layer joined to one.
    ///
    /// # Errors
    /// [`QuantError::Type`] if a tensor is not stored as floats.
    pub fn new(source: &Source, recipe: &'a Recipe) -> Result<Self> {
        let mut numbered: BTreeMap<String, Vec<(usize, Part)>> = BTreeMap::new();
        for (name, tensor) in &source.tensors {
            let part = Part::whole(name.clone(), tensor.clone());
            part.format()?;
            let (joined, expert) = names::split_expert(name).unwrap_or_else(|| (name.clone(), 0));
            numbered.entry(joined).or_default().push((expert, part));
        }
        let join = |(name, mut parts): (String, Vec<(usize, Part)>)| {
            parts.sort_by_key(|(expert, _)| *expert);
            (name, parts.into_iter().map(|(_, part)| part).collect())
        };
        Ok(Plan {
            recipe,
            config: source.config.clone(),
            tensors: numbered.into_iter().map(join).collect(),
        })
    }

    /// The only part of the tensor `name`; none if there is no such tensor.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.tensors.get(name).and_then(|parts| parts.first())
    }

    /// Values in a block of the type that the recipe asks for, for the tensor `name`.
    ///
    /// # Errors
    /// [`QuantError::Recipe`] if the recipe names an unknown type.
    pub fn block_values(&self, name: &str) -> Result<usize> {
        Ok(self.recipe.precision.wanted(name)?.block_values())
    }

    /// Leaves out all tensors for whose name `left_out` says so.
    pub fn drop_tensors(&mut self, left_out: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| !left_out(name));
    }

    /// The tensors with their types and final shapes.
    ///
    /// # Errors
    /// [`QuantError::Recipe`] if the experts of a layer have different shapes.
    pub fn items(&self) -> Result<Vec<Item>> {
        self.tensors
            .iter()
            .map(|(name, parts)| self.item(name, parts))
            .collect()
    }

    fn item(&self, name: &str, parts: &[Part]) -> Result<Item> {
        let mut shape = parts.first().map(Part::shape).unwrap_or_default();
        if let Some(other) = parts.iter().find(|part| part.shape() != shape) {
            return Err(QuantError::Recipe(format!(
                "tensor \"{}\" is {:?}, but the other experts of its layer are {shape:?}",
                other.name,
                other.shape()
            )));
        }
        if names::is_experts(name) {
            if shape.len() == 2 {
                shape.insert(0, parts.len());
            }
            self.pad(name, &mut shape)?;
        }
        let mut choice = self.recipe.precision.choose(name, &shape)?;
        let kept = &self.recipe.precision.keep;
        if is_router(name) && !kept.keys().any(|beginning| name.starts_with(beginning)) {
            // Small, and an error here sends tokens to other experts.
            choice = Choice {
                format: Format::F32,
                fell_back: false,
            };
        }
        Ok(Item {
            name: name.to_owned(),
            parts: parts.to_vec(),
            shape,
            choice,
        })
    }

    /// Experts whose width the block format does not divide get neurons of zeros, which add nothing:
    /// `silu(0) * 0 = 0`. All three matrices of an expert take the width that its last one needs.
    fn pad(&self, name: &str, shape: &mut [usize]) -> Result<()> {
        let down = name.replace("ffn_gate_exps", "ffn_down_exps");
        let down = down.replace("ffn_up_exps", "ffn_down_exps");
        let inner = if name == down {
            shape.len() - 1
        } else {
            shape.len() - 2
        };
        shape[inner] = shape[inner].next_multiple_of(self.block_values(&down)?);
        Ok(())
    }
}

impl Item {
    /// Bytes that its parts take in the source.
    pub fn source_bytes(&self) -> usize {
        self.parts.iter().map(Part::stored_bytes).sum()
    }

    /// Bytes that it takes in its new type.
    ///
    /// # Errors
    /// [`QuantError::Kernel`] if the type's blocks do not divide its rows.
    pub fn bytes(&self) -> Result<usize> {
        let (cols, rows) = self.shape.split_last().unwrap_or((&1, &[]));
        Ok(self.choice.format.row_bytes(*cols)? * rows.iter().product::<usize>())
    }

    /// What was read of the source need not stay in memory.
    pub(crate) fn give_back(&self) {
        self.parts.iter().for_each(Part::give_back);
    }

    /// Whether it is a router, whose type no budget decides on.
    pub(crate) fn is_router(&self) -> bool {
        is_router(&self.name)
    }

    /// Its weights, without padding.
    pub fn parameters(&self) -> usize {
        self.parts.iter().map(Part::values).sum()
    }
}

impl Part {
    /// A tensor as it is.
    pub fn whole(name: String, tensor: Tensor) -> Self {
        Part {
            name,
            tensor,
            rows: None,
            columns: None,
        }
    }

    /// A new matrix `[values / cols, cols]` in F32.
    pub fn made(name: String, values: &[f32], cols: usize) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = Tensor {
            kind: TensorType::F32,
            shape: vec![values.len() / cols.max(1), cols],
            bytes: Bytes::from(bytes),
        };
        Part::whole(name, tensor)
    }

    /// Only these rows of a matrix, numbered as they are in this part.
    #[must_use]
    pub fn with_rows(&self, rows: &[usize]) -> Self {
        Part {
            rows: Some(compose(self.rows.as_deref(), rows)),
            ..self.clone()
        }
    }

    /// Only these columns of a matrix, numbered as they are in this part.
    #[must_use]
    pub fn with_columns(&self, columns: &[usize]) -> Self {
        Part {
            columns: Some(compose(self.columns.as_deref(), columns)),
            ..self.clone()
        }
    }

    /// What was read of it need not stay in memory.
    pub(crate) fn give_back(&self) {
        give_back(&self.tensor.bytes);
    }

    /// Its sizes, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.shape.clone();
        if let (Some(rows), [first, ..]) = (&self.rows, &mut shape[..]) {
            *first = rows.len();
        }
        if let (Some(columns), Some(last)) = (&self.columns, shape.last_mut()) {
            *last = columns.len();
        }
        shape
    }

    /// The number of rows: the product of all sizes but the last.
    pub fn rows(&self) -> usize {
        match &self.shape()[..] {
            [outer @ .., _] => outer.iter().product(),
            [] => 1,
        }
    }

    /// Rows of one matrix: of an expert, where they are joined, or of all.
    pub(crate) fn matrix_rows(&self) -> usize {
        match &self.shape()[..] {
            [.., rows, _] => *rows,
            _ => 1,
        }
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }

    /// The number of values.
    pub fn values(&self) -> usize {
        self.rows() * self.cols()
    }

    /// What of the source's bytes it takes; of single columns their share.
    pub fn stored_bytes(&self) -> usize {
        let share = self.values() as f64 / self.tensor.values().max(1) as f64;
        (self.tensor.bytes.len() as f64 * share).round() as usize
    }

    /// For every column of this part what `of_source`, which has one value for each column of the
    /// source's tensor, says of it. None if the lengths do not fit.
    pub fn of_columns(&self, of_source: &[f32]) -> Option<Vec<f32>> {
        match &self.columns {
            None => (of_source.len() == self.cols()).then(|| of_source.to_vec()),
            Some(columns) => columns.iter().map(|c| of_source.get(*c).copied()).collect(),
        }
    }

    /// How the source stores it.
    ///
    /// # Errors
    /// [`QuantError::Type`] if that is no float type.
    pub fn format(&self) -> Result<Format> {
        format_of(self.tensor.kind).ok_or_else(|| QuantError::Type {
            tensor: self.name.clone(),
            kind: self.tensor.kind.to_string(),
        })
    }

    /// Reads its rows.
    ///
    /// # Errors
    /// [`QuantError::Type`], or [`QuantError::Kernel`] if the bytes do not fit the shape.
    pub fn reader(&self) -> Result<Reader<'_>> {
        let format = self.format()?;
        let stored = self.tensor.shape.last().copied().unwrap_or(1);
        Ok(Reader {
            part: self,
            format,
            row_bytes: format.row_bytes(stored)?,
            // Only a selection of columns needs the whole row first.
            stored: vec![0.0; self.columns.as_ref().map_or(0, |_| stored)],
        })
    }

    /// All values, `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Part::reader`].
    pub fn decode(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.values()];
        let mut reader = self.reader()?;
        for (i, row) in out.chunks_exact_mut(self.cols().max(1)).enumerate() {
            reader.read(i, row)?;
        }
        Ok(out)
    }
}

/// Reads rows of a [`Part`].
pub struct Reader<'a> {
    part: &'a Part,
    format: Format,
    row_bytes: usize,
    stored: Vec<f32>,
}

impl Reader<'_> {
    /// Decodes row `i` into `out`, which has [`Part::cols`] values.
    ///
    /// # Errors
    /// [`QuantError::Kernel`] if there is no such row or `out` has another length.
    pub fn read(&mut self, i: usize, out: &mut [f32]) -> Result<()> {
        let row = self
            .part
            .rows
            .as_ref()
            .map_or(Some(i), |r| r.get(i).copied());
        let start = row.unwrap_or(usize::MAX).saturating_mul(self.row_bytes);
        let end = start.saturating_add(self.row_bytes);
        let bytes = self.part.tensor.bytes.get(start..end).unwrap_or_default();
        match &self.part.columns {
            None => decode_row(self.format, bytes, out)?,
            Some(columns) => {
                decode_row(self.format, bytes, &mut self.stored)?;
                for (value, column) in out.iter_mut().zip(columns.iter()) {
                    *value = self.stored[*column];
                }
            }
        }
        Ok(())
    }
}

/// The selection `chosen` of what an earlier selection left.
fn compose(earlier: Option<&[usize]>, chosen: &[usize]) -> Arc<[usize]> {
    match earlier {
        None => chosen.into(),
        Some(earlier) => chosen.iter().map(|i| earlier[*i]).collect(),
    }
}

/// Whether a tensor is a router or the gate of a shared expert.
fn is_router(name: &str) -> bool {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let module = module.strip_suffix(GENERATION_SUFFIX).unwrap_or(module);
    [".ffn_gate_inp", ".ffn_gate_inp_img", ".ffn_gate_inp_shexp"]
        .iter()
        .any(|router| module.ends_with(router))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_of_a_selection_is_read_row_by_row() {
        let values: Vec<f32> = (0..12u8).map(f32::from).collect();
        let part = Part::made("m".to_owned(), &values, 4);
        assert_eq!(part.decode().unwrap(), values);
        let some = part.with_rows(&[0, 2]).with_columns(&[3, 1, 0]);
        assert_eq!(some.shape(), [2, 3]);
        assert_eq!(some.decode().unwrap(), [3.0, 1.0, 0.0, 11.0, 9.0, 8.0]);
        let fewer = some.with_rows(&[1]).with_columns(&[2]);
        assert_eq!(fewer.decode().unwrap(), [8.0]);
        assert_eq!(fewer.of_columns(&[1.0, 2.0, 3.0, 4.0]).unwrap(), [1.0]);
        assert_eq!(fewer.stored_bytes(), 4);
    }
}
