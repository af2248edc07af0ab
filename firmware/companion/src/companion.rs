//! Everything together: pins and bytes in, pins and bytes out.

use embedded_hal::digital::{InputPin, OutputPin};
use kinglet_link::{
    Capabilities, Cause, Hello, INPUTS, LONGEST_FRAME, Light, Link, Millis, Report, Reset,
    Settings, ToBoard, ToCompanion, UpdateReply, Wake, What,
};

use crate::debounce::Debounce;
use crate::log::Log;
use crate::rule::{self, Memory};
use crate::update::Updater;
use crate::watchdog::{Action, Watch};

/// Messages that wait for the board.
const QUEUE: usize = 8;
/// The log is told only while so few others wait.
const LOG_WAITS: usize = 2;
/// Debouncing before the board has said anything, in milliseconds.
const DEBOUNCE: u16 = 50;
/// How long a restart waits for the board to have heard of it.
const FAREWELL: Millis = 2000;

/// Measures light.
pub trait LightSensor {
    /// How bright it is, if that can be said now.
    fn light(&mut self) -> Option<Light>;
}

/// No sensor.
#[derive(Debug, Clone, Copy)]
pub struct NoLight;

impl LightSensor for NoLight {
    fn light(&mut self) -> Option<Light> {
        None
    }
}

/// What a companion is connected to.
#[derive(Debug)]
pub struct Parts<I, W, P, L, U, const K: usize> {
    /// A PIR's output, a contact.
    pub inputs: [I; K],
    /// High while the board is to be awake.
    pub wake: W,
    /// High while the board has no power, if that can be cut.
    pub power: Option<P>,
    /// How bright it is.
    pub light: L,
    /// Takes new firmware.
    pub updater: U,
}

/// What a companion is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The version of its firmware.
    pub firmware: u32,
    /// Why it has started.
    pub reset: Reset,
    /// Whether it has a light sensor.
    pub light: bool,
    /// Another number after every start.
    pub session: u16,
}

/// What is to be done after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The same again.
    Go,
    /// Start anew, with the firmware that the boot loader chooses.
    Restart,
}

/// One companion with `K` inputs.
#[derive(Debug)]
pub struct Companion<I, W, P, L, U, const K: usize> {
    parts: Parts<I, W, P, L, U, K>,
    identity: Identity,
    link: Link<ToBoard, ToCompanion, QUEUE>,
    settings: Settings,
    levels: [Debounce; K],
    memories: [Memory; K],
    watch: Watch,
    log: Log,
    /// The next entry of the log that is told, while it is.
    telling: Option<u32>,
    awake: bool,
    cut: bool,
    wakes: u32,
    power_cycles: u32,
    lost: u32,
    reported: Millis,
    restart: Option<Millis>,
}

