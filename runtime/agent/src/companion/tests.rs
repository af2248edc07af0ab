//! The agent's end of the conversation, with the firmware's own logic at the other end.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;

use embedded_hal::digital::{ErrorType, InputPin, OutputPin};
use kinglet_companion::{Companion, Identity, NoLight, NoUpdates, Parts};
use kinglet_link::{InputRule, LONGEST_FRAME, Millis, Reset, Settings, Watchdog};

use super::CompanionState;
use super::talk::{News, Talk};

#[derive(Clone, Default)]
struct Pin(Rc<Cell<bool>>);

impl ErrorType for Pin {
    type Error = Infallible;
}

impl InputPin for Pin {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(self.0.get())
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(!self.0.get())
    }
}

impl OutputPin for Pin {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.0.set(false);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

type Firmware = Companion<Pin, Pin, Pin, NoLight, NoUpdates, 1>;

fn firmware(input: &Pin, wake: &Pin, power: Option<&Pin>, session: u16) -> Firmware {
    let parts = Parts {
        inputs: [input.clone()],
        wake: wake.clone(),
        power: power.cloned(),
        light: NoLight,
        updater: NoUpdates,
    };
    let identity = Identity {
        firmware: 5,
        reset: Reset::Restart,
        light: false,
        session,
    };
    Companion::new(parts, identity, 0)
}

/// So many milliseconds pass; returns the news.
fn pass(
    talk: &mut Talk,
    firmware: &mut Firmware,
    now: &mut Millis,
    ms: Millis,
    alive: bool,
) -> Vec<News> {
    let (mut news, mut out) = (Vec::new(), [0; LONGEST_FRAME]);
    for _ in 0..ms {
        firmware.poll(*now);
        talk.poll(*now, alive);
        while let Some(frame) = talk.transmit(*now, &mut out) {
            frame.iter().for_each(|&b| firmware.receive(b, *now));
        }
        while let Some(frame) = firmware.transmit(*now, &mut out) {
            news.extend(frame.iter().filter_map(|&b| talk.receive(b, *now)));
        }
        *now += 1;
    }
    news
}

fn settings(watchdog: Option<Watchdog>) -> Settings {
    Settings {
        inputs: [InputRule::default()].into_iter().collect(),
        watchdog,
        report: 2,
    }
}

#[test]
fn a_companion_is_set_up_and_wakes_and_is_set_up_again_when_it_restarts() {
    let (input, wake) = (Pin::default(), Pin::default());
    let mut other = firmware(&input, &wake, None, 1);
    let mut talk = Talk::new(settings(None), 77);
    let mut now = 0;
    talk.begin(now);
    let entries = |news: &[News]| news.iter().filter(|n| matches!(n, News::Entry(_))).count();
    let hellos = |news: &[News]| {
        let hello = News::Hello { firmware: 5 };
        news.iter().filter(|n| **n == hello).count()
    };
    let woken = |news: &[News]| news.iter().filter(|n| matches!(n, News::Woken(_))).count();
    let news = pass(&mut talk, &mut other, &mut now, 3000, true);
    assert_eq!(talk.state(now), (CompanionState::Connected, None));
    assert!(hellos(&news) >= 1);
    assert_eq!(
        entries(&news),
        1,
        "its start, once, however often it said hello: {news:?}"
    );
    assert!(news.iter().any(|n| matches!(n, News::Report(_))));

    input.0.set(true);
    let news = pass(&mut talk, &mut other, &mut now, 200, true);
    assert_eq!(woken(&news), 1);

    // It starts anew, and the line was quiet meanwhile: its settings are gone, and its log.
    for session in [2, 2] {
        input.0.set(false);
        other = firmware(&input, &wake, None, session);
        let news = pass(&mut talk, &mut other, &mut now, 3000, true);
        assert_eq!(hellos(&news), 1);
        assert!(entries(&news) >= 1, "{news:?}");
        assert_eq!(talk.state(now).0, CompanionState::Connected);
        input.0.set(true);
        let news = pass(&mut talk, &mut other, &mut now, 200, true);
        assert_eq!(woken(&news), 1, "session {session}");
    }

    // Nothing is heard for long.
    assert_eq!(talk.state(now + 5000).0, CompanionState::Connected);
    assert_eq!(talk.state(now + 7000).0, CompanionState::Silent);
    // The agent ends: the board may sleep.
    assert!(wake.0.get());
    talk.leave();
    pass(&mut talk, &mut other, &mut now, 50, false);
    assert!(talk.has_said_all() && !wake.0.get());
}

#[test]
fn signs_of_life_end_when_the_agent_hangs() {
    let (input, wake, power) = (Pin::default(), Pin::default(), Pin::default());
    let mut other = firmware(&input, &wake, Some(&power), 1);
    let watchdog = Watchdog {
        patience: 1,
        start: 60,
        off: 1,
    };
    let mut talk = Talk::new(settings(Some(watchdog)), 77);
    let mut now = 0;
    talk.begin(now);
    for _ in 0..20 {
        pass(&mut talk, &mut other, &mut now, 500, true);
        assert!(!power.0.get(), "at {now} ms");
    }
    pass(&mut talk, &mut other, &mut now, 1200, false);
    assert!(power.0.get());
}

#[test]
fn what_a_companion_cannot_do_is_said_in_words() {
    let (input, wake) = (Pin::default(), Pin::default());
    let mut other = firmware(&input, &wake, None, 1);
    let watchdog = Watchdog {
        patience: 1,
        start: 1,
        off: 1,
    };
    let mut now = 0;
    let dark = InputRule {
        darker_than: Some(1),
        ..InputRule::default()
    };
    for (settings, words) in [
        (settings(Some(watchdog)), "cannot cut the board's power"),
        (
            Settings {
                inputs: [InputRule::default(); 2].into_iter().collect(),
                ..settings(None)
            },
            "has 1 inputs",
        ),
        (
            Settings {
                inputs: [dark].into_iter().collect(),
                ..settings(None)
            },
            "no light sensor",
        ),
    ] {
        let mut talk = Talk::new(settings, now as u16);
        talk.begin(now);
        pass(&mut talk, &mut other, &mut now, 500, true);
        let (state, error) = talk.state(now);
        assert_eq!(state, CompanionState::Strange);
        assert!(error.as_ref().unwrap().contains(words), "{error:?}");
    }
}

#[test]
fn who_speaks_another_version_or_nothing_is_known_as_that() {
    let mut talk = Talk::new(settings(None), 1);
    talk.begin(0);
    assert_eq!(
        talk.state(100),
        (CompanionState::Silent, None),
        "it may still answer"
    );
    let (state, error) = talk.state(4000);
    assert!(state == CompanionState::Silent && error.is_some());
    // A whole frame of version 9: `version, kind, session, sequence, CRC-32C`.
    for byte in OTHER_VERSION {
        assert_eq!(talk.receive(byte, 4000), None);
    }
    let (state, error) = talk.state(4000);
    assert_eq!(state, CompanionState::Strange);
    assert!(error.unwrap().contains("version 9"));
}

/// In COBS, with the zero that ends it. Its checksum was computed by another program.
const OTHER_VERSION: [u8; 12] = [2, 9, 2, 1, 1, 1, 5, 52, 165, 89, 5, 0];
