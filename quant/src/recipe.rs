//! What the user asks for.

use serde::Deserialize;

use crate::error::{QuantError, Result};
use crate::passes::precision::Precision;

/// A recipe: one table a pass. Unknown keys are refused by name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// What the result is called.
    pub about: About,
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
}
