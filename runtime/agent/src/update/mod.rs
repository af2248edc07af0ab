//! New models: signed, fetched, checked, tried, and kept or given back.
//!
//! Two slots hold models. A job fetches into the one that does not run, compares lengths and hashes, and
//! makes the new model the one on trial; the old one leaves memory, the new one is loaded and must answer its
//! smoke test. Then it is the current one, or the old one is loaded again. Every step is a change of one
//! `record`, so that a start after an interruption finds a model that runs. A model on trial gets
//! [`MOST_STARTS`] starts of the program to prove itself.

mod fetch;
mod files;
mod install;
mod job;
pub mod manifest;
mod record;
mod switch;
#[cfg(test)]
mod tests;
mod trial;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::engine::Engine;
use crate::error::{AgentError, Result};
use crate::state::State;
pub use fetch::Web;
use fetch::{Fetch, FetchError};
use files::{Disk, Files};
pub use job::{Job, JobState, LARGEST_JOB, Progress, parse};
use manifest::{Keys, Manifest};
use record::{Ledger, Record, Slot, Trial};
pub use switch::Switch;
use trial::{attempt, confirm, current, ended, give_up, model};

/// Starts of the program that a model on trial gets.
pub const MOST_STARTS: u32 = 2;
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(300);
/// The file of the record.
const STATE: &str = "update.redb";
/// The folder of the slots.
const SLOTS: &str = "slots";

/// Loads models, for the agent which knows none.
pub trait Loader: Send + Sync {
    /// Whether a model is sound and finds room in this machine's memory once the running one has left.
    ///
    /// # Errors
    /// The reason in words.
    fn check(&self, model: &Path) -> std::result::Result<(), String>;

    /// Loads a model.
    ///
    /// # Errors
    /// The reason in words.
    fn load(&self, model: &Path) -> std::result::Result<Arc<dyn Engine>, String>;

    /// Loads the model that runs where none was ever installed.
    ///
    /// # Errors
    /// The reason in words.
    fn own(&self) -> std::result::Result<Arc<dyn Engine>, String>;
}

/// Says whether an engine can do something.
type Accepts = dyn Fn(&dyn Engine) -> std::result::Result<(), String> + Send;

/// What the updater needs beside the disk.
pub(crate) struct Surroundings {
    /// The time, once it is known.
    pub(crate) now: Box<dyn Fn() -> Option<OffsetDateTime> + Send>,
    /// Whether an engine can do what the configuration asks.
    pub(crate) accepts: Box<Accepts>,
    /// Gets what is to be published.
    pub(crate) publish: Box<dyn Fn(Progress) + Send>,
}

/// Installs models.
pub struct Updater {
    files: Box<dyn Files>,
    ledger: Box<dyn Ledger>,
    fetch: Box<dyn Fetch>,
    loader: Arc<dyn Loader>,
    /// The folder of the slots.
    slots: PathBuf,
    /// Whose signatures count, as the configuration says.
    trust: Keys,
    max_bytes: u64,
    switch: Arc<Switch>,
    /// A trial that goes well so far: it is over when everything else has started, too.
    trial: Option<Trial>,
    /// What became of a trial when the program started.
    end: Option<Progress>,
}

/// How a job goes on when something has failed.
enum Failure {
    /// It does not.
    Refused(String),
    /// Nobody who may has asked for it.
    Untrusted(String),
    /// It is tried again.
    Later(String),
}

impl Updater {
    /// Decides which model runs, and loads it. `state` is the state directory.
    ///
    /// # Errors
    /// [`AgentError`] if the record cannot be read, or no model can be loaded.
    pub fn start(
        state: &Path,
        trust: Keys,
        max_bytes: u64,
        loader: Arc<dyn Loader>,
        web: Web,
    ) -> Result<Self> {
        std::fs::create_dir_all(state).map_err(|e| AgentError::State {
            path: state.display().to_string(),
            reason: e.to_string(),
        })?;
        let ledger = Box::new(State::open(&state.join(STATE))?);
        Self::boot(
            Box::new(Disk),
            ledger,
            Box::new(web),
            loader,
            state.join(SLOTS),
            trust,
            max_bytes,
        )
    }

