//! New models: signed, fetched, checked, tried, and kept or given back.
//!
//! Two slots hold models. A job fetches into the one that does not run, compares lengths and hashes, and
//! makes the new model the one on trial; the old one leaves memory, the new one is loaded and must answer its
//! smoke test. Then it is the current one, or the old one is loaded again. Every step is a change of one
//! `record`, so that a start after an interruption finds a model that runs. A model on trial gets
//! [`MOST_STARTS`] starts of the program to prove itself.

pub mod back;
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
use back::Back;
pub(crate) use fetch::Place;
pub use fetch::Web;
use fetch::{Fetch, FetchError};
use files::{Disk, Files};
pub use job::{Asked, BackJob, Job, JobState, LARGEST_JOB, Progress, parse};
use manifest::{Keys, Manifest};
use record::{Ledger, Record, Slot, Trial};
pub use switch::Switch;
use trial::{Bad, attempt, caught, confirm, current, give_up, model};

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
    /// Told when no model is left: the program must start anew.
    pub(crate) lost: Box<dyn Fn(String) + Send>,
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
    /// It does not, and is not remembered: a stranger must not use up an id, nor push out what is known.
    Passing(String),
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
                let reason = format!("the program was started {MOST_STARTS} times without success");
                Err(Bad::from(reason))
            } else {
                let counted = ledger.store(&record).map_err(|e| e.to_string().into());
                tracing::info!(job = trial.job, start = trial.starts, "a model on trial");
                counted.and_then(|()| attempt(&record, &trial, &slots, loader.as_ref()))
            };
            match tried {
                Ok(tried) => {
                    engine = Some(tried);
                    on_trial = Some(trial);
                }
                Err(Bad { reason, stuck }) => {
                    tracing::error!(job = trial.job, "the new model is given back: {reason}");
                    let given_back = give_up(&mut record, ledger.as_ref(), &trial, reason.clone());
                    if stuck {
                        return Err(AgentError::Start {
                            what: "the old model",
                            reason: format!("the new one does not leave memory: {reason}"),
                        });
                    }
                    end = Some(given_back);
                }
            }
        }
        let engine = match engine {
            Some(engine) => engine,
            None => {
                let loaded = match &unreadable {
                    // What is not understood is not overwritten, and no key counts: jobs wait.
                    Some(_) => caught("loading", || loader.own()),
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
                Ok(asked) => self.job(around, &asked, &mut wait),
                Err(reason) => tracing::error!("job: {reason}"),
            }
        }
    }

    /// Does a job. `wait` waits for so long; false: the job is called off.
    fn job(&self, around: &Surroundings, asked: &Asked, wait: &mut dyn FnMut(Duration) -> bool) {
        let mut pause = FIRST_RETRY;
        let told = Told {
            publish: &around.publish,
            id: asked.id(),
            version: Cell::new(None),
            leaves: Cell::new(None),
            accepted: Cell::new(false),
        };
        loop {
            let done = self
                .ledger
                .load()
                .map_err(|e| Failure::Later(e.to_string()));
            let done = done.and_then(|record| {
                // Whoever sends a job again wants to know what became of it.
                if let Some(end) = record.ended.iter().find(|end| end.id == told.id) {
                    (around.publish)(end.clone());
                    return Ok(());
                }
                match asked {
                    Asked::Install(job) => self.install(around, record, job, &told),
                    Asked::Back(job) => self.back(around, record, job, &told),
                }
            });
            match done {
                Ok(()) => return,
                Err(Failure::Refused(reason)) => {
                    tracing::error!(job = told.id, "a job is refused: {reason}");
                    let end = told.progress(JobState::Refused, None, Some(reason));
                    let stored = self.ledger.load().and_then(|mut record| {
                        record.end(end.clone());
                        self.ledger.store(&record)
                    });
                    if let Err(e) = stored {
                        tracing::error!("{e}");
                    }
                    (around.publish)(end);
                    return;
                }
                Err(Failure::Passing(reason)) => {
                    tracing::error!(job = told.id, "a job is refused: {reason}");
                    told.say(JobState::Refused, None, Some(reason));
                    return;
                }
                Err(Failure::Later(reason)) => {
                    tracing::warn!(job = told.id, "a job cannot be done now: {reason}");
                    told.say(JobState::Downloading, None, Some(reason));
                    if !wait(pause) {
                        return;
                    }
                    pause = (pause * 2).min(LAST_RETRY);
                }
            }
        }
    }

    /// Installs a new model.
    fn install(
        &self,
        around: &Surroundings,
        mut record: Record,
        job: &Job,
        told: &Told<'_>,
    ) -> std::result::Result<(), Failure> {
        let manifest = self.admit(around, &record, job)?;
        told.version.set(Some(manifest.version));
        told.accepted();
        let slot = record.current.map_or(Slot::A, Slot::other);
        install::install(
            self,
            &mut record,
            slot,
            &manifest,
            &job.base,
            &mut |n, of| {
                told.say(JobState::Downloading, Some((n, of)), None);
            },
        )?;
        told.say(JobState::Checking, None, None);
        let model = model(&self.slots, slot, &manifest);
        caught("checking", || self.loader.check(&model)).map_err(Failure::Refused)?;
        let trial = Trial {
            slot: Some(slot),
            job: job.id.clone(),
            starts: 0,
            leaves: None,
        };
        self.switch_to(around, record, &trial, told)
    }

    /// Goes back to the model that ran before.
    fn back(
        &self,
        around: &Surroundings,
        record: Record,
        job: &BackJob,
        told: &Told<'_>,
    ) -> std::result::Result<(), Failure> {
        let keys = record.keys.as_ref().unwrap_or(&self.trust);
        let back = Back::open(&job.rollback, keys).map_err(Failure::Passing)?;
        let leaves = back.leaves.version;
        told.version
            .set(Some(back.to.as_ref().map_or(0, |to| to.version)));
        told.leaves.set(Some(leaves));
        let Some(now) = (around.now)() else {
            return Err(Failure::Later("the time is not known yet".to_owned()));
        };
        if back.expiry().map_err(Failure::Passing)? < now {
            let reason = format!("the rollback has expired: {}", back.expires);
            return Err(Failure::Passing(reason));
        }
        let running = record.running().map(Manifest::which);
        if record.left.contains(&back.leaves) && (running == back.to || running.is_none()) {
            // Done before, by another order: there is nothing to do.
            told.version.set(Some(record.version()));
            told.say(JobState::Confirmed, None, None);
            return Ok(());
        }
        // Not remembered: it may still come to run, and the order is good until it expires.
        if running.as_ref() != Some(&back.leaves) {
            // Neither: whoever asks sees by this that there was nothing to leave.
            told.version.set(None);
            let reason = format!(
                "the rollback leaves version {leaves}; version {} runs",
                record.version()
            );
            return Err(Failure::Passing(reason));
        }
        let other = record.current.map(Slot::other);
        let there = other.and_then(|slot| Some((slot, record.slots.get(&slot)?)));
        let slot = match (&back.to, there) {
            (Some(to), Some((slot, manifest))) => {
                if manifest.which() != *to {
                    return Err(Failure::Passing(format!(
                        "the rollback goes to version {}; version {} is what ran before",
                        to.version, manifest.version
                    )));
                }
                told.version.set(Some(manifest.version));
                told.accepted();
                told.say(JobState::Checking, None, None);
                install::verify(self, slot, manifest)?;
                let file = model(&self.slots, slot, manifest);
                caught("checking", || self.loader.check(&file)).map_err(Failure::Refused)?;
                Some(slot)
            }
            (None, _) | (_, None) => {
                told.version.set(Some(0));
                told.accepted();
                None
            }
        };
        let trial = Trial {
            slot,
            job: job.id.clone(),
            starts: 0,
            leaves: Some(back.leaves),
        };
        self.switch_to(around, record, &trial, told)
    }

    /// Opens a job's manifest and checks that it may be installed.
    fn admit(
        &self,
        around: &Surroundings,
        record: &Record,
        job: &Job,
    ) -> std::result::Result<Manifest, Failure> {
        let keys = record.keys.as_ref().unwrap_or(&self.trust);
        let manifest = Manifest::open(&job.manifest, keys).map_err(Failure::Passing)?;
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
        let left = record.highest_left;
        if record.left.contains(&manifest.which()) || new <= left && !manifest.allow_downgrade {
            return refuse(format!("version {new} is not above {left}, which was left"));
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

    /// Replaces the model in memory by the one on trial, for good if it proves itself.
    fn switch_to(
        &self,
        around: &Surroundings,
        mut record: Record,
        trial: &Trial,
        told: &Told<'_>,
    ) -> std::result::Result<(), Failure> {
        told.say(JobState::Switching, None, None);
        let (ledger, loader) = (self.ledger.as_ref(), self.loader.as_ref());
        record.trial = Some(trial.clone());
        if let Err(e) = ledger.store(&record) {
            (around.publish)(give_up(&mut record, ledger, trial, e.to_string()));
            return Ok(());
        }
        let mut end = None;
        let mut lost = None;
        self.switch.replace(|| {
            let tried = attempt(&record, trial, &self.slots, loader);
            let tried = tried.and_then(|engine| {
                caught("trying", || (around.accepts)(engine.as_ref()))?;
                end = Some(confirm(&mut record, ledger, trial)?);
                Ok(engine)
            });
            let Bad { reason, stuck } = match tried {
                Ok(engine) => return Some(engine),
                Err(bad) => bad,
            };
            tracing::error!(job = trial.job, "the new model is given back: {reason}");
            end = Some(give_up(&mut record, ledger, trial, reason));
            let old = match stuck {
                // Two models do not fit.
                true => Err("the new model does not leave memory".to_owned()),
                false => current(&mut record, ledger, &self.slots, loader),
            };
            old.map_err(|e| lost = Some(e)).ok()
        });
        if let Some(end) = end {
            (around.publish)(end);
        }
        if let Some(reason) = lost {
            (around.lost)(format!("there is no model: {reason}"));
        }
        Ok(())
    }
}

/// What is said of a job.
struct Told<'a> {
    publish: &'a dyn Fn(Progress),
    id: &'a str,
    version: Cell<Option<u64>>,
    leaves: Cell<Option<u64>>,
    accepted: Cell<bool>,
}

