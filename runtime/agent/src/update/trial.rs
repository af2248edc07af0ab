//! A model has to prove itself; what becomes of it is one change of the record.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::Loader;
use super::job::{JobState, Progress};
use super::manifest::{Manifest, Smoke};
use super::record::{Ledger, Record, Slot, Trial};
use crate::engine::{Engine, EngineError, Question};
use crate::worker::guarded;

/// How long a model may take to notice that it was called off.
const GRACE: Duration = if cfg!(test) {
    Duration::from_millis(300)
} else {
    Duration::from_secs(30)
};

/// The model's file in a slot.
pub(super) fn model(slots: &Path, slot: Slot, manifest: &Manifest) -> PathBuf {
    let name = manifest.files.first().map_or("", |file| &file.path);
    slots.join(slot.name()).join(name)
}

/// Why a model does not do.
pub(super) struct Bad {
    pub(super) reason: String,
    /// It still computes and holds its memory: no other model can be loaded by this process.
    pub(super) stuck: bool,
}

impl From<String> for Bad {
    fn from(reason: String) -> Self {
        Bad {
            reason,
            stuck: false,
        }
    }
}

/// A panic costs the model, not the agent.
pub(super) fn caught<T>(
    what: &str,
    work: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(format!("{what}: it panicked; this is a bug of Kinglet")))
}

/// Loads a model on trial and puts it to its test.
pub(super) fn attempt(
    record: &Record,
    trial: &Trial,
    slots: &Path,
    loader: &dyn Loader,
) -> std::result::Result<Arc<dyn Engine>, Bad> {
    let Some(slot) = trial.slot else {
        return Ok(caught("loading", || loader.own())?);
    };
    let Some(manifest) = record.slots.get(&slot) else {
        return Err("its slot is empty".to_owned().into());
    };
    let engine = caught("loading", || loader.load(&model(slots, slot, manifest)))?;
    if let Some(smoke) = &manifest.smoke {
        prove(&engine, smoke)?;
    }
    Ok(engine)
}

/// Asks a model what its manifest says that it can answer. The time counts from the question to the whole answer,
/// whatever the model does meanwhile; then it is called off.
fn prove(engine: &Arc<dyn Engine>, smoke: &Smoke) -> std::result::Result<(), Bad> {
    let picture = smoke.picture()?;
    let question = Question {
        ask: smoke.ask.clone(),
        ..Question::default()
    };
    let limit = Duration::from_millis(smoke.within_ms);
    let cancelled = Arc::new(AtomicBool::new(false));
    let (sender, answers) = channel();
    let (tested, flag) = (Arc::clone(engine), Arc::clone(&cancelled));
    let asking = move || {
        let answer = guarded(|| {
            tested.see(
                &picture,
                &question,
                &mut |_| match flag.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                },
            )
        });
        // Its memory is given back before anybody hears of it.
        drop(tested);
        let _ = sender.send(answer);
    };
    let spawned = std::thread::Builder::new()
        .name("smoke".to_owned())
        .spawn(asking);
    spawned.map_err(|e| format!("smoke test: {e}"))?;
    let answer = match answers.recv_timeout(limit) {
        Ok(answer) => answer.map_err(|e: EngineError| format!("smoke test: {e}"))?,
        Err(RecvTimeoutError::Disconnected) => {
            return Err("smoke test: no answer".to_owned().into());
        }
        Err(RecvTimeoutError::Timeout) => {
            cancelled.store(true, Ordering::Relaxed);
            let stuck = matches!(answers.recv_timeout(GRACE), Err(RecvTimeoutError::Timeout));
            let limit = smoke.within_ms;
            let reason = format!("smoke test: it takes longer than {limit} ms");
            return Err(Bad { reason, stuck });
        }
    };
    let (expected, answer) = (smoke.expect.to_lowercase(), answer.to_lowercase());
    if !answer.contains(&expected) {
        let reason = format!("smoke test: it answers \"{answer}\", not \"{expected}\"");
        return Err(reason.into());
    }
    Ok(())
}

/// The end of a trial.
pub(super) fn ended(
    record: &Record,
    trial: &Trial,
    state: JobState,
    reason: Option<String>,
) -> Progress {
    Progress {
        id: trial.job.clone(),
        state,
        version: record.version_of(trial),
        leaves: trial.leaves.as_ref().map(|which| which.version),
        bytes: None,
        of: None,
        reason,
    }
}

/// A model has proved itself.
pub(super) fn confirm(
    record: &mut Record,
    ledger: &dyn Ledger,
    trial: &Trial,
) -> std::result::Result<Progress, String> {
    let mut confirmed = record.clone();
    if let Some(left) = &trial.leaves {
        confirmed.leave(left.clone());
    } else if let Some(slot) = trial.slot
        && let Some(keys) = record.slots.get(&slot).and_then(|m| m.keys.clone())
    {
        // A rollback does not bring old keys back.
        confirmed.keys = Some(keys);
    }
    confirmed.current = trial.slot;
    confirmed.trial = None;
    let end = ended(record, trial, JobState::Confirmed, None);
    confirmed.end(end.clone());
    ledger.store(&confirmed).map_err(|e| e.to_string())?;
    *record = confirmed;
    Ok(end)
}

/// A model has not proved itself.
pub(super) fn give_up(
    record: &mut Record,
    ledger: &dyn Ledger,
    trial: &Trial,
    reason: String,
) -> Progress {
    let end = ended(record, trial, JobState::RolledBack, Some(reason));
    record.trial = None;
    if let Some(slot) = trial.slot {
        record.slots.remove(&slot);
    }
    record.end(end.clone());
    if let Err(e) = ledger.store(record) {
        // It is tried again at the next start.
        tracing::error!("{e}");
    }
    end
}

/// Loads the model that runs: that of the current slot, else that of the other one, else the configuration's. A
/// slot whose model cannot be loaded is empty from then on, so that it can be filled anew.
pub(super) fn current(
    record: &mut Record,
    ledger: &dyn Ledger,
    slots: &Path,
    loader: &dyn Loader,
) -> std::result::Result<Arc<dyn Engine>, String> {
    let mut left = record.clone();
    let engine = loop {
        let Some(slot) = left.current else {
            break caught("loading", || loader.own())?;
        };
        if let Some(manifest) = left.slots.get(&slot) {
            match caught("loading", || loader.load(&model(slots, slot, manifest))) {
                Ok(engine) => break engine,
                Err(e) => tracing::error!(slot = slot.name(), "its model cannot be loaded: {e}"),
            }
        }
        left.slots.remove(&slot);
        let other = slot.other();
        left.current = left.slots.contains_key(&other).then_some(other);
    };
    // If nothing at all can be loaded, it is not the models that are at fault: all stays for the next start.
    if left != *record {
        *record = left;
        if let Err(e) = ledger.store(record) {
            tracing::error!("{e}");
        }
    }
    Ok(engine)
}
