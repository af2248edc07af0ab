//! When a frame is looked at, one file a kind.

mod motion;

use std::time::{Duration, Instant};

use crate::config::error;
use crate::error::Result;
use crate::frame::Frame;
pub use motion::Motion;

/// When a watch looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Whenever the scene has changed and become still again.
    Motion,
    /// At a fixed rate.
    Every(Duration),
}

/// The shortest and the longest period of `every:`, in seconds.
const PERIODS: std::ops::RangeInclusive<f64> = 0.01..=31_536_000.0;

impl When {
    /// Reads `motion` or `every:10s` (units `ms`, `s`, `m`, `h`).
    ///
    /// # Errors
    /// [`crate::AgentError::Config`].
    pub fn parse(when: &str) -> Result<Self> {
        if when == "motion" {
            return Ok(When::Motion);
        }
        when.strip_prefix("every:")
            .and_then(duration)
            .map(When::Every)
            .ok_or_else(|| {
                let expected = "is not understood; \"motion\" or \"every:10s\" is expected";
                error("watch.when", when, expected)
            })
    }

    /// A trigger of this kind.
    pub fn trigger(&self) -> Box<dyn Trigger> {
        match self {
            When::Motion => Box::new(Motion::default()),
            When::Every(period) => Box::new(Every {
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
        ] {
            assert!(When::parse(bad).is_err(), "{bad}");
        }
    }
}
