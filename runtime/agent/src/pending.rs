//! Commands that wait or are being done, and whether somebody has called them off.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is known about the commands that have been taken and not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those that wait or are being done, by id: how many (a repeat may wait beside the first one), and
    /// whether they are called off.
    commands: HashMap<String, (usize, bool)>,
    /// The one that is being done.
    current: Option<String>,
}

impl Pending {
    /// A command waits.
    pub(crate) fn enter(&self, id: &str) {
        self.lock().commands.entry(id.to_owned()).or_default().0 += 1;
    }

    /// It is begun.
    pub(crate) fn begin(&self, id: &str) {
        self.lock().current = Some(id.to_owned());
    }

    /// It is done, or was not taken after all.
    pub(crate) fn leave(&self, id: &str) {
        let mut state = self.lock();
        state.current = state.current.take().filter(|current| current != id);
        if let Some((count, _)) = state.commands.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                state.commands.remove(id);
            }
        }
    }

    /// Calls a command off. False if none of this id waits or is being done.
    pub(crate) fn cancel(&self, id: &str) -> bool {
        match self.lock().commands.get_mut(id) {
            Some((_, cancelled)) => {
                *cancelled = true;
                true
            }
            None => false,
        }
    }

    /// Whether the command that is being done has been called off.
    pub(crate) fn is_cancelled(&self) -> bool {
        let state = self.lock();
        let current = state.current.as_ref();
        current.is_some_and(|id| state.commands.get(id).is_some_and(|(_, off)| *off))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing above can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_or_is_being_done_can_be_called_off() {
        let pending = Pending::default();
        assert!(!pending.cancel("a"), "it is not there");
        pending.enter("a");
        pending.enter("b");
        pending.begin("a");
        assert!(pending.cancel("b") && !pending.is_cancelled());
        pending.leave("a");
        assert!(!pending.is_cancelled());
        pending.begin("b");
        assert!(pending.is_cancelled());
        pending.leave("b");
        assert!(!pending.cancel("b"), "it is over");
        pending.enter("b");
        pending.begin("b");
        assert!(!pending.is_cancelled(), "a new one of the same id");
    }

    #[test]
    fn a_repeat_that_waits_outlives_the_first() {
        let pending = Pending::default();
        pending.enter("a");
        pending.begin("a");
        pending.enter("a");
        pending.leave("a");
        assert!(pending.cancel("a"));
    }
}
