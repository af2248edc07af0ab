//! When a frame is looked at, one file a kind.

mod companion;
mod motion;
#[cfg(feature = "onnx")]
pub mod onnx;
mod says;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::area::{self, Area};
use crate::companion::Wakes;
use crate::config::{OnnxConfig, Publish, WatchConfig, error};
use crate::engine::Question;
use crate::error::Result;
use crate::frame::Frame;
use crate::message::Cause;
use crate::period::Period;
use crate::schedule::{self, Daily};
use crate::topic;
use crate::watch::Watch;
pub use motion::Motion;
pub use says::DEFAULT_PERIOD;
pub(crate) use says::Edge;
pub use says::Turn;

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
    /// When the network in this file comes to find something.
    Onnx(PathBuf),
    /// When the microcontroller wakes the board, by this input or by any.
    Companion(Option<String>),
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
        if when == "companion" {
            return Ok(When::Companion(None));
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
            .or_else(|| {
                let file = when.strip_prefix("onnx:").filter(|file| !file.is_empty());
                file.map(|file| When::Onnx(file.into()))
            })
            .or_else(|| {
                let input = when.strip_prefix("companion:");
                let input = input.filter(|input| topic::is_name(input))?;
                Some(When::Companion(Some(input.to_owned())))
            })
            .ok_or_else(|| {
                let expected =
                    "is not understood; motion, every:10s, at:06:30, says:\"...\", onnx:FILE, companion or command is expected";
                error("watch.when", when, expected)
            })
    }

    /// Reads when a watch looks, and checks that what else it says goes with that.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`].
    pub fn of(watch: &WatchConfig) -> Result<Self> {
        let when = When::parse(&watch.when)?;
        let stays = matches!(when, When::Motion | When::Says { .. } | When::Onnx(_));
        let wrong = |key: &str, kinds: &str| {
            let expected = format!(
                "looks when \"{}\"; {key} goes with {kinds} alone",
                watch.when
            );
            Err(error(&format!("watch.{key}"), &watch.name, &expected))
        };
        let boxes = watch.onnx.as_ref().is_some_and(OnnxConfig::finds_boxes);
        if !watch.zone.is_empty() && when != When::Motion && !boxes {
            return wrong("zone", "motion and with boxes of onnx:");
        }
        if watch.debounce.is_some() && !stays {
            return wrong("debounce", "motion, says: and onnx:");
        }
        if watch.follow.is_some() && !stays {
            return wrong("follow", "motion, says: and onnx:");
        }
        match (&when, &watch.onnx) {
            (When::Onnx(_), Some(onnx)) => onnx.check()?,
            (When::Onnx(_), None) => {
                let expected = "has no [watch.onnx]: the names of its classes are needed";
                return Err(error("watch.when", &watch.when, expected));
            }
            (_, Some(_)) => return wrong("onnx", "onnx:"),
            (_, None) => {}
        }
        area::read("watch.zone", &watch.zone)?;
        if let Some(region) = watch.region {
            area::read_one("watch.region", region)?;
        } else if watch.publish.contains(&Publish::Crop) && when != When::Motion && !boxes {
            let expected = format!(
                "looks when \"{}\"; publish = [\"crop\"] goes with motion, with boxes of onnx: or with a region",
                watch.when
            );
            return Err(error("watch.publish", &watch.name, &expected));
        }
        Ok(when)
    }

    /// What the model must say yes to before a frame is looked at.
    pub fn condition(&self) -> Option<Question> {
        match self {
            When::Says { rule, .. } => Some(says::question(rule)),
            When::Motion
            | When::Every(_)
            | When::At(_)
            | When::Onnx(_)
            | When::Companion(_)
            | When::Command => None,
        }
    }

    /// A trigger of this kind, as a watch wants it.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`].
    pub(crate) fn trigger(&self, watch: &Watch, wakes: &Arc<Wakes>) -> Result<Box<dyn Trigger>> {
        let zones = area::read("watch.zone", &watch.config.zone)?;
        let debounce = watch.config.debounce.map(|p| p.0);
        Ok(match self {
            When::Motion => Box::new(Motion::new(&zones, debounce)),
            When::Every(period) | When::Says { period, .. } => Box::new(Every::new(*period)),
            When::At(times) => Box::new(Daily::new(times.clone())),
            #[cfg(feature = "onnx")]
            When::Onnx(_) => match (&watch.network, &watch.config.onnx) {
                (Some(network), Some(config)) => {
                    let (network, period) = (Arc::clone(network), config.every.0);
                    let debounce = debounce.unwrap_or_default();
                    Box::new(onnx::Onnx::new(network, zones, period, debounce))
                }
                // A watch that was loaded has both.
                _ => Box::new(Never),
            },
            #[cfg(not(feature = "onnx"))]
            When::Onnx(_) => Box::new(Never),
            When::Companion(input) => {
                Box::new(companion::Companion::new(Arc::clone(wakes), input.clone()))
            }
            When::Command => Box::new(Never),
        })
    }
}

