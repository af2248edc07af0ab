//! What is to be drawn, and what must then be there.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Result, data_error};

/// Something to draw, or an edit of a picture.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// GenEval's name (single object, two object, counting, colors, position, attribute), or what kind of edit it is.
    pub category: String,
    /// The prompt or the order.
    pub prompt: String,
    /// The picture that is edited: a file beside `prompts.json`.
    #[serde(default)]
    pub picture: Option<String>,
    /// The names of all things that should be there.
    pub things: Vec<String>,
    /// The background's colour, if one is asked for.
    #[serde(default)]
    pub background: Option<String>,
    /// How the first of two things should stand to the other.
    #[serde(default)]
    pub relation: Option<(String, String, String)>,
    /// How large the thing should be: `small` or `large`.
    #[serde(default)]
    pub size: Option<String>,
    /// Things of the edited picture that should stay where they are: name, x and y in pixels.
    #[serde(default)]
    pub kept: Vec<(String, f32, f32)>,
}

/// What is to be drawn of a folder.
///
/// # Errors
/// [`crate::EvalError`] if its `prompts.json` is not sound.
pub fn wanted(folder: &Path) -> Result<Vec<Wanted>> {
    let path = folder.join("prompts.json");
    let text = std::fs::read(&path).map_err(|e| data_error(&path, e))?;
    serde_json::from_slice(&text).map_err(|e| data_error(&path, e))
}

/// The numbers of the first `most` of each category.
pub fn first_of_each<'a>(categories: impl Iterator<Item = &'a str>, most: usize) -> Vec<usize> {
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut taken = Vec::new();
    for (i, category) in categories.enumerate() {
        let count = counts.entry(category).or_default();
        *count += 1;
        if *count <= most {
            taken.push(i);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_category_has_its_first_ones() {
        let categories = ["a", "b", "a", "a", "b"];
        assert_eq!(first_of_each(categories.into_iter(), 2), [0, 1, 2, 4]);
        assert_eq!(first_of_each(categories.into_iter(), usize::MAX).len(), 5);
    }
}
