//! A model has to prove itself; what becomes of it is one change of the record.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Loader;
use super::job::{JobState, Progress};
use super::manifest::{Manifest, Smoke};
use super::record::{Ledger, Record, Slot, Trial};
use crate::engine::{Engine, EngineError, Question};
use crate::worker::guarded;

/// The model's file in a slot.
pub(super) fn model(slots: &Path, slot: Slot, manifest: &Manifest) -> PathBuf {
    let name = manifest.files.first().map_or("", |file| &file.path);
    slots.join(slot.name()).join(name)
}

/// Loads a model on trial and puts it to its test.
pub(super) fn attempt(
    record: &Record,
    trial: &Trial,
    slots: &Path,
    loader: &dyn Loader,
) -> std::result::Result<Arc<dyn Engine>, String> {
    let Some(manifest) = record.slots.get(&trial.slot) else {
        return Err("its slot is empty".to_owned());
    };
    let engine = loader.load(&model(slots, trial.slot, manifest))?;
    if let Some(smoke) = &manifest.smoke {
        prove(engine.as_ref(), smoke)?;
    }
    Ok(engine)
}

/// Asks a model what its manifest says that it can answer.
fn prove(engine: &dyn Engine, smoke: &Smoke) -> std::result::Result<(), String> {
    let picture = smoke.picture()?;
    let question = Question {
        ask: smoke.ask.clone(),
        ..Question::default()
    };
    let limit = Duration::from_millis(smoke.within_ms);
    let start = Instant::now();
    let answer = guarded(|| {
        engine.see(
            &picture,
            &question,
            &mut |_| match start.elapsed() > limit {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue(()),
            },
        )
    });
    let took = start.elapsed();
    let answer = match answer {
        Err(EngineError::Cancelled) => String::new(),
        answer => answer.map_err(|e| format!("smoke test: {e}"))?,
    };
    if took > limit {
        let limit = smoke.within_ms;
        return Err(format!("smoke test: it takes longer than {limit} ms"));
    }
    let (expected, answer) = (smoke.expect.to_lowercase(), answer.to_lowercase());
    if !answer.contains(&expected) {
        return Err(format!(
            "smoke test: it answers \"{answer}\", not \"{expected}\""
        ));
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
        version: record.slots.get(&trial.slot).map(|m| m.version),
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
    confirmed.current = Some(trial.slot);
    confirmed.trial = None;
    if let Some(keys) = record.slots.get(&trial.slot).and_then(|m| m.keys.clone()) {
        confirmed.keys = Some(keys);
    }
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
    record.slots.remove(&trial.slot);
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
    while let Some(slot) = record.current {
        if let Some(manifest) = record.slots.get(&slot) {
            match loader.load(&model(slots, slot, manifest)) {
                Ok(engine) => return Ok(engine),
                Err(e) => tracing::error!(slot = slot.name(), "its model cannot be loaded: {e}"),
            }
        }
        record.slots.remove(&slot);
        let other = slot.other();
        record.current = record.slots.contains_key(&other).then_some(other);
        if let Err(e) = ledger.store(record) {
            tracing::error!("{e}");
        }
    }
    loader.own()
}
