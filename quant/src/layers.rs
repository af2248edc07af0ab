//! Which layers a pass is for.

use serde::Deserialize;

use crate::error::{QuantError, Result};

/// Layers by number: `"1..27"` (1 to 26), `"1..=26"`, `"all"`, or a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    /// A range, or all.
    Text(String),
    /// One by one.
    List(Vec<usize>),
}

impl Default for Layers {
    fn default() -> Self {
        Layers::Text("all".to_owned())
    }
}

impl Layers {
    /// The numbers, ascending, for a model with `blocks` layers; `key` is what errors call this.
    ///
    /// # Errors
    /// [`QuantError::Recipe`] if it is no range, empty, or names a layer that the model lacks.
    pub fn resolve(&self, blocks: usize, key: &str) -> Result<Vec<usize>> {
        let refuse = |text: &str| Err(QuantError::Recipe(format!("{key}: {text}")));
        let mut numbers: Vec<usize> = match self {
            Layers::List(list) => list.clone(),
            Layers::Text(text) if text == "all" => (0..blocks).collect(),
            Layers::Text(text) => {
                let Some((first, end)) = range(text) else {
                    return refuse(&format!(
                        "\"{text}\" is no range of layers; \"1..27\" is 1 to 26, \"1..=26\" as well"
                    ));
                };
                if end > blocks {
                    return refuse(&format!(
                        "\"{text}\" goes beyond the last layer, which is {}",
                        blocks.saturating_sub(1)
                    ));
                }
                (first..end).collect()
            }
        };
        numbers.sort_unstable();
        numbers.dedup();
        match numbers.last() {
            None => refuse("there is no layer in it"),
            Some(last) if *last >= blocks => refuse(&format!(
                "there is no layer {last}; the last one is {}",
                blocks.saturating_sub(1)
            )),
            Some(_) => Ok(numbers),
        }
    }
}

/// The first number of a range, and the one behind its last.
fn range(text: &str) -> Option<(usize, usize)> {
    let (first, end) = text.split_once("..")?;
    let first = first.trim().parse().ok()?;
    match end.trim().strip_prefix('=') {
        Some(last) => Some((first, last.trim().parse::<usize>().ok()?.checked_add(1)?)),
        None => Some((first, end.trim().parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lists_and_all_are_understood() {
        let text = |text: &str| Layers::Text(text.to_owned()).resolve(4, "x");
        assert_eq!(text("1..3").unwrap(), [1, 2]);
        assert_eq!(text("1..=3").unwrap(), [1, 2, 3]);
        assert_eq!(text("all").unwrap(), [0, 1, 2, 3]);
        assert_eq!(Layers::List(vec![3, 0, 3]).resolve(4, "x").unwrap(), [0, 3]);
        for bad in ["1..5", "3..1", "1-3", "..", "0..=18446744073709551615"] {
            assert!(text(bad).is_err(), "{bad}");
        }
        let beyond = Layers::List(vec![4]).resolve(4, "[experts] layers");
        assert!(beyond.unwrap_err().to_string().contains("[experts] layers"));
    }
}
