//! What the device may do now: less, while it is hot or short of memory. Who decides that stands outside.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// A step of somebody's ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Regime {
    /// Its name.
    pub step: &'static str,
    /// Why it is not the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How many times fewer frames are taken of cameras.
    #[serde(skip)]
    pub slower: u32,
}

/// The one that holds now; none before somebody has decided.
#[derive(Debug, Default)]
pub(crate) struct Current(Mutex<Option<Regime>>);

impl Current {
    pub(crate) fn set(&self, regime: Regime) {
        *self.lock() = Some(regime);
    }

    pub(crate) fn get(&self) -> Option<Regime> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Regime>> {
        // The value is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
