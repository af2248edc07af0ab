//! The microcontroller that wakes the board.

use std::path::PathBuf;
use std::time::Duration;

use kinglet_link::{INPUTS, InputRule, Light, Settings, Watchdog};
use serde::Deserialize;

use super::{error, name_error};
use crate::error::Result;
use crate::period::Period;
use crate::topic;

/// `[companion]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompanionConfig {
    /// The serial line: `/dev/ttyUSB0`.
    pub device: PathBuf,
    /// Bits a second.
    #[serde(default = "baud")]
    pub baud: u32,
    /// How often it says how it is.
    #[serde(default = "report")]
    pub report: Period,
    /// Cuts the board's power when the program shows no sign of life; left out: never.
    #[serde(default)]
    pub watchdog: Option<WatchdogConfig>,
    /// Its inputs, in its order.
    #[serde(default)]
    pub input: Vec<InputConfig>,
}

fn baud() -> u32 {
    115_200
}

fn report() -> Period {
    Period(Duration::from_secs(10))
}

/// `[companion.watchdog]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchdogConfig {
    /// How long it waits for a sign of life.
    #[serde(default = "minute")]
    pub patience: Period,
    /// How long the board may take to start; doubled with every try in a row.
    #[serde(default = "minutes")]
    pub start: Period,
    /// How long the power is cut.
    #[serde(default = "seconds")]
    pub off: Period,
}

fn minute() -> Period {
    Period(Duration::from_secs(60))
}

fn minutes() -> Period {
    Period(Duration::from_secs(180))
}

fn seconds() -> Period {
    Period(Duration::from_secs(5))
}

/// `[[companion.input]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputConfig {
    /// What watches and events call it.
    pub name: String,
    /// Whether it wakes the board.
    #[serde(default = "yes")]
    pub wakes: bool,
    /// The level at which it is active.
    #[serde(default)]
    pub active: Level,
    /// How long a level must last before it counts.
    #[serde(default = "debounce")]
    pub debounce: Period,
    /// How often it must become active within the time of `within`.
    #[serde(default = "once")]
    pub count: u16,
    /// See `count`.
    #[serde(default)]
    pub within: Option<Period>,
    /// How long it rests after it has woken the board.
    #[serde(default)]
    pub rest: Option<Period>,
    /// It wakes only when it is as dark as this: 0 to 1, of what the light sensor can measure.
    #[serde(default)]
    pub darker_than: Option<f64>,
}

fn yes() -> bool {
    true
}

fn debounce() -> Period {
    Period(Duration::from_millis(50))
}

fn once() -> u16 {
    1
}

/// A level of an input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As a PIR's output is.
    #[default]
    High,
    /// As a contact against ground is.
    Low,
}

impl CompanionConfig {
    /// What the companion is told.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`] naming the key.
    pub fn settings(&self) -> Result<Settings> {
        let mut inputs = heapless::Vec::new();
        for (i, input) in self.input.iter().enumerate() {
            if !topic::is_name(&input.name) {
                return Err(name_error("companion.input.name", &input.name));
            }
            if self.input[..i].iter().any(|other| other.name == input.name) {
                let twice = "is used twice";
                return Err(error("companion.input.name", &input.name, twice));
            }
            if inputs.push(input.rule()?).is_err() {
                let expected = format!("is one too many; a companion has at most {INPUTS} inputs");
                return Err(error("companion.input.name", &input.name, &expected));
            }
        }
        let watchdog = self.watchdog.as_ref().map(|w| {
            Ok(Watchdog {
                patience: whole_seconds("companion.watchdog.patience", w.patience)?,
                start: whole_seconds("companion.watchdog.start", w.start)?,
                off: whole_seconds("companion.watchdog.off", w.off)?,
            })
        });
        let report = whole_seconds("companion.report", self.report)?;
        if report > 3600 {
            let expected = "is too long; at most 1h is accepted";
            return Err(error(
                "companion.report",
                &self.report.to_string(),
                expected,
            ));
        }
        Ok(Settings {
            inputs,
            watchdog: watchdog.transpose()?,
            report,
        })
    }

    /// The name of an input by its number; the number, if it has none.
    #[must_use]
    pub fn input_name(&self, input: u8) -> String {
        let named = self.input.get(usize::from(input));
        named.map_or_else(|| input.to_string(), |input| input.name.clone())
    }
}

