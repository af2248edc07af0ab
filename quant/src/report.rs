//! What was done, and what it cost: for the container's metadata, and as a page to read.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cost::Cost;
use crate::measure::Measures;
use crate::plan::{Item, Plan};

mod page;

pub use page::page;

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Tensors written.
    pub tensors: usize,
    /// Weights in them.
    pub parameters: usize,
    /// Bytes of the tensors in the source.
    pub source_bytes: usize,
    /// Bytes of the tensors in the result.
    pub bytes: usize,
    /// Bits a weight, scales and padding included.
    pub bits_per_weight: f64,
    /// Tensors by type.
    pub types: BTreeMap<String, usize>,
    /// Tensors whose rows the asked type's blocks do not divide: another took its place.
    pub fell_back: Vec<String>,
    /// Largest relative L2 error of a tensor's values, and which one has it.
    pub largest_error: (f64, String),
    /// What the model costs, pass by pass.
    pub passes: Vec<Cost>,
    /// How far the result is from the source, if that was asked for.
    pub measures: Option<Measures>,
}

impl Report {
    pub(crate) fn new(passes: Vec<Cost>) -> Self {
        Report {
            tensors: 0,
            parameters: 0,
            source_bytes: 0,
            bytes: 0,
            bits_per_weight: 0.0,
            types: BTreeMap::new(),
            fell_back: Vec::new(),
            largest_error: (0.0, String::new()),
            passes,
            measures: None,
        }
    }

    /// Counts a tensor that was encoded in so many bytes with this error.
    pub(crate) fn count(&mut self, item: &Item, bytes: usize, error: f64) {
        self.tensors += 1;
        self.parameters += item.parameters();
        self.bytes += bytes;
        let format = item.choice.format.name().to_owned();
        *self.types.entry(format).or_default() += 1;
        if item.choice.fell_back {
            self.fell_back.push(item.name.clone());
        }
        if error > self.largest_error.0 {
            self.largest_error = (error, item.name.clone());
        }
    }

    /// After the last tensor.
    pub(crate) fn finish(&mut self, plan: &Plan<'_>) {
        self.bits_per_weight = self.bytes as f64 * 8.0 / self.parameters.max(1) as f64;
        let mut last = Cost::of(plan, "precision", Vec::new());
        last.bytes = self.bytes;
        let types = self.types.iter().map(|(kind, n)| format!("{n} {kind}"));
        last.notes.push(types.collect::<Vec<_>>().join(", "));
        self.passes.push(last);
    }
}
