//! A companion with pins of a test's own, and a board at the other end of its line.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use embedded_hal::digital::{ErrorType, InputPin, OutputPin};
use kinglet_companion::{
    Companion, ENTRIES, Identity, LightSensor, MOST_COUNT, NoUpdates, Parts, Then, Updater,
};
use kinglet_link::{
    Capabilities, Cause, Entry, Fault, Hello, InputRule, LONGEST_FRAME, Light, Link, Millis, Reset,
    Settings, ToBoard, ToCompanion, Update, UpdateFault, UpdateReply, Wake, Watchdog, What,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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

#[derive(Clone)]
struct Lamp(Rc<Cell<Light>>);

impl LightSensor for Lamp {
    fn light(&mut self) -> Option<Light> {
        Some(self.0.get())
    }
}

/// Takes whatever it is sent, without a flash.
struct Takes;

impl Updater for Takes {
    const TAKES: bool = true;

    fn take(&mut self, _: Update) -> UpdateReply {
        UpdateReply::Starting { version: 7 }
    }
}

struct Bench<U> {
    companion: Companion<Pin, Pin, Pin, Lamp, U, 2>,
    board: Link<ToCompanion, ToBoard, 8>,
    inputs: [Pin; 2],
    wake: Pin,
    power: Pin,
    light: Rc<Cell<Light>>,
    /// The wire is cut.
    deaf: bool,
    now: Millis,
    heard: RefCell<Vec<ToBoard>>,
}

impl<U: Updater> Bench<U> {
    fn new(updater: U) -> Self {
        let (inputs, wake, power) = (
            [Pin::default(), Pin::default()],
            Pin::default(),
            Pin::default(),
        );
        let light = Rc::new(Cell::new(1000));
        let parts = Parts {
            inputs: inputs.clone(),
            wake: wake.clone(),
            power: Some(power.clone()),
            light: Lamp(Rc::clone(&light)),
            updater,
        };
        let identity = Identity {
            firmware: 3,
            reset: Reset::Power,
            light: true,
            session: 1,
        };
        Bench {
            companion: Companion::new(parts, identity, 0),
            board: Link::new(2),
            inputs,
            wake,
            power,
            light,
            deaf: false,
            now: 0,
            heard: RefCell::default(),
        }
    }

    /// A millisecond passes.
    fn tick(&mut self) -> Then {
        let mut out = [0; LONGEST_FRAME];
        let then = self.companion.poll(self.now);
        while let Some(frame) = self.board.transmit(self.now, &mut out) {
            for &byte in frame.iter().filter(|_| !self.deaf) {
                self.companion.receive(byte, self.now);
            }
        }
        while let Some(frame) = self.companion.transmit(self.now, &mut out) {
            for &byte in frame.iter().filter(|_| !self.deaf) {
                let message = self.board.receive(byte, self.now);
                self.heard.borrow_mut().extend(message);
            }
        }
        self.now += 1;
        then
    }

    fn pass(&mut self, ms: Millis) {
        for _ in 0..ms {
            assert_eq!(self.tick(), Then::Go);
        }
    }

    fn say(&mut self, message: ToCompanion) {
        self.board.send(message).unwrap();
        self.pass(3);
    }

    /// What was heard since the last time.
    fn heard(&self) -> Vec<ToBoard> {
        self.heard.take()
    }

    fn wakes(&self) -> Vec<Wake> {
        let heard = self.heard().into_iter().filter_map(|m| match m {
            ToBoard::Wake(wake) => Some(wake),
            _ => None,
        });
        heard.collect()
    }

    fn log(&mut self, from: u32) -> Vec<Entry> {
        self.heard();
        self.say(ToCompanion::ReadLog { from });
        self.pass(200);
        let heard = self.heard();
        assert!(
            matches!(heard.last(), Some(ToBoard::LogEnd { .. })),
            "{heard:?}"
        );
        let entries = heard.into_iter().filter_map(|m| match m {
            ToBoard::Entry(entry) => Some(entry),
            _ => None,
        });
        entries.collect()
    }
}

fn settings(rules: &[InputRule]) -> Settings {
    Settings {
        inputs: rules.iter().copied().collect(),
        watchdog: None,
        report: 5,
    }
}

#[test]
fn it_says_hello_and_takes_only_settings_that_it_can_follow() {
    let mut bench = Bench::new(NoUpdates);
    bench.pass(10);
    let hello = ToBoard::Hello(Hello {
        capabilities: Capabilities::LIGHT.and(Capabilities::POWER),
        firmware: 3,
        inputs: 2,
        reset: Reset::Power,
    });
    assert_eq!(bench.heard(), std::slice::from_ref(&hello));
    let rule = InputRule::default();
    let with = |watchdog| Settings {
        watchdog: Some(watchdog),
        ..settings(&[])
    };
    let good = Watchdog {
        patience: 10,
        start: 10,
        off: 1,
    };
    for (settings, fault) in [
        (settings(&[rule; 2]), None),
        (with(good), None),
        (settings(&[rule; 3]), Some(Fault::Inputs)),
        (
            settings(&[rule, InputRule { count: 0, ..rule }]),
            Some(Fault::Count(1)),
        ),
        (
            settings(&[InputRule {
                count: MOST_COUNT as u16 + 1,
                ..rule
            }]),
            Some(Fault::Count(0)),
        ),
        (with(Watchdog { off: 0, ..good }), Some(Fault::Watchdog)),
        (
            Settings {
                report: 0,
                ..settings(&[])
            },
            Some(Fault::Report),
        ),
    ] {
        bench.say(ToCompanion::Settings(settings));
        let answer = fault.map_or(Ok(()), Err);
        assert_eq!(bench.heard(), [ToBoard::Settings(answer)]);
    }
    bench.say(ToCompanion::Hello);
    assert_eq!(bench.heard(), [hello]);
    bench.say(ToCompanion::Update(Update::Finish));
    let refused = UpdateReply::Refused(UpdateFault::Unsupported);
    assert_eq!(bench.heard(), [ToBoard::Update(refused)]);
    bench.pass(5000);
    assert!(
        matches!(bench.heard()[..], [ToBoard::Report(report)] if report.wake && report.light == Some(1000))
    );
}

#[test]
fn a_sleeping_board_is_woken_and_told_why_even_much_later() {
    let mut bench = Bench::new(NoUpdates);
    bench.say(ToCompanion::Settings(settings(&[InputRule::default()])));
    assert!(bench.wake.0.get(), "a board that talks is awake");
    bench.say(ToCompanion::Sleep);
    assert!(!bench.wake.0.get());
    // Nobody listens while it sleeps and starts.
    bench.deaf = true;
    bench.pass(1000);
    bench.inputs[0].0.set(true);
    let pressed = bench.now;
    bench.pass(49);
    assert!(!bench.wake.0.get(), "it may still bounce");
    bench.pass(2);
    assert!(bench.wake.0.get());
    bench.inputs[0].0.set(false);
    bench.pass(30_000);
    bench.deaf = false;
    bench.pass(3000);
    let at = pressed + 50;
    let wake = Wake {
        number: 1,
        input: 0,
        count: 1,
        at,
        light: Some(1000),
    };
    assert_eq!(bench.wakes(), [wake]);
    // The second input has no rule: it is noted, and wakes nobody.
    bench.inputs[1].0.set(true);
    bench.pass(100);
    assert_eq!(bench.wakes(), []);
    let log: Vec<_> = bench.log(0).into_iter().map(|e| e.what).collect();
    let input = |input, active| What::Input { input, active };
    assert_eq!(
        log,
        [
            What::Started(Reset::Power),
            What::Slept,
            input(0, true),
            What::Woken(Cause::Input(0)),
            input(0, false),
            input(1, true),
        ]
    );
    assert_eq!(bench.log(4).len(), 2);
}

#[test]
fn a_level_that_was_there_before_wakes_nobody() {
    let mut bench = Bench::new(NoUpdates);
    bench.inputs[0].0.set(true);
    bench.pass(200);
    let low = InputRule {
        active_low: true,
        ..InputRule::default()
    };
    for (rule, wakes) in [(InputRule::default(), 0), (low, 0), (low, 1), (low, 1)] {
        bench.say(ToCompanion::Settings(settings(&[rule])));
        bench.heard();
        if wakes == 1 {
            for high in [false, true] {
                bench.inputs[0].0.set(high);
                bench.pass(60);
            }
        }
        bench.pass(200);
        assert_eq!(bench.wakes().len(), wakes, "{rule:?}");
    }
    // Settings that come again forget no edge that is under way.
    bench.inputs[0].0.set(false);
    bench.pass(40);
    bench.say(ToCompanion::Settings(settings(&[low])));
    bench.pass(20);
    assert_eq!(bench.wakes().len(), 1);
}

#[test]
fn a_log_without_room_loses_its_oldest_and_says_so() {
    let mut bench = Bench::new(NoUpdates);
    bench.pass(60);
    for i in 0..100 {
        bench.inputs[0].0.set(i % 2 == 0);
        bench.pass(60);
    }
    let log = bench.log(0);
    assert_eq!(log.len(), ENTRIES);
    assert_eq!(log[0].number, 101 - ENTRIES as u32);
    bench.say(ToCompanion::Settings(settings(&[])));
    bench.heard();
    bench.pass(5001);
    let lost = 101 - ENTRIES as u32;
    assert!(matches!(bench.heard()[..], [ToBoard::Report(report)] if report.lost == lost));
}

#[test]
fn light_decides_too() {
    let mut bench = Bench::new(NoUpdates);
    let rule = InputRule {
        darker_than: Some(500),
        ..InputRule::default()
    };
    bench.say(ToCompanion::Settings(settings(&[rule])));
    bench.heard();
    for (light, wakes) in [(501, 0), (500, 1), (0, 1), (65_535, 0)] {
        bench.light.set(light);
        bench.inputs[0].0.set(true);
        bench.pass(60);
        bench.inputs[0].0.set(false);
        bench.pass(60);
        assert_eq!(bench.wakes().len(), wakes, "light {light}");
    }
}

#[test]
fn a_board_that_dies_loses_power_and_gets_it_back() {
    let mut bench = Bench::new(NoUpdates);
    let watched = Settings {
        watchdog: Some(Watchdog {
            patience: 2,
            start: 20,
            off: 1,
        }),
        ..settings(&[])
    };
    bench.say(ToCompanion::Settings(watched));
    for _ in 0..10 {
        bench.pass(1500);
        bench.say(ToCompanion::Pet);
        assert!(!bench.power.0.get());
    }
    bench.pass(2010);
    assert!(bench.power.0.get(), "no sign of life");
    bench.pass(1000);
    assert!(!bench.power.0.get() && bench.wake.0.get());
    bench.pass(19_900);
    assert!(!bench.power.0.get(), "it may take its time to start");
    bench.say(ToCompanion::Pet);
    let log: Vec<_> = bench.log(1).into_iter().map(|e| e.what).collect();
    assert_eq!(log, [What::PowerCut { time: 1 }, What::Alive]);
}

#[test]
fn new_firmware_is_started_when_the_board_has_heard_of_it_or_cannot() {
    for deaf in [false, true] {
        let mut bench = Bench::new(Takes);
        bench.pass(10);
        bench
            .board
            .send(ToCompanion::Update(Update::Finish))
            .unwrap();
        bench.tick();
        bench.deaf = deaf;
        let start = bench.now;
        while bench.tick() == Then::Go {
            assert!(bench.now < start + 3000);
        }
        assert_eq!(bench.now < start + 100, !deaf);
    }
}

/// What is to happen, computed from the whole trace at once: at which milliseconds the input wakes the board.
fn plainly(trace: &[bool], rule: &InputRule) -> Vec<Millis> {
    let (mut active, mut times, mut wakes) = (false, Vec::new(), Vec::<Millis>::new());
    for now in 0..trace.len() {
        // The level is another one, and has been all the time.
        let from = now.checked_sub(usize::from(rule.debounce));
        let Some(from) = from else { continue };
        if trace[from..=now]
            .iter()
            .any(|&high| (high != rule.active_low) == active)
        {
            continue;
        }
        active = !active;
        if !active {
            continue;
        }
        let now = now as Millis;
        times.push(now);
        let since = wakes.last().copied();
        let recent = times.iter().filter(|&&t| {
            now - t <= Millis::from(rule.within) * 1000 && since.is_none_or(|since| t > since)
        });
        let rests = since.is_some_and(|since| now < since + Millis::from(rule.rest) * 1000);
        if recent.count() >= usize::from(rule.count) && !rests {
            wakes.push(now);
        }
    }
    wakes
}

#[test]
fn random_traces_wake_as_the_rule_says() {
    let mut all = 0;
    for seed in 0..300 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let rule = InputRule {
            active_low: random.random(),
            debounce: random.random_range(0..80),
            count: random.random_range(1..5),
            within: random.random_range(0..4),
            rest: random.random_range(0..3),
            ..InputRule::default()
        };
        // Levels that last for long, with bouncing in between. An input begins inactive.
        let mut level = rule.active_low;
        let mut trace = vec![level; 100];
        while trace.len() < 20_000 {
            if random.random_bool(0.5) {
                for _ in 0..random.random_range(0..20) {
                    trace.extend(vec![random.random::<bool>(); random.random_range(1..10)]);
                }
            }
            level = !level;
            trace.extend(vec![level; random.random_range(1..600)]);
        }
        let mut bench = Bench::new(NoUpdates);
        bench.inputs[0].0.set(rule.active_low);
        bench.say(ToCompanion::Settings(settings(&[rule])));
        bench.pass(500);
        bench.heard();
        let start = bench.now;
        let mut wakes = Vec::new();
        for &high in &trace {
            bench.inputs[0].0.set(high);
            bench.tick();
            wakes.extend(bench.wakes().into_iter().map(|w| w.at - start));
        }
        assert_eq!(wakes, plainly(&trace, &rule), "seed {seed}: {rule:?}");
        all += wakes.len();
    }
    println!("300 traces of 20 s: {all} wakes, each in its millisecond");
    assert!(all > 1000, "the traces hold enough: {all}");
}

#[test]
fn noise_on_the_line_does_nothing() {
    let mut bench = Bench::new(NoUpdates);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for now in 0..200_000 {
        bench.companion.receive(random.random(), now);
        assert_eq!(bench.companion.poll(now), Then::Go);
    }
    assert!(bench.wake.0.get() && !bench.power.0.get());
}
