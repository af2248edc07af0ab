//! Drawings that are looked at: one that does not show what was asked for is drawn again, and the best is kept.

use std::collections::HashSet;

use serde::Serialize;

/// The most drawings for one prompt.
pub const MOST: usize = 16;
/// What a drawing is asked.
pub const QUESTION: &str = "describe the picture.";
/// Words that a picture cannot lack.
const SMALL: [&str; 22] = [
    "a", "an", "and", "are", "as", "at", "by", "from", "has", "in", "into", "is", "it", "its",
    "of", "on", "that", "the", "there", "to", "was", "with",
];

/// What came of looking at drawings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// Drawings that were made.
    pub tries: usize,
    /// What the model sees in the one that was kept.
    pub seen: String,
    /// Share of the prompt's words that are in that, 0 to 1.
    pub shown: f32,
}

/// Draws up to `tries` pictures and keeps the one in which most of the prompt is seen, the first of equals. It
/// ends with the first that shows everything. `draw` gets the number of the try, from 0; `see` says what is in
/// a picture.
///
/// # Errors
/// The first error of `draw` or `see`.
pub fn best<P, E>(
    prompt: &str,
    tries: usize,
    draw: &mut dyn FnMut(usize) -> Result<P, E>,
    see: &mut dyn FnMut(&P) -> Result<String, E>,
) -> Result<(P, Check), E> {
    let mut attempt = |number: usize| {
        let picture = draw(number)?;
        let seen = see(&picture)?;
        let shown = shown(prompt, &seen);
        let tries = number + 1;
        Ok((picture, Check { tries, seen, shown }))
    };
    let mut best = attempt(0)?;
    for number in 1..tries.min(MOST) {
        if best.1.shown >= 1.0 {
            break;
        }
        let other = attempt(number)?;
        if other.1.shown > best.1.shown {
            best = other;
        } else {
            best.1.tries = other.1.tries;
        }
    }
    Ok(best)
}

/// The share of the prompt's words that are seen; a prompt without any is always shown.
fn shown(prompt: &str, seen: &str) -> f32 {
    let (wanted, seen) = (words(prompt), words(seen));
    if wanted.is_empty() {
        return 1.0;
    }
    wanted.intersection(&seen).count() as f32 / wanted.len() as f32
}

/// The words that say what is there.
fn words(text: &str) -> HashSet<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric());
    let says = |word: &&str| !word.is_empty() && !SMALL.contains(word);
    words.filter(says).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drawings of which this is seen, one after another.
    fn kept(prompt: &str, tries: usize, seen: &[&str]) -> (usize, Check) {
        let see = &mut |at: &usize| Ok::<_, ()>(seen[*at].to_owned());
        best(prompt, tries, &mut Ok, see).unwrap()
    }

    #[test]
    fn the_first_drawing_that_shows_everything_is_kept() {
        let seen = ["a dog", "A red ball, on a green background!", "unseen"];
        let (kept, check) = kept("a red ball on the green background", 3, &seen);
        assert_eq!((kept, check.tries, check.shown), (1, 2, 1.0));
    }

    #[test]
    fn otherwise_the_one_that_shows_most() {
        let seen = ["a dog", "a red dog", "a red cat", "a mouse"];
        let (kept, check) = kept("a big red ball", 4, &seen);
        assert_eq!((kept, check.tries), (1, 4));
        assert_eq!(check.seen, "a red dog");
        assert!((check.shown - 1.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn one_try_is_looked_at_and_kept() {
        let (kept, check) = kept("a ball", 1, &["nothing"]);
        assert_eq!((kept, check.tries, check.shown), (0, 1, 0.0));
        assert_eq!(super::shown("", "anything"), 1.0);
    }

    #[test]
    fn what_fails_ends_it() {
        let see = &mut |_: &usize| Err("cannot see");
        assert_eq!(best("a", 3, &mut Ok, see), Err("cannot see"));
    }
}