impl<I, W, P, L, U, const K: usize> Companion<I, W, P, L, U, K>
where
    I: InputPin,
    W: OutputPin,
    P: OutputPin,
    L: LightSensor,
    U: Updater,
{
    /// Starts: the board is taken to be awake, with power, and no input wakes it before it has said how.
    pub fn new(parts: Parts<I, W, P, L, U, K>, identity: Identity, now: Millis) -> Self {
        const { assert!(K <= INPUTS) };
        let mut companion = Companion {
            parts,
            identity,
            link: Link::new(identity.session),
            settings: Settings::default(),
            levels: [Debounce::default(); K],
            memories: core::array::from_fn(|_| Memory::default()),
            watch: Watch::default(),
            log: Log::default(),
            telling: None,
            awake: true,
            cut: false,
            wakes: 0,
            power_cycles: 0,
            lost: 0,
            reported: now,
            restart: None,
        };
        companion.note(now, What::Started(identity.reset));
        companion.hello();
        companion.drive();
        companion
    }

    /// Takes a byte from the board.
    pub fn receive(&mut self, byte: u8, now: Millis) {
        if let Some(message) = self.link.receive(byte, now) {
            self.take(message, now);
        }
    }

    /// The next frame for the board, if there is one: ask until there is none.
    pub fn transmit<'o>(
        &mut self,
        now: Millis,
        out: &'o mut [u8; LONGEST_FRAME],
    ) -> Option<&'o [u8]> {
        self.link.transmit(now, out)
    }

    /// Reads the pins and does what is due. Call it every millisecond, or when a pin has changed.
    pub fn poll(&mut self, now: Millis) -> Then {
        for i in 0..K {
            self.read(i, now);
        }
        if let Some(action) = self.watch.poll(now) {
            self.act(action, now);
        }
        self.tell();
        let period = Millis::from(self.settings.report) * 1000;
        if period > 0 && now.saturating_sub(self.reported) >= period {
            self.reported = now;
            let report = self.report(now);
            // One is enough: the next one says more.
            if self.link.waiting() < LOG_WAITS {
                self.say(ToBoard::Report(report));
            }
        }
        self.drive();
        match self.restart {
            Some(latest) if self.link.waiting() == 0 || now >= latest => Then::Restart,
            _ => Then::Go,
        }
    }

    /// When [`Companion::transmit`] has something to say, if nothing happens before.
    pub fn due(&self) -> Option<Millis> {
        self.link.due()
    }

    fn read(&mut self, i: usize, now: Millis) {
        let rule = self.settings.inputs.get(i);
        let active_low = rule.is_some_and(|r| r.active_low);
        let lasting = rule.map_or(DEBOUNCE, |r| r.debounce);
        let Ok(high) = self.parts.inputs[i].is_high() else {
            self.lost = self.lost.saturating_add(1);
            return;
        };
        let Some(active) = self.levels[i].turn(high != active_low, lasting, now) else {
            return;
        };
        let input = i as u8;
        self.note(now, What::Input { input, active });
        let Some(rule) = self.settings.inputs.get(i).filter(|_| active) else {
            return;
        };
        let light = self.parts.light.light();
        let Some(count) = self.memories[i].activated(rule, light, now) else {
            return;
        };
        self.wakes = self.wakes.wrapping_add(1);
        self.note(now, What::Woken(Cause::Input(input)));
        if !self.awake {
            self.awake = true;
            self.watch.woken(now);
        }
        self.say(ToBoard::Wake(Wake {
            number: self.wakes,
            input,
            count,
            at: now,
            light,
        }));
    }

    fn take(&mut self, message: ToCompanion, now: Millis) {
        if self.watch.pet(now) {
            self.note(now, What::Alive);
        }
        match message {
            ToCompanion::Hello => {
                self.awake = true;
                self.hello();
            }
            ToCompanion::Settings(settings) => {
                let checked = rule::check(&settings, K, self.capabilities());
                if checked.is_ok() {
                    let action = self.watch.set(settings.watchdog, now);
                    self.follow(settings);
                    self.reported = now;
                    if let Some(action) = action {
                        self.act(action, now);
                    }
                }
                self.say(ToBoard::Settings(checked));
            }
            ToCompanion::Pet => self.awake = true,
            ToCompanion::Sleep => {
                self.awake = false;
                self.watch.sleep();
                self.note(now, What::Slept);
            }
            ToCompanion::ReadLog { from } => self.telling = Some(from),
            ToCompanion::Update(update) => {
                let reply = self.parts.updater.take(update);
                if let UpdateReply::Starting { .. } = reply {
                    self.restart = Some(now + FAREWELL);
                }
                self.say(ToBoard::Update(reply));
            }
        }
        self.drive();
    }

    /// Follows other settings. Inputs whose rules stay keep what they remember.
    fn follow(&mut self, settings: Settings) {
        for i in 0..K {
            let (old, new) = (self.settings.inputs.get(i), settings.inputs.get(i));
            if old != new {
                self.memories[i] = Memory::default();
            }
            // Another level is the active one now, and that is no edge.
            if old.is_some_and(|r| r.active_low) != new.is_some_and(|r| r.active_low) {
                self.levels[i] = Debounce::default();
            }
        }
        self.settings = settings;
    }

    /// Tells the log, as long as it may.
    fn tell(&mut self) {
        while let Some(from) = self.telling
            && self.link.waiting() < LOG_WAITS
        {
            let message = match self.log.from(from) {
                Some(entry) => {
                    self.telling = Some(entry.number.wrapping_add(1));
                    ToBoard::Entry(entry)
                }
                None => {
                    self.telling = None;
                    let next = self.log.next();
                    ToBoard::LogEnd { next }
                }
            };
            self.say(message);
        }
    }

    fn act(&mut self, action: Action, now: Millis) {
        match action {
            Action::Cut(time) => {
                self.cut = true;
                self.power_cycles = self.power_cycles.saturating_add(1);
                self.note(now, What::PowerCut { time });
            }
            Action::Restore => (self.cut, self.awake) = (false, true),
        }
    }

    /// Sets the lines. Every time: a line that was disturbed comes right again.
    fn drive(&mut self) {
        let wake = self.parts.wake.set_state(self.awake.into());
        let power = match &mut self.parts.power {
            Some(power) => power.set_state(self.cut.into()).is_ok(),
            None => true,
        };
        if wake.is_err() || !power {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn capabilities(&self) -> Capabilities {
        let light = [Capabilities(0), Capabilities::LIGHT][usize::from(self.identity.light)];
        let power = [Capabilities(0), Capabilities::POWER][usize::from(self.parts.power.is_some())];
        let update = [Capabilities(0), Capabilities::UPDATE][usize::from(U::TAKES)];
        light.and(power).and(update)
    }

    fn hello(&mut self) {
        let hello = Hello {
            capabilities: self.capabilities(),
            firmware: self.identity.firmware,
            inputs: K as u8,
            reset: self.identity.reset,
        };
        self.say(ToBoard::Hello(hello));
    }

    fn report(&mut self, now: Millis) -> Report {
        let bits = (0..).zip(&self.levels);
        Report {
            at: now,
            inputs: bits.fold(0, |bits, (i, l)| bits | u8::from(l.is_active()) << i),
            light: self.parts.light.light(),
            wake: self.awake,
            wakes: self.wakes,
            power_cycles: self.power_cycles,
            lost: self.lost,
        }
    }

    fn say(&mut self, message: ToBoard) {
        if self.link.send(message).is_err() {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn note(&mut self, at: Millis, what: What) {
        if self.log.note(at, what) {
            self.lost = self.lost.saturating_add(1);
        }
    }
}
