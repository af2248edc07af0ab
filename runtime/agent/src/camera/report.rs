//! How a camera does: counters that its thread writes and the status reads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Notify;

/// Frames over which the rate is measured.
const MEASURED: usize = 60;
/// Frames older than this say nothing about the rate.
const MEASURED_FOR: Duration = Duration::from_secs(60);
/// Damaged frames in a row that make a camera a failing one.
const IN_A_ROW: u64 = 10;
/// The longest reason, in characters.
const LONGEST_REASON: usize = 300;

/// One camera in `kinglet/D/status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CameraReport {
    /// Whether frames come.
    pub state: CameraState,
    /// Why not, if they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Frames a second that are asked for.
    pub fps_asked: f64,
    /// Frames a second that came lately.
    pub fps: f64,
    /// Frames that came.
    pub frames: u64,
    /// Frames that were taken and given up for a newer one, or that the camera says it lost.
    pub dropped: u64,
    /// Damaged frames.
    pub errors: u64,
    /// Connections that were lost or could not be made.
    pub reconnects: u64,
}

/// Whether a camera delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CameraState {
    /// No frame has come yet.
    #[default]
    Starting,
    /// Frames come.
    Delivering,
    /// No frames come; the camera is tried again and again.
    Failing,
}

/// The counters of one camera.
#[derive(Debug)]
pub(crate) struct Report {
    /// Frames a second, as bits.
    asked: AtomicU64,
    inner: Mutex<Inner>,
    /// When the camera's thread was heard of last.
    heard: Mutex<Instant>,
    /// Told when the camera begins to fail and when it has recovered.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    state: CameraState,
    reason: Option<String>,
    frames: u64,
    dropped: u64,
    errors: u64,
    /// Damaged frames since the last good one.
    in_a_row: u64,
    reconnects: u64,
    lately: VecDeque<Instant>,
}

impl Report {
    pub(crate) fn new(asked: f64, changed: Arc<Notify>) -> Self {
        Report {
            asked: AtomicU64::new(asked.to_bits()),
            inner: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            changed,
        }
    }

    /// Frames a second that are asked for.
    pub(crate) fn asked(&self) -> f64 {
        f64::from_bits(self.asked.load(Ordering::Relaxed))
    }

    /// Another rate is asked for.
    pub(crate) fn ask(&self, rate: f64) {
        self.asked.store(rate.to_bits(), Ordering::Relaxed);
    }

    /// For how long nothing was heard of the camera's thread.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(heard)
    }

    /// A sign of life.
    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// What to tell the world now.
    pub(crate) fn read(&self, now: Instant) -> CameraReport {
        let inner = self.lock();
        let mut lately = inner
            .lately
            .iter()
            .filter(|t| now.saturating_duration_since(**t) < MEASURED_FOR);
        // From the oldest to now, not to the newest: a camera that has stopped gets slower.
        let fps = match (lately.next(), lately.count()) {
            (Some(first), later) if later > 0 => {
                let seconds = now.saturating_duration_since(*first).as_secs_f64();
                later as f64 / seconds.max(0.001)
            }
            _ => 0.0,
        };
        CameraReport {
            state: inner.state,
            reason: inner.reason.clone(),
            fps_asked: self.asked(),
            fps: (fps * 100.0).round() / 100.0,
            frames: inner.frames,
            dropped: inner.dropped,
            errors: inner.errors,
            reconnects: inner.reconnects,
        }
    }

    /// A frame came. Returns whether the camera had failed before.
    pub(super) fn frame(&self, now: Instant) -> bool {
        self.hear();
        let mut inner = self.lock();
        inner.frames += 1;
        inner.in_a_row = 0;
        if inner.lately.len() == MEASURED {
            inner.lately.pop_front();
        }
        inner.lately.push_back(now);
        let failed = inner.state == CameraState::Failing;
        inner.state = CameraState::Delivering;
        inner.reason = None;
        if failed {
            self.changed.notify_one();
        }
        failed
    }

    pub(super) fn dropped(&self, frames: u64) {
        self.hear();
        let mut inner = self.lock();
        inner.dropped = inner.dropped.saturating_add(frames);
    }

    /// A frame is damaged. A camera whose frames all are has failed.
    pub(super) fn error(&self, reason: &str) {
        self.hear();
        let mut inner = self.lock();
        inner.errors += 1;
        inner.in_a_row += 1;
        if inner.in_a_row == IN_A_ROW {
            inner.state = CameraState::Failing;
            inner.reason = Some(short(reason));
            self.changed.notify_one();
        }
    }

    /// No frames come, or none can be had. Returns whether this is news.
    pub(super) fn failed(&self, reason: &str) -> bool {
        self.hear();
        let reason = short(reason);
        let mut inner = self.lock();
        inner.reconnects += 1;
        inner.state = CameraState::Failing;
        let news = inner.reason.as_ref() != Some(&reason);
        inner.reason = Some(reason);
        if news {
            self.changed.notify_one();
        }
        news
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain counters: a panic elsewhere leaves nothing half done that matters.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn short(reason: &str) -> String {
    reason.chars().take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_measured_and_falls_when_frames_stop() {
        let report = Report::new(5.0, Arc::default());
        let start = Instant::now();
        assert_eq!(report.read(start).state, CameraState::Starting);
        let at = |ms: u64| start + Duration::from_millis(ms);
        for i in 0..=20 {
            report.frame(at(i * 200));
        }
        let read = report.read(at(4000));
        assert_eq!((read.fps, read.frames), (5.0, 21));
        assert_eq!(report.read(at(8000)).fps, 2.5);
        assert_eq!(report.read(at(90_000)).fps, 0.0);
    }

    #[test]
    fn failing_and_recovering_are_news_once() {
        let report = Report::new(5.0, Arc::default());
        assert!(report.failed("a"));
        assert!(!report.failed("a"));
        assert!(report.failed("b"));
        assert!(report.frame(Instant::now()));
        assert!(!report.frame(Instant::now()));
        let read = report.read(Instant::now());
        assert_eq!((read.reconnects, read.reason), (3, None));
    }
}
