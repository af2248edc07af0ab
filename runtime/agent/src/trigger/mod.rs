//! When a frame is looked at, one file a kind.

mod motion;
mod says;

use std::time::{Duration, Instant};

use crate::area;
use crate::config::{WatchConfig, error};
use crate::engine::Question;
use crate::error::Result;
use crate::frame::Frame;
use crate::period::Period;
use crate::schedule::{self, Daily};
pub use motion::Motion;
pub use says::DEFAULT_PERIOD;
pub(crate) use says::{Edge, Turn};

/// When a watch looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Whenever the scene has changed and become still again.
    Motion,
    /// At a fixed rate.
    Every(Duration),
    /// At times of the day.
    At(Vec<jiff::civil::Time>),
    /// When a rule in words becomes true. The model is asked at a fixed rate.
    Says {
        /// The rule.
        rule: String,
        /// How often the model is asked.
        period: Duration,
    },
    /// When somebody asks.
    Command,
}

impl When {
    /// Reads `motion`, `every:10s` (units `ms`, `s`, `m`, `h`), `at:06:30,18:00` or `says:"RULE"`, after
    /// which ` every:10s` may stand.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`].
    pub fn parse(when: &str) -> Result<Self> {
        if when == "motion" {
            return Ok(When::Motion);
        }
        if when == "command" {
            return Ok(When::Command);
        }
        let says = |text| says::parse(text).map(|(rule, period)| When::Says { rule, period });
        when.strip_prefix("every:")
            .and_then(|period| period.parse().ok())
            .map(|Period(period)| When::Every(period))
            .or_else(|| {
                when.strip_prefix("at:")
                    .and_then(schedule::times)
                    .map(When::At)
            })
            .or_else(|| when.strip_prefix("says:").and_then(says))
            .ok_or_else(|| {
                let expected =
                    "is not understood; motion, every:10s, at:06:30, says:\"...\" or command is expected";
                error("watch.when", when, expected)
            })
    }

    /// Reads when a watch looks, and checks that what else it says goes with that.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`].
    pub fn of(watch: &WatchConfig) -> Result<Self> {
        let when = When::parse(&watch.when)?;
        let stays = matches!(when, When::Motion | When::Says { .. });
        let wrong = |key: &str, kinds: &str| {
            let expected = format!(
                "looks when \"{}\"; {key} goes with {kinds} alone",
                watch.when
            );
            Err(error(&format!("watch.{key}"), &watch.name, &expected))
        };
        if !watch.zone.is_empty() && when != When::Motion {
            return wrong("zone", "motion");
        }
        if watch.debounce.is_some() && !stays {
            return wrong("debounce", "motion and says:");
        }
        if watch.follow.is_some() && !stays {
            return wrong("follow", "motion and says:");
        }
        area::read("watch.zone", &watch.zone)?;
        Ok(when)
    }

    /// What the model must say yes to before a frame is looked at.
    pub fn condition(&self) -> Option<Question> {
        match self {
            When::Says { rule, .. } => Some(says::question(rule)),
            When::Motion | When::Every(_) | When::At(_) | When::Command => None,
        }
    }

    /// A trigger of this kind, as a watch wants it.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`].
    pub fn trigger(&self, watch: &WatchConfig) -> Result<Box<dyn Trigger>> {
        Ok(match self {
            When::Motion => {
                let zones = area::read("watch.zone", &watch.zone)?;
                Box::new(Motion::new(&zones, watch.debounce.map(|p| p.0)))
            }
            When::Every(period) | When::Says { period, .. } => Box::new(Every {
                period: *period,
                due: None,
            }),
            When::At(times) => Box::new(Daily::new(times.clone())),
            When::Command => Box::new(Never),
        })
    }
}

/// Decides for every frame whether it is looked at.
pub trait Trigger: Send {
    /// Whether this frame, which arrived `now`, is to be looked at.
    fn fires(&mut self, frame: &Frame, now: Instant) -> bool;

    /// Whether the scene is still the one that was looked at.
    fn stands(&self) -> bool {
        true
    }

    /// The event of the frame for which it fired last could not be made.
    fn missed(&mut self) {}
}

/// Looks at nothing by itself.
struct Never;

impl Trigger for Never {
    fn fires(&mut self, _: &Frame, _: Instant) -> bool {
        false
    }
}

impl Trigger for Daily {
    fn fires(&mut self, frame: &Frame, _: Instant) -> bool {
        self.passes(schedule::local(frame.at))
    }
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
            "command:",
            "at:",
            "at:25:00",
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

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        for (when, lines, words) in [
            ("every:1s", "follow = '5s'", "watch.follow"),
            ("at:06:30", "debounce = '5s'", "watch.debounce"),
            ("every:1s", "zone = [[0, 0, 1, 1]]", "watch.zone"),
            ("motion", "zone = [[0, 0, 2, 1]]", "fractions"),
        ] {
            let text = format!("name = 'w'\ncamera = 'c'\nwhen = '{when}'\nask = '?'\n{lines}");
            let watch: WatchConfig = toml::from_str(&text).unwrap();
            let refused = When::of(&watch).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