    #[allow(clippy::too_many_arguments)] // Each is a door that a test replaces.
    fn boot(
        files: Box<dyn Files>,
        ledger: Box<dyn Ledger>,
        fetch: Box<dyn Fetch>,
        loader: Arc<dyn Loader>,
        slots: PathBuf,
        trust: Keys,
        max_bytes: u64,
    ) -> Result<Self> {
        let loaded = ledger.load();
        let unreadable = loaded.as_ref().err().map(ToString::to_string);
        if let Some(e) = &unreadable {
            tracing::error!("the configuration's own model runs: {e}");
        }
        let mut record = loaded.unwrap_or_default();
        let (mut end, mut engine, mut on_trial) = (None, None, None);
        if let Some(mut trial) = record.trial.clone() {
            trial.starts += 1;
            record.trial = Some(trial.clone());
            // A start that cannot be counted is none: the old model runs.
            let tried = if trial.starts > MOST_STARTS {
                Err(format!(
                    "the program was started {MOST_STARTS} times without success"
                ))
            } else {
                let counted = ledger.store(&record).map_err(|e| e.to_string());
                counted.and_then(|()| attempt(&record, &trial, &slots, loader.as_ref()))
            };
            match tried {
                Ok(tried) => {
                    engine = Some(tried);
                    on_trial = Some(trial);
                }
                Err(reason) => {
                    tracing::error!(job = trial.job, "the new model is given back: {reason}");
                    end = Some(give_up(&mut record, ledger.as_ref(), &trial, reason));
                }
            }
        }
        let engine = match engine {
            Some(engine) => engine,
            None => {
                let loaded = match &unreadable {
                    // What is not understood is not overwritten, and no key counts: jobs wait.
                    Some(_) => loader.own(),
                    None => current(&mut record, ledger.as_ref(), &slots, loader.as_ref()),
                };
                loaded.map_err(|reason| AgentError::State {
                    path: slots.display().to_string(),
                    reason,
                })?
            }
        };
        Ok(Updater {
            files,
            ledger,
            fetch,
            loader,
            slots,
            trust,
            max_bytes,
            switch: Arc::new(Switch::new(engine)),
            trial: on_trial,
            end,
        })
    }

    /// Everything has started: a trial is over. What became of one is told.
    fn settle(&mut self, around: &Surroundings) {
        if let Some(trial) = self.trial.take() {
            let confirmed = self.ledger.load().map_err(|e| e.to_string());
            let confirmed =
                confirmed.and_then(|mut record| confirm(&mut record, self.ledger.as_ref(), &trial));
            match confirmed {
                Ok(end) => self.end = Some(end),
                // It is tried once more at the next start.
                Err(e) => tracing::error!("{e}"),
            }
        }
        if let Some(end) = self.end.take() {
            (around.publish)(end);
        }
    }

    /// The engine, whose model may be another one later.
    #[must_use]
    pub fn engine(&self) -> Arc<Switch> {
        Arc::clone(&self.switch)
    }

    /// Does jobs until no more can come. An empty one calls off what waits to be tried again.
    pub(crate) fn run(mut self, around: &Surroundings, inbox: &Receiver<Vec<u8>>) {
        self.settle(around);
        let mut next = None;
        loop {
            let payload = match next.take() {
                Some(payload) => payload,
                None => match inbox.recv() {
                    Ok(payload) => payload,
                    Err(_) => return,
                },
            };
            if payload.is_empty() {
                continue;
            }
            // The broker sends a job again on every connection.
            let mut wait = |time: Duration| {
                let until = Instant::now() + time;
                loop {
                    let left = until.saturating_duration_since(Instant::now());
                    match inbox.recv_timeout(left) {
                        Ok(same) if same == payload => {}
                        Ok(other) => {
                            next = Some(other);
                            return false;
                        }
                        Err(RecvTimeoutError::Timeout) => return true,
                        Err(RecvTimeoutError::Disconnected) => return false,
                    }
                }
            };
            match parse(&payload) {
                Ok(job) => self.job(around, &job, &mut wait),
                Err(reason) => tracing::error!("job: {reason}"),
            }
        }
    }

    /// Does a job. `wait` waits for so long; false: the job is called off.
    fn job(&self, around: &Surroundings, job: &Job, wait: &mut dyn FnMut(Duration) -> bool) {
        let mut pause = FIRST_RETRY;
        let mut accepted = false;
        loop {
            let version = Cell::new(None);
            let say = |state, bytes: Option<(u64, u64)>, reason: Option<String>| {
                (around.publish)(Progress {
                    id: job.id.clone(),
                    state,
                    version: version.get(),
                    bytes: bytes.map(|(bytes, _)| bytes),
                    of: bytes.map(|(_, of)| of),
                    reason,
                });
            };
            let done = self
                .ledger
                .load()
                .map_err(|e| Failure::Later(e.to_string()));
            let done = done.and_then(|mut record| {
                // Whoever sends a job again wants to know what became of it.
                if let Some(end) = record.ended.iter().find(|end| end.id == job.id) {
                    (around.publish)(end.clone());
                    return Ok(());
                }
                let manifest = self.admit(around, &record, job)?;
                version.set(Some(manifest.version));
                if !accepted {
                    say(JobState::Accepted, None, None);
                    accepted = true;
                }
                let slot = record.current.map_or(Slot::A, Slot::other);
                install::install(
                    self,
                    &mut record,
                    slot,
                    &manifest,
                    &job.base,
                    &mut |n, of| {
                        say(JobState::Downloading, Some((n, of)), None);
                    },
                )?;
                say(JobState::Checking, None, None);
                let model = self.model(slot, &manifest);
                self.loader.check(&model).map_err(Failure::Refused)?;
                say(JobState::Switching, None, None);
                (around.publish)(self.switch_to(around, record, slot, &job.id));
                Ok(())
            });
            match done {
                Ok(()) => return,
                Err(Failure::Refused(reason)) => {
                    tracing::error!(job = job.id, "a model is refused: {reason}");
                    self.refused(around, &job.id, version.get(), reason);
                    return;
                }
                Err(Failure::Untrusted(reason)) => {
                    // Not remembered: a stranger must not use up an id, nor push out what is known.
                    tracing::error!(job = job.id, "a model is refused: {reason}");
                    say(JobState::Refused, None, Some(reason));
                    return;
                }
                Err(Failure::Later(reason)) => {
                    tracing::warn!(job = job.id, "a model cannot be had now: {reason}");
                    say(JobState::Downloading, None, Some(reason));
                    if !wait(pause) {
                        return;
                    }
                    pause = (pause * 2).min(LAST_RETRY);
                }
            }
        }
    }

