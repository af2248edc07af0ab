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
pub fn parse(payload: &[u8]) -> std::result::Result<Job, String> {
    if payload.len() > LARGEST_JOB {
        return Err(format!("at most {LARGEST_JOB} bytes are accepted"));
    }
    let job: Job =
        serde_json::from_slice(payload).map_err(|e| format!("the job is not understood: {e}"))?;
    if !topic::is_id(&job.id) {
        return Err("id: 1 to 64 letters, digits, - and _ are accepted".to_owned());
    }
    if job.base.len() > LONGEST_BASE {
        return Err(format!("base: at most {LONGEST_BASE} bytes are accepted"));
    }
    Ok(job)
}
