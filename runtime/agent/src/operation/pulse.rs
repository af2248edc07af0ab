//! Signs of life of the one thread that computes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When the worker was heard of last, while it works.
#[derive(Debug, Default)]
pub(crate) struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    /// It begins a job, or a token or a step is done.
    pub(crate) fn beat(&self, now: Instant) {
        *self.lock() = Some(now);
    }

    /// It waits for a job.
    pub(crate) fn rest(&self) {
        *self.lock() = None;
    }

    /// Whether it works.
    pub(crate) fn works(&self) -> bool {
        self.lock().is_some()
    }

    /// For how long nothing was heard of it; no time, if it has nothing to do.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        let last = *self.lock();
        last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        // One value, replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_worker_that_works_can_be_silent() {
        let pulse = Pulse::default();
        let start = Instant::now();
        let late = start + Duration::from_secs(1000);
        assert_eq!(pulse.silence(late), Duration::ZERO);
        pulse.beat(start);
        assert!(pulse.works());
        assert_eq!(pulse.silence(late), Duration::from_secs(1000));
        pulse.rest();
        assert_eq!(pulse.silence(late), Duration::ZERO);
    }
}
