//! What is known about the models in the slots. It is written whole or not at all, so that a start after an
//! interruption at any point finds either what was before a step or what is after it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::Progress;
use super::manifest::{Keys, Manifest, Which};
use crate::error::Result;
use crate::state::State;

/// Jobs that are remembered, so that they are not done again.
const JOBS: usize = 64;
/// Models that were left and are remembered one by one; the highest version of all is, too.
const LEFT: usize = 64;
/// The record's name in the state.
const NAME: &str = "update";

/// A place for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Slot {
    A,
    B,
}

impl Slot {
    pub(crate) fn other(self) -> Self {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// The name of its folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }
}

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The slot whose model runs; none: the model of the configuration.
    pub(crate) current: Option<Slot>,
    /// A model that has not shown yet that it works.
    pub(crate) trial: Option<Trial>,
    /// What lies in the slots, whole and checked.
    pub(crate) slots: BTreeMap<Slot, Manifest>,
    /// Whose signatures count, if that is not what the configuration says any more.
    pub(crate) keys: Option<Keys>,
    /// What became of the last jobs.
    pub(crate) ended: VecDeque<Progress>,
    /// Models that a rollback has left.
    #[serde(default)]
    pub(crate) left: VecDeque<Which>,
    /// The highest version of those.
    #[serde(default)]
    pub(crate) highest_left: u64,
}

/// A model that is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// None: the model of the configuration.
    pub(crate) slot: Option<Slot>,
    /// The job that asked for it.
    pub(crate) job: String,
    /// Starts of the program since.
    pub(crate) starts: u32,
    /// The model that a rollback leaves for good.
    #[serde(default)]
    pub(crate) leaves: Option<Which>,
}

impl Record {
    /// The version that runs; 0: the configuration's.
    pub(crate) fn version(&self) -> u64 {
        self.running().map_or(0, |manifest| manifest.version)
    }

    /// The model that runs; none: the configuration's.
    pub(crate) fn running(&self) -> Option<&Manifest> {
        self.slots.get(&self.current?)
    }

    /// The version of a trial; 0: the configuration's.
    pub(crate) fn version_of(&self, trial: &Trial) -> Option<u64> {
        match &trial.slot {
            Some(slot) => self.slots.get(slot).map(|m| m.version),
            None => Some(0),
        }
    }

    /// The model that runs is left for good.
    pub(crate) fn leave(&mut self, which: Which) {
        if let Some(slot) = self.current {
            self.slots.remove(&slot);
        }
        self.highest_left = self.highest_left.max(which.version);
        if self.left.len() == LEFT {
            self.left.pop_front();
        }
        self.left.push_back(which);
    }

    /// Remembers what became of a job.
    pub(crate) fn end(&mut self, end: Progress) {
        self.ended.retain(|known| known.id != end.id);
        if self.ended.len() == JOBS {
            self.ended.pop_front();
        }
        self.ended.push_back(end);
    }
}

/// Where the record is kept.
pub(crate) trait Ledger: Send + Sync {
    fn load(&self) -> Result<Record>;
    fn store(&self, record: &Record) -> Result<()>;
}

impl Ledger for State {
    fn load(&self) -> Result<Record> {
        // One that is not understood must not count as none: keys and versions would be forgotten.
        Ok(self.get_or_refuse(NAME)?.unwrap_or_default())
    }

    fn store(&self, record: &Record) -> Result<()> {
        self.set(NAME, record)
    }
}
