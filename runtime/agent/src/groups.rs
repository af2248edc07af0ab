//! The groups whose commands the device follows, which can be changed from afar while it runs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The most groups of a device.
pub const MOST_GROUPS: usize = 32;

/// The groups, shared by what changes them and what subscribes to them.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    state: Mutex<State>,
    /// Told when they have changed.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    now: Vec<String>,
    /// Those of them that the broker does not let the device follow.
    refused: Vec<String>,
}

impl Groups {
    /// These.
    pub(crate) fn new(groups: &[String]) -> Self {
        let shared = Groups::default();
        shared.lock().now = groups.to_vec();
        shared
    }

    /// These from now on.
    pub(crate) fn set(&self, groups: &[String]) {
        let mut state = self.lock();
        if state.now == groups {
            return;
        }
        state.now = groups.to_vec();
        state.refused.retain(|group| groups.contains(group));
        drop(state);
        self.changed.notify_one();
    }

    /// Which they are.
    pub(crate) fn now(&self) -> Vec<String> {
        self.lock().now.clone()
    }

    /// Those of them that the broker refuses.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.lock().refused.clone()
    }

    /// Whether it is one of them.
    pub(crate) fn has(&self, group: &str) -> bool {
        self.lock().now.iter().any(|g| g == group)
    }

    /// The broker has answered for these groups: which it lets the device follow, and which not.
    pub(crate) fn answered(&self, answers: &[(String, bool)]) {
        let mut state = self.lock();
        for (group, refused) in answers {
            state.refused.retain(|g| g != group);
            if *refused && state.now.contains(group) {
                state.refused.push(group.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
