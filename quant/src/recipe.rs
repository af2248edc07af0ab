//! What the user asks for.

use serde::Deserialize;

use crate::calibration::Calibrate;
use crate::error::{QuantError, Result};
use crate::passes::Pass;
use crate::passes::depth::Depth;
use crate::passes::experts::Experts;
use crate::passes::parts::Parts;
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
    /// What the result can do.
    pub parts: Option<Parts>,
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
        if let Some(key) = recipe.draws_after_all() {
            return Err(QuantError::Recipe(format!(
                "[parts] draw is false, but {key} is about drawing; leave out one of them"
            )));
        }
        Ok(Recipe {
            text: text.to_owned(),
            ..recipe
        })
    }

    /// Whether the result can draw, if its source can.
    pub fn draws(&self) -> bool {
        self.parts.as_ref().is_none_or(|parts| parts.draw)
    }

    /// What is about drawing in a recipe of a result that cannot draw.
    fn draws_after_all(&self) -> Option<&'static str> {
        let depth = self.depth.as_ref().is_some_and(|d| d.generate.is_some());
        let width = self.width.as_ref().is_some_and(|w| w.generate.is_some());
        let all = [
            (depth, "[depth] generate"),
            (width, "[width] generate"),
            (self.experts.is_some(), "[experts]"),
            (self.steps.is_some(), "[steps]"),
        ];
        let named = all.into_iter().find(|(there, _)| *there);
        named.filter(|_| !self.draws()).map(|(_, key)| key)
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
            pass(&self.parts),
            pass(&self.depth),
            pass(&self.width),
            pass(&self.experts),
            pass(&self.steps),
        ];
        passes.into_iter().flatten().collect()
    }
}
