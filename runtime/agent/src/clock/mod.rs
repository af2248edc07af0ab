//! What time it is, and whether that is known.
//!
//! A board without a battery clock starts in the past, and may start at the time at which it was switched
//! off. So its clock counts only once somebody vouches for it: the kernel (NTP or the like keeps it right),
//! a battery clock that says the same, or the configuration. Whoever vouches, a time before the last known
//! one is wrong. The last known time is kept in [`State`] and never goes back.

mod door;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::Result;
use crate::state::State;

/// How often the last known time is written.
pub const KEPT: Duration = Duration::from_secs(600);
/// What payloads say while the time is not known.
pub const UNSYNCHRONISED: &str = "unsynchronised";
/// The last known time, in seconds since 1970.
const LAST: &str = "clock";
/// 2026-01-01: no agent of this kind ran before.
const EARLIEST: i64 = 1_767_225_600;
/// How far a battery clock may be off the system's.
const AGREED: i64 = 60;
/// Where Linux shows battery clocks.
const BATTERY_CLOCKS: &str = "/sys/class/rtc";

/// Whom to believe about the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockTrust {
    /// The kernel and battery clocks.
    #[default]
    Auto,
    /// The system's clock, whatever the kernel says of it.
    System,
}

/// Where time comes from.
pub trait Source: Send + Sync {
    /// What the system's clock says.
    fn now(&self) -> OffsetDateTime;
    /// Whether somebody vouches for it.
    fn vouched(&self) -> bool;
}

/// The system's clock.
struct System(ClockTrust);

impl Source for System {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn vouched(&self) -> bool {
        self.0 == ClockTrust::System
            || door::disciplined()
            || battery_agrees(Path::new(BATTERY_CLOCKS), self.now().unix_timestamp())
    }
}

/// Whether a battery clock says the same. One whose battery is flat starts in the past.
fn battery_agrees(folder: &Path, now: i64) -> bool {
    let clocks = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let time = |clock: std::fs::DirEntry| {
        let text = std::fs::read_to_string(clock.path().join("since_epoch")).ok()?;
        text.trim().parse::<i64>().ok()
    };
    clocks
        .filter_map(time)
        .any(|time| time.abs_diff(now) <= AGREED as u64)
}

/// A clock that knows whether it is right.
pub struct Clock {
    source: Box<dyn Source>,
    state: Arc<State>,
    /// Whether somebody has vouched for it since the start: a clock that was right goes on.
    known: AtomicBool,
    /// The last known time that is on disk, in seconds since 1970.
    last: Mutex<i64>,
}

impl Clock {
    /// The system's clock. The last known time is in `state`.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if that cannot be read.
    pub fn new(state: Arc<State>, trust: ClockTrust) -> Result<Self> {
        Self::of(Box::new(System(trust)), state)
    }

    /// A clock that gets its time elsewhere.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if the last known time cannot be read.
    pub fn of(source: Box<dyn Source>, state: Arc<State>) -> Result<Self> {
        let last = state.get(LAST)?.unwrap_or(EARLIEST).max(EARLIEST);
        Ok(Clock {
            source,
            state,
            known: AtomicBool::new(false),
            last: Mutex::new(last),
        })
    }

    /// The time, if it is known.
    #[must_use]
    pub fn known(&self) -> Option<OffsetDateTime> {
        let now = self.source.now();
        if now.unix_timestamp() < self.last() {
            return None;
        }
        if !self.known.load(Ordering::Relaxed) {
            if !self.source.vouched() {
                return None;
            }
            self.known.store(true, Ordering::Relaxed);
        }
        Some(now)
    }

    /// What payloads say about the clock: nothing once the time is known.
    #[must_use]
    pub fn mark(&self) -> Option<&'static str> {
        self.known().is_none().then_some(UNSYNCHRONISED)
    }

    /// Why a command is refused while the time is not known.
    #[must_use]
    pub fn complaint(&self) -> String {
        let last = OffsetDateTime::from_unix_timestamp(self.last()).ok();
        let last = last.and_then(|t| t.format(&Rfc3339).ok());
        format!(
            "clock: {UNSYNCHRONISED}: this device does not know the time (it is after {})",
            last.unwrap_or_default()
        )
    }

    /// Writes the time to disk, if it is known and later than what is there.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if it could not be written.
    pub fn keep(&self) -> Result<()> {
        let Some(now) = self.known() else {
            return Ok(());
        };
        let now = now.unix_timestamp();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if now > *last {
            self.state.set(LAST, &now)?;
            *last = now;
        }
        Ok(())
    }

    fn last(&self) -> i64 {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;

    /// A clock that a test sets: seconds since 1970, and whether somebody vouches for it.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Fake {
        pub(crate) seconds: Arc<AtomicI64>,
        pub(crate) vouched: Arc<AtomicBool>,
    }

    impl Fake {
        pub(crate) fn set(&self, seconds: i64, vouched: bool) {
            self.seconds.store(seconds, Ordering::Relaxed);
            self.vouched.store(vouched, Ordering::Relaxed);
        }
    }

    impl Source for Fake {
        fn now(&self) -> OffsetDateTime {
            OffsetDateTime::from_unix_timestamp(self.seconds.load(Ordering::Relaxed)).unwrap()
        }

        fn vouched(&self) -> bool {
            self.vouched.load(Ordering::Relaxed)
        }
    }

    /// A clock, and what it is set with.
    pub(crate) fn fake(state: &Arc<State>) -> (Clock, Fake) {
        let source = Fake::default();
        let clock = Clock::of(Box::new(source.clone()), Arc::clone(state)).unwrap();
        (clock, source)
    }

    const NOW: i64 = EARLIEST + 86_400 * 365;

    #[test]
    fn a_clock_counts_once_somebody_vouches_for_it_and_not_in_the_past() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(&folder.path().join("s")).unwrap());
        let (clock, source) = fake(&state);
        source.set(0, true);
        assert_eq!(clock.mark(), Some(UNSYNCHRONISED), "in 1970");
        source.set(NOW, false);
        assert!(clock.known().is_none(), "nobody vouches");
        clock.keep().unwrap();
        assert_eq!(state.get::<i64>(LAST).unwrap(), None);
        source.set(NOW, true);
        assert_eq!(clock.known().unwrap().unix_timestamp(), NOW);
        source.set(NOW + 5, false);
        assert_eq!(clock.mark(), None, "it goes on");
        clock.keep().unwrap();
        source.set(NOW, true);
        assert!(clock.known().is_none(), "time does not go back");
        clock.keep().unwrap();
        assert_eq!(state.get::<i64>(LAST).unwrap(), Some(NOW + 5));

        // The board is switched off; its clock starts where it stopped, or before.
        let (clock, source) = fake(&state);
        source.set(NOW - 10, true);
        assert!(clock.known().is_none());
        assert!(clock.complaint().contains("2027-01-01"));
        source.set(NOW + 6, false);
        assert!(clock.known().is_none());
        source.set(NOW + 60, true);
        assert!(clock.known().is_some());
    }

    #[test]
    fn a_battery_clock_vouches_if_it_says_the_same() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!battery_agrees(&folder.path().join("none"), NOW));
        for (name, text) in [("rtc0", "86400\n"), ("rtc1", "?"), ("rtc2", "1800000000\n")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("since_epoch"), text).unwrap();
        }
        assert!(battery_agrees(folder.path(), 1_800_000_059));
        assert!(!battery_agrees(folder.path(), 1_800_000_061));
    }
}
