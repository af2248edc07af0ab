//! Nonces that have been accepted: each counts once, across restarts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::state::State;

/// The value's name.
const NAME: &str = "nonces";

/// What is on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Taken {
    /// Everything that expires until this time, in seconds since 1970, is refused: its nonces may be
    /// forgotten.
    forgotten: i64,
    /// Nonces, and the second at which they have expired.
    nonces: BTreeMap<String, i64>,
}

/// The accepted nonces.
#[derive(Debug)]
pub(crate) struct Nonces {
    state: Arc<State>,
    most: usize,
    taken: Mutex<Taken>,
}

impl Nonces {
    /// Those in `state`; at most so many are kept.
    pub(crate) fn load(state: Arc<State>, most: usize) -> crate::Result<Self> {
        let taken = state.get(NAME)?.unwrap_or_default();
        Ok(Nonces {
            state,
            most,
            taken: Mutex::new(taken),
        })
    }

    /// Accepts a nonce until `expires`, both times in seconds since 1970. When this returns it is on disk.
    ///
    /// # Errors
    /// The reason in words. The nonce is then as it was before.
    pub(crate) fn take(&self, nonce: &str, now: i64, expires: i64) -> Result<(), String> {
        let mut held = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if held.nonces.contains_key(nonce) {
            return Err("replayed: its nonce has been used".to_owned());
        }
        // A clock that has gone back must not bring back what was forgotten.
        if expires <= held.forgotten {
            return Err("it has expired".to_owned());
        }
        let mut taken = held.clone();
        taken.nonces.retain(|_, until| {
            let keep = *until > now;
            if !keep {
                taken.forgotten = taken.forgotten.max(*until);
            }
            keep
        });
        if taken.nonces.len() >= self.most {
            return Err(format!(
                "{} nonces are kept already, until they expire; [commands] nonces allows more",
                taken.nonces.len()
            ));
        }
        taken.nonces.insert(nonce.to_owned(), expires);
        let written = self.state.set(NAME, &taken);
        written.map_err(|e| format!("its nonce could not be kept: {e}"))?;
        *held = taken;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_counts_once_and_none_is_forgotten_early() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let open = || Nonces::load(Arc::new(State::open(&path).unwrap()), 2).unwrap();
        let nonces = open();
        nonces.take("a", 100, 110).unwrap();
        nonces.take("b", 100, 120).unwrap();
        let full = nonces.take("c", 109, 150).unwrap_err();
        assert!(full.contains("2 nonces"), "{full}");
        drop(nonces);

        let nonces = open();
        assert!(nonces.take("a", 101, 110).unwrap_err().contains("replayed"));
        assert!(nonces.take("c", 109, 150).is_err(), "still full");
        nonces.take("c", 110, 150).unwrap();
        drop(nonces);

        // The clock has gone back: what was forgotten does not count again.
        let nonces = open();
        assert!(nonces.take("a", 50, 110).unwrap_err().contains("expired"));
        assert!(nonces.take("b", 50, 120).unwrap_err().contains("replayed"));
    }

    #[test]
    fn an_accepted_nonce_is_on_disk_already() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(&folder.path().join("state")).unwrap());
        let nonces = Nonces::load(Arc::clone(&state), 2).unwrap();
        nonces.take("a", 0, 9).unwrap();
        let read = Nonces::load(state, 2).unwrap();
        assert!(read.take("a", 0, 9).unwrap_err().contains("replayed"));
    }
}
