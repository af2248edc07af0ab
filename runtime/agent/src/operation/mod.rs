//! What whoever looks after a device wants to know: numbers for Prometheus, and whether all is well.

mod http;
mod metrics;
mod pulse;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use crate::camera::{CameraReport, CameraState, Report};
use crate::link::Connection;
use crate::outbox::Outbox;
use crate::slot::Slot;
pub(crate) use http::Server;
pub(crate) use metrics::Metrics;
pub(crate) use pulse::Pulse;

/// A camera that is neither slow nor known to fail is heard of more often than this.
const CAMERA_SILENCE: Duration = Duration::from_secs(90);
/// Frames that a slow camera may be late by.
const LATE_FRAMES: f64 = 3.0;
/// A look or a drawing shows a token or a step more often than this, on the slowest board.
const WORKER_SILENCE: Duration = Duration::from_secs(900);

/// The cameras, by name.
pub(crate) type Cameras = BTreeMap<String, (Arc<Report>, Arc<Slot>)>;

/// Everything that is watched.
#[derive(Debug)]
pub struct Monitor {
    pub(crate) cameras: Cameras,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) connection: watch::Receiver<Connection>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Whether all is well.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Health {
    /// Whether nothing hangs. A camera or a broker that is away and tried again is no reason to be ill: a
    /// restart would not bring it back.
    pub healthy: bool,
    /// What hangs.
    pub problems: Vec<String>,
    /// `connected`, or why not.
    pub broker: String,
    /// The outbox.
    pub outbox: OutboxHealth,
    /// Whether the cameras deliver.
    pub cameras: BTreeMap<String, CameraState>,
}

/// What waits to be sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OutboxHealth {
    /// Messages.
    pub messages: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that were dropped for want of room, since the start.
    pub dropped: u64,
}

impl Monitor {
    /// How the cameras do. Frames that came and went before a watch had time for them count as dropped.
    pub(crate) fn sources(&self, now: Instant) -> BTreeMap<String, CameraReport> {
        let read = |(name, (report, slot)): (&String, &(Arc<Report>, Arc<Slot>))| {
            let mut report = report.read(now);
            report.dropped += slot.dropped();
            (name.clone(), report)
        };
        self.cameras.iter().map(read).collect()
    }

    /// Whether all is well.
    #[must_use]
    pub fn health(&self) -> Health {
        let now = Instant::now();
        let mut problems = Vec::new();
        for (name, (report, _)) in &self.cameras {
            let silence = report.silence(now);
            if silence > allowed(report.asked()) {
                let seconds = silence.as_secs();
                problems.push(format!("camera \"{name}\" hangs: silent for {seconds} s"));
            }
        }
        let silence = self.pulse.silence(now);
        if silence > WORKER_SILENCE {
            let seconds = silence.as_secs();
            problems.push(format!("the model hangs: silent for {seconds} s"));
        }
        let states = self.sources(now).into_iter();
        Health {
            healthy: problems.is_empty(),
            problems,
            broker: match &*self.connection.borrow() {
                Connection::Up => "connected".to_owned(),
                Connection::Down(reason) => reason.clone(),
            },
            outbox: OutboxHealth {
                messages: self.outbox.len(),
                bytes: self.outbox.bytes(),
                dropped: self.outbox.dropped(),
            },
            cameras: states.map(|(name, report)| (name, report.state)).collect(),
        }
    }
}

/// How long a camera of so many frames a second may be silent.
fn allowed(fps: f64) -> Duration {
    let late = Duration::try_from_secs_f64(LATE_FRAMES / fps).unwrap_or(Duration::MAX);
    late.max(CAMERA_SILENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_camera_may_be_silent_for_longer() {
        assert_eq!(allowed(5.0), CAMERA_SILENCE);
        assert_eq!(allowed(0.001), Duration::from_secs(3000));
        assert_eq!(allowed(0.0), Duration::MAX);
    }
}
