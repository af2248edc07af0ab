//! When a frame is looked at, one file a kind.

mod motion;
mod says;

use std::time::{Duration, Instant};

use crate::config::error;
use crate::engine::Question;
use crate::error::Result;
use crate::frame::Frame;
pub use motion::Motion;
pub use says::DEFAULT_PERIOD;
pub(crate) use says::Edge;

/// When a watch looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Whenever the scene has changed and become still again.
    Motion,
    /// At a fixed rate.
    Every(Duration),
    /// When a rule in words becomes true. The model is asked at a fixed rate.
    Says {
        /// The rule.
        rule: String,
        /// How often the model is asked.
        period: Duration,
    },
}

/// The shortest and the longest period of `every:`, in seconds.
const PERIODS: std::ops::RangeInclusive<f64> = 0.01..=31_536_000.0;

impl When {
    /// Reads `motion`, `every:10s` (units `ms`, `s`, `m`, `h`) or `says:"RULE"`, after which
    /// ` every:10s` may stand.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`].
    pub fn parse(when: &str) -> Result<Self> {
        if when == "motion" {
            return Ok(When::Motion);
        }
        let says = |text| says::parse(text).map(|(rule, period)| When::Says { rule, period });
        when.strip_prefix("every:")
            .and_then(duration)
            .map(When::Every)
            .or_else(|| when.strip_prefix("says:").and_then(says))
            .ok_or_else(|| {
                let expected = "is not understood; motion, every:10s or says:\"...\" is expected";
                error("watch.when", when, expected)
            })
    }

    /// What the model must say yes to before a frame is looked at.
    pub fn condition(&self) -> Option<Question> {
        match self {
            When::Says { rule, .. } => Some(says::question(rule)),
            When::Motion | When::Every(_) => None,
        }
    }

    /// A trigger of this kind.
    pub fn trigger(&self) -> Box<dyn Trigger> {
        match self {
            When::Motion => Box::new(Motion::default()),
            When::Every(period) | When::Says { period, .. } => Box::new(Every {
                period: *period,
                due: None,
            }),
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * unit;
    PERIODS
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

/// Decides for every frame whether it is looked at.
pub trait Trigger: Send {
    /// Whether this frame, which arrived `now`, is to be looked at.
    fn fires(&mut self, frame: &Frame, now: Instant) -> bool;
}

struct Every {
    period: Duration,
    due: Option<Instant>,
}

impl Trigger for Every {
    fn fires(&mut self, _: &Frame, now: Instant) -> bool {
        let fires = self.due.is_none_or(|due| now >= due);
        if fires {
            // From the due time, not from now, or the rate would drift; but never in the past.
            let next = self.due.unwrap_or(now) + self.period;
            self.due = Some(next.max(now));
        }
        fires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_with_their_periods() {
        let says = |when: &str| match When::parse(when).unwrap() {
            When::Says { rule, period } => (rule, period),
            other => panic!("{other:?}"),
        };
        let rule = || "somebody is at the door".to_owned();
        assert_eq!(
            says("says:\"somebody is at the door\""),
            (rule(), DEFAULT_PERIOD)
        );
        assert_eq!(
            says("says:\"somebody is at the door\" every:1m"),
            (rule(), Duration::from_secs(60))
        );
    }

    #[test]
    fn periods_are_read_with_their_units() {
        let seconds = |s| When::parse(s).unwrap();
        assert_eq!(seconds("every:10s"), When::Every(Duration::from_secs(10)));
        assert_eq!(seconds("every:1.5m"), When::Every(Duration::from_secs(90)));
        assert_eq!(
            seconds("every:250ms"),
            When::Every(Duration::from_millis(250))
        );
        for bad in [
            "",
            "every:",
            "every:10",
            "every:s",
            "every:-1s",
            "every:0s",
            "every:NaNs",
            "noon",
            "says:",
            "says:\"\"",
            "says:\" \"",
            "says:somebody",
            "says:\"somebody",
            "says:\"somebody\" soon",
            "says:\"somebody\" every:0s",
        ] {
            assert!(When::parse(bad).is_err(), "{bad}");
        }
    }
}