impl InputConfig {
    fn rule(&self) -> Result<InputRule> {
        let optional = |field: &str, period: Option<Period>| {
            period.map_or(Ok(0), |period| whole_seconds(field, period))
        };
        let debounce = u16::try_from(self.debounce.0.as_millis());
        let light = |part: f64| {
            if (0.0..=1.0).contains(&part) {
                return Ok((part * f64::from(Light::MAX)).round() as Light);
            }
            let expected = "is no part of the sensor's range: 0 to 1 is expected";
            Err(error(
                "companion.input.darker_than",
                &part.to_string(),
                expected,
            ))
        };
        if !(1..=16).contains(&self.count) {
            let expected = "is not accepted; 1 to 16 are";
            return Err(error(
                "companion.input.count",
                &self.count.to_string(),
                expected,
            ));
        }
        Ok(InputRule {
            wakes: self.wakes,
            active_low: self.active == Level::Low,
            debounce: debounce.map_err(|_| {
                let expected = "is too long; at most 65s is accepted";
                error(
                    "companion.input.debounce",
                    &self.debounce.to_string(),
                    expected,
                )
            })?,
            count: self.count,
            within: optional("companion.input.within", self.within)?,
            rest: optional("companion.input.rest", self.rest)?,
            darker_than: self.darker_than.map(light).transpose()?,
        })
    }
}

/// Seconds, as a companion counts them.
fn whole_seconds(field: &str, period: Period) -> Result<u16> {
    let seconds = u16::try_from(period.0.as_secs());
    let whole = period.0.subsec_nanos() == 0;
    seconds.ok().filter(|&s| s > 0 && whole).ok_or_else(|| {
        let expected = "is no whole number of seconds from 1s to 18h";
        error(field, &period.to_string(), expected)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lines: &str) -> std::result::Result<Settings, String> {
        let config: std::result::Result<CompanionConfig, _> =
            toml::from_str(&format!("device = '/dev/ttyUSB0'\n{lines}"));
        let config = config.map_err(|e| e.to_string())?;
        config.settings().map_err(|e| e.to_string())
    }

    #[test]
    fn what_a_user_writes_becomes_a_rule() {
        let read = settings(
            "watchdog = {}\n[[input]]\nname = 'pir'\n[[input]]\nname = 'gate'\nactive = 'low'\ndebounce = '1s'\n\
             count = 3\nwithin = '10s'\nrest = '1m'\ndarker_than = 0.25",
        );
        let read = read.unwrap();
        assert_eq!(read.inputs[0], InputRule::default());
        let gate = InputRule {
            wakes: true,
            active_low: true,
            debounce: 1000,
            count: 3,
            within: 10,
            rest: 60,
            darker_than: Some(16_384),
        };
        assert_eq!(read.inputs[1], gate);
        let watchdog = Watchdog {
            patience: 60,
            start: 180,
            off: 5,
        };
        assert_eq!((read.watchdog, read.report), (Some(watchdog), 10));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let input = |lines: &str| format!("[[input]]\nname = 'pir'\n{lines}");
        for (lines, words) in [
            (input("count = 0"), "companion.input.count"),
            (input("count = 17"), "companion.input.count"),
            (input("within = '1500ms'"), "companion.input.within"),
            (input("rest = '19h'"), "companion.input.rest"),
            (input("debounce = '2m'"), "companion.input.debounce"),
            (input("darker_than = 1.5"), "companion.input.darker_than"),
            (input("darker_than = nan"), "companion.input.darker_than"),
            (input("[[input]]\nname = 'pir'"), "used twice"),
            (input("[[input]]\nname = 'P I R'"), "companion.input.name"),
            (
                (0..5)
                    .map(|i| format!("[[input]]\nname = 'i{i}'\n"))
                    .collect(),
                "at most 4",
            ),
            ("report = '2h'".to_owned(), "companion.report"),
            ("watchdog = { off = '10ms' }".to_owned(), "watchdog.off"),
            ("wires = 3".to_owned(), "wires"),
        ] {
            let refused = settings(&lines).unwrap_err();
            assert!(refused.contains(words), "{lines}: {refused}");
        }
    }
}
