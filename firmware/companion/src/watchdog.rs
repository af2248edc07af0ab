//! The board's signs of life, and what happens without them.

use kinglet_link::{Millis, Watchdog};

/// The time that a board may take to start is doubled with every try in a row, so many times at most: a board
/// that cannot start is left alone for longer and longer.
const DOUBLINGS: u16 = 6;

/// What the power line must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Cut the power, for the n-th time in a row.
    Cut(u16),
    /// Give it back.
    Restore,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Nothing is due.
    #[default]
    Rests,
    /// A sign of life is due by then.
    Watches(Millis),
    /// The power is cut until then.
    Cut(Millis),
    /// The board starts, and has time until then.
    Starts(Millis),
}

/// Watches over the board.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    settings: Option<Watchdog>,
    state: State,
    /// How often the power was cut since the last sign of life.
    row: u16,
}

impl Watch {
    /// The board has said how it is to be watched over: which is a sign of life.
    pub(crate) fn set(&mut self, settings: Option<Watchdog>, now: Millis) -> Option<Action> {
        self.settings = settings;
        if settings.is_some() {
            self.pet(now);
            return None;
        }
        let was_cut = matches!(self.state, State::Cut(_));
        (self.state, self.row) = (State::Rests, 0);
        was_cut.then_some(Action::Restore)
    }

    /// A sign of life. Returns whether it is the first since the power came back.
    pub(crate) fn pet(&mut self, now: Millis) -> bool {
        let Some(settings) = self.settings else {
            return false;
        };
        // Without power it can be nothing but noise that happens to be right.
        if matches!(self.state, State::Cut(_)) {
            return false;
        }
        self.state = State::Watches(now + seconds(settings.patience));
        core::mem::take(&mut self.row) > 0
    }

    /// The board goes to sleep.
    pub(crate) fn sleep(&mut self) {
        if !matches!(self.state, State::Cut(_)) {
            self.state = State::Rests;
        }
    }

    /// The board was woken, and must show signs of life again.
    pub(crate) fn woken(&mut self, now: Millis) {
        if let (Some(settings), State::Rests) = (self.settings, self.state) {
            self.state = State::Starts(now + seconds(settings.start));
        }
    }

    /// What is due now.
    pub(crate) fn poll(&mut self, now: Millis) -> Option<Action> {
        let settings = self.settings?;
        match self.state {
            State::Watches(due) | State::Starts(due) if now >= due => {
                self.row = self.row.saturating_add(1);
                self.state = State::Cut(now + seconds(settings.off));
                Some(Action::Cut(self.row))
            }
            State::Cut(until) if now >= until => {
                let longer = (self.row - 1).min(DOUBLINGS);
                self.state = State::Starts(now + (seconds(settings.start) << longer));
                Some(Action::Restore)
            }
            _ => None,
        }
    }
}

fn seconds(seconds: u16) -> Millis {
    Millis::from(seconds) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const SETTINGS: Watchdog = Watchdog {
        patience: 10,
        start: 60,
        off: 5,
    };

    /// What happens until then, with its second.
    fn run(watch: &mut Watch, seconds: std::ops::Range<u64>) -> Vec<(u64, Action)> {
        let ms = seconds.start * 1000..seconds.end * 1000;
        ms.filter_map(|now| watch.poll(now).map(|action| (now / 1000, action)))
            .collect()
    }

    #[test]
    fn a_board_without_signs_of_life_loses_power_ever_more_rarely() {
        let mut watch = Watch::default();
        assert_eq!(run(&mut watch, 0..100), []);
        watch.set(Some(SETTINGS), 100_000);
        let mut expected = Vec::from([(110, Action::Cut(1)), (115, Action::Restore)]);
        let mut at = 115;
        for time in 2..=9 {
            at += 60 << (time - 2).min(6);
            expected.push((at, Action::Cut(time)));
            at += 5;
            expected.push((at, Action::Restore));
        }
        assert_eq!(run(&mut watch, 100..at + 1), expected);
        assert!(watch.pet((at + 2) * 1000), "the first sign of life");
        assert!(!watch.pet((at + 3) * 1000));
        let after = run(&mut watch, at + 3..at + 20);
        assert_eq!(
            after,
            [(at + 13, Action::Cut(1)), (at + 18, Action::Restore)]
        );
    }

    #[test]
    fn a_board_may_sleep_and_must_wake() {
        let mut watch = Watch::default();
        watch.set(Some(SETTINGS), 0);
        watch.sleep();
        assert_eq!(run(&mut watch, 0..10_000), []);
        watch.woken(10_000_000);
        assert_eq!(run(&mut watch, 10_000..10_059), []);
        watch.pet(10_059_000);
        assert_eq!(run(&mut watch, 10_059..10_069), []);
        assert_eq!(run(&mut watch, 10_069..10_070), [(10_069, Action::Cut(1))]);
        // Whatever is heard while there is no power is nothing.
        assert!(!watch.pet(10_070_000));
        watch.sleep();
        assert_eq!(run(&mut watch, 10_070..10_080), [(10_074, Action::Restore)]);
    }

    #[test]
    fn who_is_not_watched_over_any_more_has_power() {
        let mut watch = Watch::default();
        watch.set(Some(SETTINGS), 0);
        assert_eq!(run(&mut watch, 0..11), [(10, Action::Cut(1))]);
        assert_eq!(watch.set(None, 11_000), Some(Action::Restore));
        assert_eq!(run(&mut watch, 11..1000), []);
    }
}
