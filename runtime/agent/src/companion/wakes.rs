//! What a companion has woken the board for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Why the board was woken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Woken {
    /// The input's name.
    pub(crate) input: String,
    /// How often it had become active.
    pub(crate) count: u16,
    /// How bright it was, 0 to 1.
    pub(crate) light: Option<f64>,
}

/// The newest wake of every input.
#[derive(Debug, Default)]
pub(crate) struct Wakes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many there were.
    all: u64,
    newest: BTreeMap<String, (u64, Instant, Woken)>,
}

impl Wakes {
    /// There is one more.
    pub(crate) fn note(&self, woken: Woken, now: Instant) {
        let mut state = self.lock();
        state.all += 1;
        let all = state.all;
        state.newest.insert(woken.input.clone(), (all, now, woken));
    }

    /// How many there were.
    pub(crate) fn all(&self) -> u64 {
        self.lock().all
    }

    /// The newest one, of this input if one is named: its number, when it was heard of, and what it was.
    pub(crate) fn newest(&self, input: Option<&str>) -> Option<(u64, Instant, Woken)> {
        let state = self.lock();
        let wakes = state.newest.iter();
        let wanted = wakes.filter(|(name, _)| input.is_none_or(|input| input == *name));
        wanted.map(|(_, wake)| wake).max_by_key(|w| w.0).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done with it can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
