//! Times of the day and of the week, in the machine's own time zone.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::period::as_text;

/// A step back of the clock up to this is the end of summer time: what has been done is not done again.
const SUMMER: SignedDuration = SignedDuration::from_hours(2);
/// A longer step forward was not waited for.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Times of one trigger.
const MOST: usize = 96;

/// The date and time on the wall.
pub(crate) fn local(at: OffsetDateTime) -> DateTime {
    let at = Timestamp::from_nanosecond(at.unix_timestamp_nanos()).unwrap_or_default();
    at.to_zoned(TimeZone::system()).datetime()
}

/// A part of every day, or of some days: `22:00-06:00`, `mon-fri 08:00-18:00`, `sat,sun 00:00-24:00`. One
/// that passes midnight belongs to the day on which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    /// From Monday on.
    days: [bool; 7],
    /// Minutes of the day, 0 to 1440.
    from: u16,
    to: u16,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Hours {
    /// Whether a time is within.
    #[must_use]
    pub fn contain(&self, at: DateTime) -> bool {
        let minute = at.hour() as u16 * 60 + at.minute() as u16;
        let today = usize::from(at.weekday().to_monday_zero_offset().unsigned_abs());
        let yesterday = (today + 6) % 7;
        if self.from < self.to {
            self.days[today] && (self.from..self.to).contains(&minute)
        } else {
            self.days[today] && minute >= self.from || self.days[yesterday] && minute < self.to
        }
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (days, hours) = match text.split_once(' ') {
                Some((days, hours)) => (weekdays(days)?, hours),
                None => ([true; 7], text),
            };
            let (from, to) = hours.split_once('-')?;
            let (from, to) = (minute(from)?, minute(to)?);
            (from != to && from < 1440).then_some(Hours { days, from, to })
        };
        read().ok_or_else(|| {
            format!("\"{text}\" is not understood; hours as 22:00-06:00 or mon-fri 08:00-18:00 are expected")
        })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != [true; 7] {
            let days = DAYS.iter().zip(self.days).filter(|(_, on)| *on);
            let names: Vec<&str> = days.map(|(name, _)| *name).collect();
            write!(f, "{} ", names.join(","))?;
        }
        let (from, to) = (self.from, self.to);
        let [h1, m1, h2, m2] = [from / 60, from % 60, to / 60, to % 60];
        write!(f, "{h1:02}:{m1:02}-{h2:02}:{m2:02}")
    }
}

as_text!(Hours);

/// Reads `mon,wed` or `mon-fri`.
fn weekdays(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|d| *d == name);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (mut at, to) = (day(from)?, day(to)?);
        days[at] = true;
        while at != to {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Some(days)
}

/// Reads `HH:MM`, 00:00 to 24:00, as minutes.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= 1440).then_some(minutes)
}

/// Times of the day: `06:30,18:00`.
pub(crate) fn times(text: &str) -> Option<Vec<Time>> {
    let time = |text: &str| {
        let minutes = minute(text.trim()).filter(|m| *m < 1440)?;
        Some(Time::constant(
            (minutes / 60) as i8,
            (minutes % 60) as i8,
            0,
            0,
        ))
    };
    let times: Vec<Time> = text.split(',').map(time).collect::<Option<_>>()?;
    (times.len() <= MOST).then_some(times)
}

/// Says when one of the times of the day has come.
#[derive(Debug)]
pub(crate) struct Daily {
    times: Vec<Time>,
    /// Up to here everything is done.
    done: Option<DateTime>,
}

impl Daily {
    pub(crate) fn new(times: Vec<Time>) -> Self {
        Daily { times, done: None }
    }

    /// Whether one of the times has come since the last call. At the first one none has.
    pub(crate) fn passes(&mut self, now: DateTime) -> bool {
        let done = match self.done {
            Some(done) if now >= done && now.duration_since(done) <= DAY => done,
            Some(done) if now < done && done.duration_since(now) <= SUMMER => return false,
            // The clock was set, or nobody asked for long.
            _ => now,
        };
        self.done = Some(now);
        let come = |date: jiff::civil::Date| {
            self.times.iter().any(|time| {
                let at = date.to_datetime(*time);
                done < at && at <= now
            })
        };
        come(now.date()) || done.date() != now.date() && come(done.date())
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::Weekday;

    use super::*;

    fn at(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    #[test]
    fn hours_pass_midnight_and_know_their_days() {
        // 2026-11-23 is a Monday.
        assert_eq!(at("2026-11-23T12:00").weekday(), Weekday::Monday);
        let hours = |text: &str| text.parse::<Hours>().unwrap();
        for (text, time, within) in [
            ("08:00-18:00", "2026-11-23T08:00", true),
            ("08:00-18:00", "2026-11-23T18:00", false),
            ("22:00-06:00", "2026-11-23T23:59", true),
            ("22:00-06:00", "2026-11-23T05:59", true),
            ("22:00-06:00", "2026-11-23T06:00", false),
            ("fri 22:00-06:00", "2026-11-28T05:00", true),
            ("fri 22:00-06:00", "2026-11-27T05:00", false),
            ("sat,sun 00:00-24:00", "2026-11-29T23:59", true),
            ("sat,sun 00:00-24:00", "2026-11-23T00:00", false),
            ("sat-mon 00:00-24:00", "2026-11-23T00:00", true),
        ] {
            assert_eq!(hours(text).contain(at(time)), within, "{text} {time}");
            assert_eq!(hours(&hours(text).to_string()), hours(text));
        }
        for bad in [
            "",
            "8-18",
            "08:00",
            "08:00-08:00",
            "25:00-26:00",
            "day 08:00-09:00",
            "24:00-08:00",
        ] {
            assert!(bad.parse::<Hours>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_of_the_day_comes_once_a_day() {
        let mut daily = Daily::new(times("06:30, 18:00").unwrap());
        let mut passed = Vec::new();
        for time in [
            "2026-11-23T18:30",
            "2026-11-24T06:29",
            "2026-11-24T06:30",
            "2026-11-24T06:31",
            "2026-11-24T19:00",
            "2026-11-25T07:00",
            // Summer time ends: the hour comes twice.
            "2026-11-25T06:20",
            "2026-11-25T06:40",
            "2026-11-25T17:59",
            "2026-11-25T18:01",
            // The clock is set, back and forth.
            "2020-01-01T00:00",
            "2020-01-01T06:40",
            "2026-11-26T00:00",
        ] {
            if daily.passes(at(time)) {
                passed.push(time);
            }
        }
        assert_eq!(
            passed,
            [
                "2026-11-24T06:30",
                "2026-11-24T19:00",
                "2026-11-25T07:00",
                "2026-11-25T18:01",
                "2020-01-01T06:40",
            ]
        );
        for bad in ["", "24:00", "6:30", "06:30,", "06:60"] {
            assert!(times(bad).is_none(), "{bad}");
        }
    }
}