impl Told<'_> {
    fn progress(
        &self,
        state: JobState,
        bytes: Option<(u64, u64)>,
        reason: Option<String>,
    ) -> Progress {
        Progress {
            id: self.id.to_owned(),
            state,
            version: self.version.get(),
            leaves: self.leaves.get(),
            bytes: bytes.map(|(bytes, _)| bytes),
            of: bytes.map(|(_, of)| of),
            reason,
        }
    }

    fn say(&self, state: JobState, bytes: Option<(u64, u64)>, reason: Option<String>) {
        (self.publish)(self.progress(state, bytes, reason));
    }

    /// Once, however often the job is begun.
    fn accepted(&self) {
        if !self.accepted.replace(true) {
            self.say(JobState::Accepted, None, None);
        }
    }
}

/// Refuses jobs, where the configuration takes none.
pub(crate) fn refuse_all(inbox: &Receiver<Vec<u8>>, publish: &dyn Fn(Progress)) {
    while let Ok(payload) = inbox.recv() {
        if let Ok(asked) = parse(&payload) {
            publish(Progress {
                id: asked.id().to_owned(),
                state: JobState::Refused,
                version: None,
                leaves: None,
                bytes: None,
                of: None,
                reason: Some("this device takes no models: it has no [update]".to_owned()),
            });
        }
    }
}
