//! What becomes of an event: it is new, its answer may change, it ends. All of it has one id.

use std::time::Instant;

use serde_json::Value;

use crate::trigger::Edge;
use crate::watch::Watch;

/// The life of a watch's events.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Whether its rule in words held, if it has one.
    pub(crate) edge: Edge,
    /// The event that has not ended yet.
    pub(crate) standing: Option<Standing>,
}

/// An event that is followed.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) id: String,
    pub(crate) answer: Value,
    /// When it was looked at last.
    pub(crate) looked: Instant,
}

impl Life {
    /// A new event was made. It stands if its watch follows events.
    pub(crate) fn begin(&mut self, watch: &Watch, id: String, answer: Value, looked: Instant) {
        self.standing = watch.config.follow.map(|_| Standing { id, answer, looked });
    }

    /// The event that is to be looked at again, if it is time.
    pub(crate) fn due(&mut self, watch: &Watch, now: Instant) -> Option<&mut Standing> {
        let period = watch.config.follow?.0;
        self.standing.as_mut().filter(|standing| {
            // A watch without a rule sends a frame when it is time: here it would be late by a moment.
            watch.condition.is_none() || now.saturating_duration_since(standing.looked) >= period
        })
    }
}
