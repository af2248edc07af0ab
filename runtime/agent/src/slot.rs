//! The newest frame of a camera. Whoever is slow sees fewer frames, never old ones.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::frame::Frame;

/// Holds the newest frame of one camera.
#[derive(Debug, Default)]
pub struct Slot {
    newest: Mutex<Option<Arc<Frame>>>,
    changed: Condvar,
    /// The number of the last frame.
    last: AtomicU64,
    /// Whose turn it is to put frames in.
    turn: AtomicU64,
    dropped: AtomicU64,
    /// How many times fewer frames are wanted than at the camera's rate, less one.
    slower: AtomicU32,
    closed: AtomicBool,
}

impl Slot {
    /// Puts a newer frame in. The old one is gone.
    pub fn put(&self, frame: Frame) {
        self.last.store(frame.number, Ordering::Relaxed);
        *self.lock() = Some(Arc::new(frame));
        self.changed.notify_all();
    }

    /// Takes the newest frame away: the camera has failed, and what it saw last is no longer so.
    pub fn clear(&self) {
        *self.lock() = None;
    }

    /// The newest frame, if there has been one.
    pub fn newest(&self) -> Option<Arc<Frame>> {
        self.lock().clone()
    }

    /// Waits for a frame with a number above `seen`; none after `timeout` or once the slot is
    /// closed. Frames that came and went in between are counted as dropped.
    pub fn newer_than(&self, seen: u64, timeout: Duration) -> Option<Arc<Frame>> {
        let newest = self.lock();
        let waiting = |f: &mut Option<Arc<Frame>>| {
            !self.closed() && f.as_ref().is_none_or(|f| f.number <= seen)
        };
        let (newest, _) = self
            .changed
            .wait_timeout_while(newest, timeout, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let frame = newest.clone().filter(|f| f.number > seen)?;
        if seen > 0 {
            self.dropped
                .fetch_add(frame.number - seen - 1, Ordering::Relaxed);
        }
        Some(frame)
    }

    /// The number of the last frame; 0 if there has been none.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Gives the turn of putting frames in to somebody else, who gets it returned.
    pub fn take_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether frames of this turn are still wanted.
    pub fn wants(&self, turn: u64) -> bool {
        !self.closed() && self.turn.load(Ordering::SeqCst) == turn
    }

    /// Frames that nobody had time for.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// So many times fewer frames are wanted from now on.
    pub fn slow_down(&self, times: u32) {
        self.slower
            .store(times.saturating_sub(1), Ordering::Relaxed);
    }

    /// How many times fewer frames are wanted.
    pub fn slower(&self) -> u32 {
        self.slower.load(Ordering::Relaxed).saturating_add(1)
    }

    /// Wakes everybody who waits: no more frames will come.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Whether the slot has been closed.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Frame>>> {
        // The value is replaced as a whole: a panic elsewhere cannot leave half a frame.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::frame::Picture;

    fn frame(number: u64) -> Frame {
        Frame {
            number,
            at: OffsetDateTime::UNIX_EPOCH,
            picture: Picture {
                width: 1,
                height: 1,
                rgb: vec![0; 3].into(),
            },
        }
    }

    #[test]
    fn a_slow_reader_gets_the_newest_frame_and_the_others_are_counted() {
        let slot = Slot::default();
        let wait = Duration::from_millis(1);
        assert!(slot.newer_than(0, wait).is_none());
        slot.put(frame(1));
        assert_eq!(slot.newer_than(0, wait).unwrap().number, 1);
        assert!(slot.newer_than(1, wait).is_none());
        for number in 2..=5 {
            slot.put(frame(number));
        }
        assert_eq!(slot.newer_than(1, wait).unwrap().number, 5);
        assert_eq!(slot.dropped(), 3);
    }

    #[test]
    fn closing_wakes_a_waiting_reader() {
        let slot = Arc::new(Slot::default());
        let other = Arc::clone(&slot);
        let reader = std::thread::spawn(move || other.newer_than(0, Duration::from_secs(60)));
        slot.close();
        assert!(reader.join().unwrap().is_none());
    }
}