/// Decides for every frame whether it is looked at.
pub(crate) trait Trigger: Send {
    /// What has become of the scene with this frame, which arrived `now`: [`Turn::Rises`] if it is to be looked at
    /// as something new, which cannot be unless a new event `may` be made; [`Turn::Stands`] if the scene is still
    /// the one that was looked at.
    fn turn(&mut self, frame: &Frame, now: Instant, may: bool) -> Turn;

    /// What was seen in the frame of the last turn.
    fn cause(&self) -> Option<Cause> {
        None
    }

    /// The part of the picture that made it fire last, where it knows one.
    fn part(&self) -> Option<Area> {
        match self.cause()? {
            Cause::Found { area, .. } => area.map(Area::of),
            Cause::Command { .. } | Cause::Woken { .. } => None,
        }
    }

    /// How long a network has run for the last turn, if one has.
    fn took(&self) -> Option<Duration> {
        None
    }

    /// The event of what rose last could not be made.
    fn missed(&mut self) {}
}

/// Looks at nothing by itself.
struct Never;

impl Trigger for Never {
    fn turn(&mut self, _: &Frame, _: Instant, _: bool) -> Turn {
        Turn::Nothing
    }
}

impl Trigger for Daily {
    fn turn(&mut self, frame: &Frame, _: Instant, may: bool) -> Turn {
        if may && self.passes(schedule::local(frame.at)) {
            Turn::Rises
        } else {
            Turn::Nothing
        }
    }
}

/// A fixed rate.
struct Every {
    period: Duration,
    due: Option<Instant>,
}

impl Every {
    fn new(period: Duration) -> Self {
        Every { period, due: None }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_none_or(|due| now >= due);
        if is_due {
            // From the due time, not from now, or the rate would drift; but never in the past.
            let next = self.due.unwrap_or(now) + self.period;
            self.due = Some(next.max(now));
        }
        is_due
    }
}

impl Trigger for Every {
    fn turn(&mut self, _: &Frame, now: Instant, may: bool) -> Turn {
        if may && self.is_due(now) {
            Turn::Rises
        } else {
            Turn::Nothing
        }
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
            "companion:",
            "companion:P I R",
            "onnx:",
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
            ("motion", "region = [0, 0, 2, 1]", "watch.region"),
            ("every:1s", "publish = ['crop']", "watch.publish"),
            ("command", "follow = '5s'", "watch.follow"),
            ("onnx:a", "", "[watch.onnx]"),
            ("motion", "onnx = { classes = ['a'] }", "watch.onnx"),
            ("onnx:a", "onnx = { classes = [] }", "watch.onnx.classes"),
            (
                "onnx:a",
                "onnx = { classes = ['a'], find = ['b'] }",
                "watch.onnx.find",
            ),
            (
                "onnx:a",
                "onnx = { classes = ['a'], score = nan }",
                "watch.onnx.score",
            ),
            (
                "onnx:a",
                "onnx = { classes = ['a'], overlap = 2 }",
                "watch.onnx.overlap",
            ),
            (
                "onnx:a",
                "onnx = { classes = ['a'], size = [0, 9] }",
                "watch.onnx.size",
            ),
            (
                "onnx:a",
                "onnx = { classes = ['a'], size = [64, 9999] }",
                "watch.onnx.size",
            ),
            (
                "onnx:a",
                "onnx = { classes = ['a'], std = [1, 0, 1] }",
                "watch.onnx.std",
            ),
            (
                "onnx:a",
                "onnx = { classes = ['a'], mean = [inf, 0, 1] }",
                "mean",
            ),
            (
                "onnx:a",
                "zone = [[0, 0, 1, 1]]\nonnx = { classes = ['a'] }",
                "watch.zone",
            ),
        ] {
            let text = format!("name = 'w'\ncamera = 'c'\nwhen = '{when}'\nask = '?'\n{lines}");
            let watch: WatchConfig = toml::from_str(&text).unwrap();
            let refused = When::of(&watch).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
