//! A rule in words that the model finds true or not.

use std::time::{Duration, Instant};

use crate::engine::{Form, Question};
use crate::period::Period;

/// How often the model is asked where a rule does not say it.
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(5);

/// Reads `"RULE"`, and how often if ` every:10s` follows.
pub(super) fn parse(text: &str) -> Option<(String, Duration)> {
    let (rule, rest) = text.strip_prefix('"')?.split_once('"')?;
    let period = match rest {
        "" => DEFAULT_PERIOD,
        _ => rest.strip_prefix(" every:")?.parse::<Period>().ok()?.0,
    };
    (!rule.trim().is_empty()).then(|| (rule.to_owned(), period))
}

/// What the model is asked; it can only answer yes or no, so a question needs no words that say so.
pub(super) fn question(rule: &str) -> Question {
    let rule = rule.trim();
    let ask = if rule.ends_with('?') {
        rule.to_owned()
    } else {
        format!("Is this true of the picture: {rule}? Answer yes or no.")
    };
    Question {
        ask,
        form: Form::YesOrNo,
        ..Question::default()
    }
}

/// What has become of a rule, or of a scene, since it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It does not hold, or not for long enough yet.
    Nothing,
    /// It has come to hold.
    Rises,
    /// It holds still.
    Stands,
    /// It does not hold any more.
    Falls,
}

/// Whether a rule was true when it was last looked at. At first it was not.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    held: bool,
    /// Since when it has been true each time it was looked at.
    since: Option<Instant>,
}

impl Edge {
    /// A rule was looked at, which counts once it has held for `debounce`.
    pub(crate) fn turn(&mut self, holds: bool, now: Instant, debounce: Duration) -> Turn {
        let held = self.held;
        if holds {
            let since = *self.since.get_or_insert(now);
            self.held |= now.saturating_duration_since(since) >= debounce;
        } else {
            *self = Edge::default();
        }
        match (held, self.held) {
            (false, false) => Turn::Nothing,
            (false, true) => Turn::Rises,
            (true, true) => Turn::Stands,
            (true, false) => Turn::Falls,
        }
    }

    /// Whether it held when it was last looked at.
    #[cfg(feature = "onnx")]
    pub(crate) fn holds(&self) -> bool {
        self.held
    }

    /// The event could not be made: it is still to come.
    pub(crate) fn forget(&mut self) {
        self.held = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_must_hold_for_a_while() {
        let start = Instant::now();
        let mut edge = Edge::default();
        let mut turns = Vec::new();
        for (second, holds) in [1, 1, 0, 1, 1, 1, 1, 0, 0].into_iter().enumerate() {
            let now = start + Duration::from_secs(second as u64);
            turns.push(edge.turn(holds == 1, now, Duration::from_secs(2)));
        }
        use Turn::{Falls, Nothing, Rises, Stands};
        let expected = [
            Nothing, Nothing, Nothing, Nothing, Nothing, Rises, Stands, Falls, Nothing,
        ];
        assert_eq!(turns, expected);
    }
}
