//! A level that has lasted.

use kinglet_link::Millis;

/// One input without its bouncing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Debounce {
    /// Nothing is known before the first reading: a level is no edge.
    active: Option<bool>,
    /// Since when the input has been another one.
    since: Option<Millis>,
}

impl Debounce {
    /// Takes a reading. Returns whether the input is active now, if that has just changed: the new level has
    /// lasted for `lasting` milliseconds.
    pub(crate) fn turn(&mut self, active: bool, lasting: u16, now: Millis) -> Option<bool> {
        if active == *self.active.get_or_insert(active) {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_sub(since) < Millis::from(lasting) {
            return None;
        }
        (self.active, self.since) = (Some(active), None);
        Some(active)
    }

    /// Whether it is active.
    pub(crate) fn is_active(&self) -> bool {
        self.active.unwrap_or(false)
    }
}
