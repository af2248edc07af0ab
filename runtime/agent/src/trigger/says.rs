//! A rule in words that the model finds true or not.

use std::time::Duration;

use crate::engine::{Form, Question};

/// How often the model is asked where a rule does not say it.
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(5);

/// Reads `"RULE"`, and how often if ` every:10s` follows.
pub(super) fn parse(text: &str) -> Option<(String, Duration)> {
    let (rule, rest) = text.strip_prefix('"')?.split_once('"')?;
    let period = match rest {
        "" => DEFAULT_PERIOD,
        _ => super::duration(rest.strip_prefix(" every:")?)?,
    };
    (!rule.trim().is_empty()).then(|| (rule.to_owned(), period))
}

/// What the model is asked; it answers yes or no.
pub(super) fn question(rule: &str) -> Question {
    let rule = rule.trim();
    let ask = if rule.ends_with('?') {
        format!("{rule} Answer yes or no.")
    } else {
        format!("Is this true of the picture: {rule}? Answer yes or no.")
    };
    Question {
        ask,
        form: Form::YesOrNo,
        ..Question::default()
    }
}

/// Whether a rule was true when it was last looked at. At first it was not.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    held: bool,
}

impl Edge {
    /// Whether the rule has just become true.
    pub(crate) fn rises(&mut self, holds: bool) -> bool {
        let rises = holds && !self.held;
        self.held = holds;
        rises
    }

    /// The event could not be made: it is still to come.
    pub(crate) fn forget(&mut self) {
        self.held = false;
    }
}
