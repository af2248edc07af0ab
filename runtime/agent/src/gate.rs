//! What no trigger passes: hours at which a watch does not look, its rest after an event, a most of events.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::civil::DateTime;

use crate::config::WatchConfig;
use crate::period::Limit;
use crate::schedule::Hours;

/// Whether a watch may look.
#[derive(Debug)]
pub(crate) struct Gate {
    hours: Vec<Hours>,
    cooldown: Duration,
    limit: Option<Limit>,
    /// When the last new events were made, the oldest first: as many as the limit counts, at least one.
    made: Mutex<VecDeque<Instant>>,
    /// An event that its trigger wanted could not be made.
    failed: AtomicBool,
}

impl Gate {
    pub(crate) fn of(watch: &WatchConfig) -> Self {
        Gate {
            hours: watch.hours.clone(),
            cooldown: watch.cooldown.map(|p| p.0).unwrap_or_default(),
            limit: watch.limit,
            made: Mutex::default(),
            failed: AtomicBool::new(false),
        }
    }

    /// Whether the watch looks at all at this time of the day.
    pub(crate) fn awake(&self, local: DateTime) -> bool {
        self.hours.is_empty() || self.hours.iter().any(|h| h.contain(local))
    }

    /// Whether it may make a new event.
    pub(crate) fn may(&self, now: Instant) -> bool {
        let made = self.lock();
        let older = |at: Option<&Instant>, than: Duration| {
            at.is_none_or(|at| now.saturating_duration_since(*at) >= than)
        };
        let rested = older(made.back(), self.cooldown);
        let within = self
            .limit
            .is_none_or(|limit| made.len() < limit.count || older(made.front(), limit.within));
        rested && within
    }

    /// A new event was made.
    pub(crate) fn made(&self, now: Instant) {
        let mut made = self.lock();
        made.push_back(now);
        let most = self.limit.map_or(1, |limit| limit.count);
        if made.len() > most {
            made.pop_front();
        }
    }

    /// An event that the trigger wanted could not be made.
    pub(crate) fn failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether that has happened since this was last asked.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.swap(false, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        // Nothing above can panic half-way.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_rests_and_makes_no_more_than_it_may() {
        let mut config = WatchConfig::new("w", "c", "motion", "?");
        config.cooldown = Some("2s".parse().unwrap());
        config.limit = Some("3/m".parse().unwrap());
        let gate = Gate::of(&config);
        let start = Instant::now();
        let mut made = Vec::new();
        for second in 0..70 {
            let now = start + Duration::from_secs(second);
            if gate.may(now) {
                gate.made(now);
                made.push(second);
            }
        }
        assert_eq!(made, [0, 2, 4, 60, 62, 64]);
    }

    #[test]
    fn outside_of_its_hours_a_watch_is_blind() {
        let mut config = WatchConfig::new("w", "c", "motion", "?");
        config.hours = vec![
            "08:00-09:00".parse().unwrap(),
            "22:00-06:00".parse().unwrap(),
        ];
        let gate = Gate::of(&config);
        let open = |time: &str| gate.awake(time.parse().unwrap());
        assert!(open("2026-11-23T08:30") && open("2026-11-23T23:00"));
        assert!(!open("2026-11-23T12:00"));
    }
}
