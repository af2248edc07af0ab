//! How much the columns of a matrix matter.

use std::collections::BTreeMap;

/// What calibration found out; without it every column counts the same.
pub trait Importance: Sync {
    /// The mean squares of what each column of a tensor is multiplied with: `[cols]`, none of them
    /// negative. `tensor` is its GGUF name in the source: for experts, that of a single one.
    fn columns(&self, tensor: &str) -> Option<Vec<f32>>;
}

/// Nothing is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unknown;

impl Importance for Unknown {
    fn columns(&self, _tensor: &str) -> Option<Vec<f32>> {
        None
    }
}

impl Importance for BTreeMap<String, Vec<f32>> {
    fn columns(&self, tensor: &str) -> Option<Vec<f32>> {
        self.get(tensor).cloned()
    }
}
