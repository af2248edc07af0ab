//! What is compared: recipes in groups.

use std::path::Path;

use kinglet_quant::Recipe;
use serde::Deserialize;

use crate::error::{Result, data_error};

/// A variant of the source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// The figure that it belongs to; empty for the source itself, which belongs to all.
    #[serde(default)]
    pub group: String,
    /// What it is called there.
    pub name: String,
    /// How it is made of the source; empty: it is the source.
    #[serde(default)]
    pub recipe: String,
}

impl Variant {
    /// Whether it is the source itself.
    pub fn is_source(&self) -> bool {
        self.recipe.is_empty()
    }

    /// Whether it is wanted where only some groups are.
    pub fn is_in(&self, only: &str) -> bool {
        self.is_source() || self.group.starts_with(only)
    }

    /// Group and name as a file is called.
    pub fn file_name(&self) -> String {
        slug(&format!("{} {}", self.group, self.name))
    }
}

/// A text as a file is called.
pub fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|w| !w.is_empty()).collect();
    words.join("-").to_lowercase()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    variant: Vec<Variant>,
}

/// Reads the variants; the source comes first, whether the file says so or not.
///
/// # Errors
/// [`crate::EvalError::Data`] if the file or a recipe in it cannot be read, or two have one name.
pub fn read(path: &Path) -> Result<Vec<Variant>> {
    let text = std::fs::read_to_string(path).map_err(|e| data_error(path, e))?;
    let file: File = toml::from_str(&text).map_err(|e| data_error(path, e))?;
    let mut all = vec![Variant {
        group: String::new(),
        name: "source".to_owned(),
        recipe: String::new(),
    }];
    for variant in file.variant {
        let refuse = |reason: &str| data_error(path, format!("{}: {reason}", variant.name));
        if variant.is_source() {
            return Err(refuse("it has no recipe"));
        }
        Recipe::parse(&variant.recipe).map_err(|e| refuse(&e.to_string()))?;
        if all.iter().any(|v| v.file_name() == variant.file_name()) {
            return Err(refuse("another one has this name"));
        }
        all.push(variant);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variants_of_this_crate_can_be_read() {
        let all = read(&crate::data("table.toml")).unwrap();
        assert!(all[0].is_source() && all.len() > 10);
        assert!(all.iter().skip(1).all(|v| !v.group.is_empty()));
    }

    #[test]
    fn files_have_plain_names() {
        assert_eq!(slug("e. bits: Q4_K"), "e-bits-q4-k");
    }
}
