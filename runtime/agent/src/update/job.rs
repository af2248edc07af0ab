//! What is asked of a device, and what becomes of that.

use serde::{Deserialize, Serialize};

use super::manifest::{LARGEST_MANIFEST, Signed};
use crate::topic;

/// The largest job, in bytes.
pub const LARGEST_JOB: usize = LARGEST_MANIFEST * 2;
/// The longest place where files are, in bytes.
const LONGEST_BASE: usize = 2048;

/// `kinglet/D/job`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// 1 to 64 letters, digits, - and _. A job is done once.
    pub id: String,
    /// What is to be installed.
    pub manifest: Signed,
    /// Where its files are: `https://...`, `http://...` or a folder of the device, to which their names are
    /// added.
    pub base: String,
}

/// `kinglet/D/job`, the other kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BackJob {
    /// 1 to 64 letters, digits, - and _. A job is done once.
    pub id: String,
    /// Which model is to be left for which: the signed JSON of a rollback.
    pub rollback: Signed,
}

/// What may be asked of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Asked {
    /// A new model.
    Install(Job),
    /// The model that ran before.
    Back(BackJob),
}

impl Asked {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Asked::Install(job) => &job.id,
            Asked::Back(job) => &job.id,
        }
    }
}

/// `kinglet/D/job/ID`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Progress {
    /// The job.
    pub id: String,
    /// How far it is.
    pub state: JobState,
    /// The version that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The version that a rollback leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<u64>,
    /// Bytes that are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// All bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Why it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Its manifest is good.
    Accepted,
    /// Its files are being fetched, or will be tried again.
    Downloading,
    /// They are there and are looked at.
    Checking,
    /// The old model makes room for the new one.
    Switching,
    /// The end: the new model runs.
    Confirmed,
    /// The end: the new model was tried and did not do; the old one runs.
    RolledBack,
    /// The end: nothing was changed.
    Refused,
}

impl JobState {
    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(
            self,
            JobState::Confirmed | JobState::RolledBack | JobState::Refused
        )
    }
}

/// Reads a job. Nothing of it is true until its manifest is opened.
///
/// # Errors
/// The reason in words.
pub fn parse(payload: &[u8]) -> std::result::Result<Asked, String> {
    /// Which kind it is: read before the rest, so that errors name what is wrong.
    #[derive(Deserialize)]
    struct Kind {
        rollback: Option<serde::de::IgnoredAny>,
    }
    if payload.len() > LARGEST_JOB {
        return Err(format!("at most {LARGEST_JOB} bytes are accepted"));
    }
    let refuse = |e: serde_json::Error| format!("the job is not understood: {e}");
    let kind: Kind = serde_json::from_slice(payload).map_err(refuse)?;
    let asked = match kind.rollback {
        Some(_) => serde_json::from_slice(payload).map(Asked::Back),
        None => serde_json::from_slice(payload).map(Asked::Install),
    };
    let asked = asked.map_err(refuse)?;
    if !topic::is_id(asked.id()) {
        return Err("id: 1 to 64 letters, digits, - and _ are accepted".to_owned());
    }
    match &asked {
        Asked::Install(job) if job.base.len() > LONGEST_BASE => {
            Err(format!("base: at most {LONGEST_BASE} bytes are accepted"))
        }
        _ => Ok(asked),
    }
}
