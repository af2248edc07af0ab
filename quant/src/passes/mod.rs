//! One file a pass, each a table of the recipe.

use crate::calibration::Calibration;
use crate::error::Result;
use crate::plan::Plan;

pub mod budget;
pub mod depth;
pub mod experts;
pub mod parts;
pub mod precision;
pub mod router;
pub mod steps;
pub mod width;

/// A change of the plan.
pub trait Pass {
    /// The table of the recipe.
    fn name(&self) -> &'static str;

    /// Whether it must know what matters to the model.
    fn needs_calibration(&self) -> bool;

    /// Changes the plan. Returns what the report shall say about it.
    ///
    /// It runs twice: first with a calibration of nothing, so that whatever the recipe asks for that
    /// cannot be is refused before any work; so errors must not depend on the calibration.
    ///
    /// # Errors
    /// [`crate::QuantError::Recipe`] naming what cannot be.
    fn apply(&self, plan: &mut Plan<'_>, calibration: &Calibration) -> Result<Vec<String>>;
}

/// The name of a tensor of a layer; `suffix` is empty or that of the generation twin.
pub(crate) fn tensor(layer: usize, part: &str, suffix: &str) -> String {
    format!("blk.{layer}.{part}{suffix}.weight")
}
