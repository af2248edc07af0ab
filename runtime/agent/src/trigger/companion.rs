//! Looks when the microcontroller has woken the board.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Trigger, Turn};
use crate::companion::{Wakes, Woken};
use crate::frame::Frame;
use crate::message::Cause;

/// A wake that no frame could follow for so long is forgotten: what it was about is over.
const FRESH: Duration = Duration::from_secs(30);

/// A watch's ear for wakes.
pub(super) struct Companion {
    wakes: Arc<Wakes>,
    input: Option<String>,
    /// The number of the newest one that was answered by a look.
    seen: u64,
    before: u64,
    woken: Option<Woken>,
}

impl Companion {
    /// Hears of wakes from now on, of one input if it is named.
    pub(super) fn new(wakes: Arc<Wakes>, input: Option<String>) -> Self {
        let seen = wakes.all();
        Companion {
            wakes,
            input,
            seen,
            before: seen,
            woken: None,
        }
    }
}

impl Trigger for Companion {
    fn turn(&mut self, _: &Frame, now: Instant, may: bool) -> Turn {
        let newest = self.wakes.newest(self.input.as_deref());
        let Some((number, at, woken)) = newest.filter(|w| w.0 > self.seen) else {
            return Turn::Nothing;
        };
        let stale = now.saturating_duration_since(at) > FRESH;
        if !may && !stale {
            return Turn::Nothing;
        }
        self.before = if stale { number } else { self.seen };
        self.seen = number;
        self.woken = Some(woken);
        if stale { Turn::Nothing } else { Turn::Rises }
    }

    fn cause(&self) -> Option<Cause> {
        let woken = self.woken.clone()?;
        Some(Cause::Woken {
            input: woken.input,
            count: woken.count,
            light: woken.light,
        })
    }

    fn missed(&mut self) {
        self.seen = self.before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wake(wakes: &Wakes, input: &str, at: Instant) {
        let woken = Woken {
            input: input.to_owned(),
            count: 1,
            light: None,
        };
        wakes.note(woken, at);
    }

    #[test]
    fn one_wake_is_one_look_unless_it_could_not_be() {
        let wakes = Arc::new(Wakes::default());
        let start = Instant::now();
        wake(&wakes, "pir", start);
        let mut any = Companion::new(Arc::clone(&wakes), None);
        let mut gate = Companion::new(Arc::clone(&wakes), Some("gate".to_owned()));
        let frame = Frame {
            number: 1,
            at: time::OffsetDateTime::UNIX_EPOCH,
            picture: crate::frame::Picture {
                width: 1,
                height: 1,
                rgb: vec![0; 3].into(),
            },
        };
        assert_eq!(
            any.turn(&frame, start, true),
            Turn::Nothing,
            "it was before"
        );
        wake(&wakes, "pir", start);
        assert_eq!(any.turn(&frame, start, false), Turn::Nothing, "it may not");
        assert_eq!(any.turn(&frame, start, true), Turn::Rises);
        assert_eq!(any.turn(&frame, start, true), Turn::Nothing);
        assert_eq!(
            gate.turn(&frame, start, true),
            Turn::Nothing,
            "another input"
        );
        any.missed();
        assert_eq!(any.turn(&frame, start, true), Turn::Rises);
        wake(&wakes, "gate", start);
        assert_eq!(gate.turn(&frame, start, true), Turn::Rises);
        assert!(matches!(gate.cause(), Some(Cause::Woken { input, .. }) if input == "gate"));
        // One that comes too late stays away.
        wake(&wakes, "pir", start);
        let late = start + FRESH * 2;
        assert_eq!(any.turn(&frame, late, true), Turn::Nothing);
        any.missed();
        assert_eq!(any.turn(&frame, start, true), Turn::Nothing);
    }
}
