//! Lengths of time and rates as users write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The shortest and the longest period, in seconds.
const PERIODS: std::ops::RangeInclusive<f64> = 0.01..=31_536_000.0;
/// The highest rate: so many times are remembered.
const MOST: usize = 10_000;

/// A length of time: `250ms`, `10s`, `1.5m`, `2h`; 10 ms to a year.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        seconds(text).map(Period).ok_or_else(|| {
            format!("\"{text}\" is no length of time as 250ms, 10s, 1.5m or 2h (10 ms to a year)")
        })
    }
}

fn seconds(text: &str) -> Option<Duration> {
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

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_nanos() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_secs_f64() * 1000.0)
        }
    }
}

/// At most so many in any second, minute, hour or day: `20/h`, units `s`, `m`, `h`, `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Limit {
    /// How many.
    pub count: usize,
    /// In any time of this length.
    pub within: Duration,
}

/// The units of a rate, in seconds.
const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86400)];

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let limit = text.split_once('/').and_then(|(count, unit)| {
            let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
            let count = count.parse().ok().filter(|n| (1..=MOST).contains(n))?;
            let within = Duration::from_secs(*seconds);
            Some(Limit { count, within })
        });
        limit.ok_or_else(|| {
            format!("\"{text}\" is no rate as 20/h (units s, m, h, d; at most {MOST} times)")
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.within.as_secs();
        let unit = UNITS.iter().find(|(_, s)| *s == seconds);
        write!(f, "{}/{}", self.count, unit.map_or("", |(name, _)| name))
    }
}

/// What serde needs of a type that users write as a text.
macro_rules! as_text {
    ($name:ty) => {
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use as_text;

as_text!(Period);
as_text!(Limit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for (text, ms) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("1.5m", 90_000),
            ("2h", 7_200_000),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.0, Duration::from_millis(ms));
            assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }
        let limit: Limit = "20/h".parse().unwrap();
        assert_eq!((limit.count, limit.within.as_secs()), (20, 3600));
        assert_eq!(limit.to_string(), "20/h");
    }

    #[test]
    fn what_is_no_period_or_rate_is_refused() {
        for bad in ["", "10", "s", "-1s", "0s", "NaNs", "1e9h", "1w"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
        for bad in ["", "20", "/h", "0/h", "20/w", "20000/h", "-1/h", "1.5/h"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }
}
