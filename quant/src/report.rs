//! What was done, and what it cost: for the container's metadata, and as a page to read.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cost::Cost;
use crate::error::Result;
use crate::measure::Measures;
use crate::plan::{Item, Plan};

mod page;

pub use page::page;

/// No number takes more characters.
const LONGEST: f64 = -f64::MIN_POSITIVE;
/// Scenes that a report has room for at least, so that an interrupted run may be continued with another
/// number of them.
const SCENES: usize = 32;

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
    /// Scores that were given with the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Map<String, Value>>,
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
            scores: None,
        }
    }

    /// The most bytes that the report can have as JSON, with up to so many scenes measured, or
    /// [`SCENES`] if that is more. Everything but errors and measures is known before any work.
    pub(crate) fn room(&self, items: &[Item], plan: &Plan<'_>, scenes: usize) -> Result<usize> {
        let mut longest = self.clone();
        for item in items {
            longest.count(item, item.bytes()?, 0.0);
        }
        longest.finish(plan);
        let names = items.iter().map(|item| &item.name);
        let name = names.max_by_key(|name| name.len()).cloned();
        longest.largest_error = (LONGEST, name.unwrap_or_default());
        longest.measures = Some(Measures::longest(scenes.max(SCENES), LONGEST));
        Ok(serde_json::to_string(&longest).unwrap_or_default().len())
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
