//! What the user asks for.

use serde::Deserialize;

use crate::calibration::Calibrate;
use crate::error::{QuantError, Result};
use crate::passes::Pass;
use crate::passes::depth::Depth;
use crate::passes::experts::Experts;
use crate::passes::precision::Precision;
use crate::passes::steps::Steps;
use crate::passes::width::Width;

/// A recipe: one table a pass, each optional. Unknown keys are refused by name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// What the result is called.
    pub about: About,
    /// What the model is watched on, for the passes that need to know what matters.
    pub calibration: Option<Calibrate>,
    /// Layers that are left out.
    pub depth: Option<Depth>,
    /// Neurons that are left out.
    pub width: Option<Width>,
    /// Feed-forward networks that are split.
    pub experts: Option<Experts>,
    /// The defaults of drawings.
    pub steps: Option<Steps>,
    /// The type of every tensor.
    pub precision: Precision,
    /// The recipe as it was written, for the result's provenance.
    #[serde(skip)]
    pub text: String,
}

/// What the result is called.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct About {
    /// `general.name`; left out: the checkpoint's own.
    pub name: Option<String>,
    /// `general.license`.
    pub license: Option<String>,
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// [`QuantError::Recipe`] naming the key or value that cannot be.
    pub fn parse(text: &str) -> Result<Self> {
        let recipe: Recipe = toml::from_str(text)
            .map_err(|e| QuantError::Recipe(e.to_string().trim().to_owned()))?;
        recipe.precision.check()?;
        Ok(Recipe {
            text: text.to_owned(),
            ..recipe
        })
    }

    /// Whether the source model is run to learn what matters to it.
    pub fn calibrates(&self) -> bool {
        self.calibration.is_some() || self.passes().iter().any(|pass| pass.needs_calibration())
    }

    /// The passes that change the plan, in the order in which they run. A new pass is a file, a
    /// field above and a line here.
    pub fn passes(&self) -> Vec<&dyn Pass> {
        fn pass<P: Pass>(table: &Option<P>) -> Option<&dyn Pass> {
            table.as_ref().map(|table| table as &dyn Pass)
        }
        let passes = [
            pass(&self.depth),
            pass(&self.width),
            pass(&self.experts),
            pass(&self.steps),
        ];
        passes.into_iter().flatten().collect()
    }
}