    /// Opens a job's manifest and checks that it may be installed.
    fn admit(
        &self,
        around: &Surroundings,
        record: &Record,
        job: &Job,
    ) -> std::result::Result<Manifest, Failure> {
        let keys = record.keys.as_ref().unwrap_or(&self.trust);
        let manifest = Manifest::open(&job.manifest, keys).map_err(Failure::Untrusted)?;
        let refuse = |reason: String| Err(Failure::Refused(reason));
        let Some(now) = (around.now)() else {
            return Err(Failure::Later("the time is not known yet".to_owned()));
        };
        if manifest.expiry().map_err(Failure::Refused)? < now {
            return refuse(format!("the manifest has expired: {}", manifest.expires));
        }
        let program = env!("CARGO_PKG_VERSION");
        manifest.suits_program(program).map_err(Failure::Refused)?;
        let (old, new) = (record.version(), manifest.version);
        if new == old && old > 0 {
            return refuse(format!("version {new} runs already"));
        }
        if new < old && !manifest.allow_downgrade {
            return refuse(format!("version {new} is older than {old}, which runs"));
        }
        if manifest.bytes() > self.max_bytes {
            return refuse(format!(
                "{} bytes; [update] max_bytes allows {}",
                manifest.bytes(),
                self.max_bytes
            ));
        }
        Ok(manifest)
    }

    /// Replaces the model in memory by that of a slot, for good if it proves itself.
    fn switch_to(
        &self,
        around: &Surroundings,
        mut record: Record,
        slot: Slot,
        job: &str,
    ) -> Progress {
        let trial = Trial {
            slot,
            job: job.to_owned(),
            starts: 0,
        };
        record.trial = Some(trial.clone());
        if let Err(e) = self.ledger.store(&record) {
            return give_up(&mut record, self.ledger.as_ref(), &trial, e.to_string());
        }
        let mut result = ended(&record, &trial, JobState::Confirmed, None);
        self.switch.replace(|| {
            let tried = attempt(&record, &trial, &self.slots, self.loader.as_ref());
            let tried = tried.and_then(|engine| {
                (around.accepts)(engine.as_ref())?;
                confirm(&mut record, self.ledger.as_ref(), &trial)?;
                Ok(engine)
            });
            match tried {
                Ok(engine) => Some(engine),
                Err(reason) => {
                    tracing::error!(job, "the new model is given back: {reason}");
                    result = give_up(&mut record, self.ledger.as_ref(), &trial, reason);
                    let (ledger, loader) = (self.ledger.as_ref(), self.loader.as_ref());
                    let old = current(&mut record, ledger, &self.slots, loader);
                    old.inspect_err(|e| tracing::error!("there is no model: {e}"))
                        .ok()
                }
            }
        });
        result
    }

    fn model(&self, slot: Slot, manifest: &Manifest) -> PathBuf {
        model(&self.slots, slot, manifest)
    }

    fn refused(&self, around: &Surroundings, job: &str, version: Option<u64>, reason: String) {
        let end = Progress {
            id: job.to_owned(),
            state: JobState::Refused,
            version,
            bytes: None,
            of: None,
            reason: Some(reason),
        };
        let stored = self.ledger.load().and_then(|mut record| {
            record.end(end.clone());
            self.ledger.store(&record)
        });
        if let Err(e) = stored {
            tracing::error!("{e}");
        }
        (around.publish)(end);
    }
}

/// Refuses jobs, where the configuration takes none.
pub(crate) fn refuse_all(inbox: &Receiver<Vec<u8>>, publish: &dyn Fn(Progress)) {
    while let Ok(payload) = inbox.recv() {
        if let Ok(job) = parse(&payload) {
            publish(Progress {
                id: job.id,
                state: JobState::Refused,
                version: None,
                bytes: None,
                of: None,
                reason: Some("this device takes no models: it has no [update]".to_owned()),
            });
        }
    }
}
