//! The tensors of a plan in their new types.

use std::collections::BTreeMap;

use kinglet_kernels::blocks::encode_row_weighted;
use rayon::prelude::*;

use crate::bands::{Matrix, Squares};
use crate::error::Result;
use crate::passes::budget::{self, Measure, Offer};
use crate::passes::precision::Choice;
use crate::plan::{Item, Part};
use crate::recipe::Recipe;

/// The mean square of what enters each column of a matrix, by the matrix's name in the source; where
/// nothing is known every column counts the same.
pub(crate) type Importance = BTreeMap<String, Vec<f32>>;

impl Item {
    /// Encodes the tensor, giving its bytes to `sink`. Returns the relative L2 error.
    pub(crate) fn encode(
        &self,
        importance: &Importance,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<f64> {
        let to = self.choice.format;
        let mut padding = Vec::new();
        encode_row_weighted(to, &vec![0.0; self.cols()], None, &mut padding)?;
        let mut squares = Squares::default();
        for part in &self.parts {
            let weights = self.weights(part, importance);
            // A part may be the experts of a layer already joined: matrices one after another.
            let (rows, cols) = (part.matrix_rows(), part.cols());
            for first in (0..part.rows()).step_by(rows.max(1)) {
                let matrix = Matrix {
                    name: &part.name,
                    rows,
                    cols: self.cols(),
                    read: &|i, out| part.reader()?.read(first + i, &mut out[..cols]),
                    importance: weights.as_deref(),
                };
                squares.add(matrix.encode(to, sink)?);
                for _ in rows..self.rows() {
                    sink(&padding)?;
                }
            }
        }
        Ok(squares.error())
    }

    /// How much each column matters, padding not at all.
    fn weights(&self, part: &Part, importance: &Importance) -> Option<Vec<f32>> {
        let mut weights = part.of_columns(importance.get(&part.name)?)?;
        weights.resize(self.cols(), 0.0);
        Some(weights)
    }

    /// The types that it can have, measured on some of its rows.
    fn offers(&self, importance: &Importance) -> Result<Vec<Offer>> {
        let mut measure = Measure::new(self.cols());
        let mut row = vec![0.0; self.cols()];
        for part in &self.parts {
            let weights = self.weights(part, importance);
            let mut reader = part.reader()?;
            for i in budget::rows(part.rows()) {
                reader.read(i, &mut row[..part.cols()])?;
                measure.row(&row, weights.as_deref())?;
            }
        }
        measure.offers(self.all_rows())
    }

    /// Rows of one matrix: of an expert, or of all.
    fn rows(&self) -> usize {
        match &self.shape[..] {
            [.., rows, _] => *rows,
            _ => 1,
        }
    }

    fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all sizes but the last.
    fn all_rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

/// The least bytes that the tensors can take, whatever their values: those of their types, or of the
/// smallest ones where a budget decides.
pub(crate) fn least(items: &[Item], recipe: &Recipe) -> Result<usize> {
    let least = |item: &Item| {
        if recipe.precision.is_open(&item.name, &item.shape) && !item.is_router() {
            let offers = Measure::new(item.cols()).offers(item.all_rows())?;
            return Ok(offers.iter().map(|o| o.bytes).min().unwrap_or(0));
        }
        item.bytes()
    };
    items.iter().map(least).sum()
}

/// Chooses the types that the budget decides on.
pub(crate) fn spend(
    items: &mut [Item],
    recipe: &Recipe,
    importance: &Importance,
    budget: usize,
) -> Result<()> {
    let offers = |item: &Item| {
        if recipe.precision.is_open(&item.name, &item.shape) && !item.is_router() {
            return item.offers(importance);
        }
        Ok(vec![Offer {
            format: item.choice.format,
            bytes: item.bytes()?,
            error: 0.0,
        }])
    };
    let offers: Vec<Vec<Offer>> = items.par_iter().map(offers).collect::<Result<_>>()?;
    for (item, offer) in items.iter_mut().zip(budget::spend(&offers, budget)?) {
        if item.choice.format != offer.format {
            item.choice = Choice {
                format: offer.format,
                fell_back: false,
            };
        }
    }
    Ok(())
}
