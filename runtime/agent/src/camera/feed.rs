//! The way of a frame from a camera to its slot: rate, masks, counters.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::report::Report;
use crate::area::Area;
use crate::frame::{Frame, Picture};
use crate::slot::Slot;

/// How often somebody who waits looks whether the slot has been closed.
const PIECE: Duration = Duration::from_millis(50);

/// Takes the frames of one camera.
pub(super) struct Feed {
    camera: String,
    slot: Arc<Slot>,
    /// The slot's turn: after it somebody else puts frames in.
    turn: u64,
    report: Arc<Report>,
    masks: Vec<Area>,
    period: Duration,
    due: Option<Instant>,
    number: u64,
    complaint: String,
}

impl Feed {
    pub(super) fn new(
        camera: String,
        rate: f64,
        masks: Vec<Area>,
        slot: Arc<Slot>,
        report: Arc<Report>,
    ) -> Self {
        Feed {
            camera,
            turn: slot.take_turn(),
            number: slot.last(),
            slot,
            report,
            masks,
            period: Duration::from_secs_f64(1.0 / rate),
            due: None,
            complaint: String::new(),
        }
    }

    /// Whether a frame that is there now is wanted at the rate asked for. Ask once for each frame,
    /// before decoding it.
    pub(super) fn wants(&mut self, now: Instant) -> bool {
        let due = *self.due.get_or_insert(now);
        let period = self.period();
        // Half a period early will do: a camera's frames come a little early and a little late, and
        // one that has just the rate asked for would lose every second frame otherwise.
        if now + period / 2 < due {
            return false;
        }
        self.due = Some((due + period).max(now));
        true
    }

    /// When the next frame is to be fetched, at the rate asked for.
    pub(super) fn next_due(&mut self, now: Instant) -> Instant {
        let due = self.due.unwrap_or(now).max(now);
        self.due = Some(due + self.period());
        due
    }

    /// Between frames, now.
    fn period(&self) -> Duration {
        self.period.saturating_mul(self.slot.slower())
    }

    /// Passes a frame on.
    pub(super) fn put(&mut self, mut picture: Picture) {
        if self.closed() {
            return;
        }
        if !self.masks.is_empty() {
            let rgb = Arc::make_mut(&mut picture.rgb);
            for mask in &self.masks {
                mask.blacken(rgb, picture.width);
            }
        }
        self.number += 1;
        if self.report.frame(Instant::now()) {
            tracing::info!(camera = self.camera, "the camera delivers again");
        }
        self.slot.put(Frame {
            number: self.number,
            at: OffsetDateTime::now_utc(),
            picture,
        });
    }

    /// Frames were lost, or given up for newer ones.
    pub(super) fn dropped(&self, frames: u64) {
        self.report.dropped(frames);
    }

    /// A frame is damaged; the next one may be good.
    pub(super) fn damaged(&mut self, reason: &str) {
        self.report.error(reason);
        // The same complaint once, not once a frame.
        if self.complaint != reason {
            tracing::warn!(camera = self.camera, "{reason}");
            reason.clone_into(&mut self.complaint);
        }
    }

    /// No frames come any more.
    pub(super) fn failed(&mut self, reason: &str) {
        if self.report.failed(reason) {
            tracing::warn!(camera = self.camera, "{reason}; trying again");
        }
        self.slot.clear();
    }

    /// Frames that were passed on.
    pub(super) fn delivered(&self) -> u64 {
        self.number
    }

    /// Frames a second that are asked for.
    pub(super) fn rate(&self) -> f64 {
        1.0 / self.period.as_secs_f64()
    }

    /// Whether nobody wants frames any more.
    pub(super) fn closed(&self) -> bool {
        !self.slot.wants(self.turn)
    }

    /// Ends soon after nobody wants frames any more.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let (slot, turn) = (Arc::clone(&self.slot), self.turn);
        async move {
            while slot.wants(turn) {
                tokio::time::sleep(PIECE).await;
            }
        }
    }

    /// Sleeps in pieces, so that closing the slot ends the thread soon.
    pub(super) fn sleep(&self, time: Duration) {
        let due = Instant::now() + time;
        while !self.closed() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(PIECE));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A feed, and what comes out of it.
    pub(in crate::camera) fn feed(rate: f64, masks: &[[f64; 4]]) -> (Feed, Arc<Slot>, Arc<Report>) {
        let slot = Arc::new(Slot::default());
        let report = Arc::new(Report::new(rate, Arc::default()));
        let masks = crate::area::read("camera.mask", masks).unwrap();
        let feed = Feed::new(
            "c".to_owned(),
            rate,
            masks,
            Arc::clone(&slot),
            Arc::clone(&report),
        );
        (feed, slot, report)
    }

    fn wanted(asked: f64, period_ms: &[u64], frames: u64) -> u64 {
        let (mut feed, _, _) = feed(asked, &[]);
        let start = Instant::now();
        let mut at = 0;
        let mut count = 0;
        for i in 0..frames as usize {
            count += u64::from(feed.wants(start + Duration::from_millis(at)));
            at += period_ms[i % period_ms.len()];
        }
        count
    }

    #[test]
    fn a_faster_camera_is_thinned_to_the_rate_asked_for_and_a_slower_one_is_not() {
        // 10 s at 30 a second; one more is due half a period before the end.
        let about = |n: u64| n..=n + 1;
        assert!(about(100).contains(&wanted(10.0, &[33, 33, 34], 300)));
        assert!(about(200).contains(&wanted(20.0, &[33, 33, 34], 300)));
        // The rate asked for, unevenly.
        assert_eq!(wanted(10.0, &[70, 130, 95, 105], 100), 100);
        assert_eq!(wanted(30.0, &[1000], 20), 20);
    }

    #[test]
    fn a_masked_part_is_black_in_the_slot() {
        let (mut feed, slot, report) = feed(1.0, &[[0.5, 0.0, 0.5, 1.0]]);
        let white = Picture {
            width: 2,
            height: 1,
            rgb: vec![255; 6].into(),
        };
        feed.put(white.clone());
        let frame = slot.newest().unwrap();
        assert_eq!(*frame.picture.rgb, [255, 255, 255, 0, 0, 0]);
        // Whoever else holds the picture keeps it.
        assert_eq!(*white.rgb, [255; 6]);
        assert_eq!(report.read(Instant::now()).frames, 1);
    }
}
