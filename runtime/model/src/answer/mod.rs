//! Answers of a shape that was asked for: at every step only tokens are chosen that lead to one.
//!
//! - [`schema`](self): [`Schema`], a JSON Schema that has been checked; `node` its grammar, `range`
//!   numbers within bounds.
//! - `vocabulary`: [`Vocabulary`], the bytes of a model's tokens.
//!
//! The grammar is followed by the crate llguidance.

mod node;
mod range;
mod schema;
mod vocabulary;

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;

pub use schema::{
    DEEPEST_SCHEMA, DEFAULT_ITEMS, DEFAULT_LENGTH, LARGEST_SCHEMA, LONGEST_ANSWER, MOST_NODES,
    MOST_VALUES, Schema,
};
pub use vocabulary::Vocabulary;

use crate::error::{ModelError, Result};

/// Which tokens may come next.
pub trait Constraint {
    /// Makes the logits of tokens that may not come next negative infinity. `logits` has one value
    /// for each token of the vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Schema`] if no token may.
    fn mask(&mut self, logits: &mut [f32]) -> Result<()>;

    /// Says which token came; the end of the answer is not told.
    ///
    /// # Errors
    /// [`ModelError::Schema`] if it may not come.
    fn accept(&mut self, token: u32) -> Result<()>;

    /// No answer has more tokens.
    fn longest(&self) -> usize;
}

/// The shape that one answer is held to.
pub struct Shape {
    matcher: Matcher,
    tokens: usize,
    longest: usize,
}

impl Shape {
    /// The shape of a schema.
    ///
    /// # Errors
    /// [`ModelError::Schema`] if its grammar is too large.
    pub fn of_schema(vocabulary: &Vocabulary, schema: &Schema) -> Result<Self> {
        Self::new(vocabulary, schema.root.grammar(), schema.longest())
    }

    /// One of some words, as they are.
    ///
    /// # Errors
    /// [`ModelError::Schema`] if there are none.
    pub fn of_words(vocabulary: &Vocabulary, words: &[&str]) -> Result<Self> {
        let quoted: Vec<String> = words
            .iter()
            .map(|w| serde_json::Value::from(*w).to_string())
            .collect();
        let longest = words.iter().map(|w| w.len()).max().unwrap_or(0);
        Self::new(
            vocabulary,
            format!("start: {}\n", quoted.join(" | ")),
            longest,
        )
    }

    fn new(vocabulary: &Vocabulary, grammar: String, longest: usize) -> Result<Self> {
        let grammar = TopLevelGrammar::from_lark(grammar);
        let matcher = Matcher::new(vocabulary.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(e) => Err(failed(&e)),
            None => Ok(Shape {
                matcher,
                tokens: vocabulary.tokens,
                longest,
            }),
        }
    }
}

impl Constraint for Shape {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|e| failed(&e.to_string()))?;
        let mut some = false;
        for (token, logit) in logits.iter_mut().enumerate() {
            if token < self.tokens && allowed.is_allowed(token as u32) {
                some = true;
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
        if some {
            Ok(())
        } else {
            Err(failed("no token may come next"))
        }
    }

    fn accept(&mut self, token: u32) -> Result<()> {
        self.matcher
            .consume_token(token)
            .map_err(|e| failed(&e.to_string()))
    }

    fn longest(&self) -> usize {
        self.longest
    }
}

fn failed(reason: &str) -> ModelError {
    let reason = reason.lines().next().unwrap_or_default();
    ModelError::Schema(format!("its grammar cannot be followed: {reason}"))
}
