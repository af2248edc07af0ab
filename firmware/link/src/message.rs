//! What is said on the wire: one enum each way.
//!
//! Postcard numbers variants by their order: new ones go to the end, and [`crate::VERSION`] grows when one
//! changes or goes.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::link::Millis;

/// The most inputs of a companion.
pub const INPUTS: usize = 4;
/// The most bytes of firmware in a message.
pub const CHUNK: usize = 64;

/// What a companion can do, as bits; unknown ones are left alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// It measures light.
    pub const LIGHT: Self = Capabilities(1);
    /// It can cut the board's power.
    pub const POWER: Self = Capabilities(2);
    /// It takes new firmware.
    pub const UPDATE: Self = Capabilities(4);

    /// Whether all of these are there.
    #[must_use]
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Capabilities(self.0 | others.0)
    }
}

/// Why a companion has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reset {
    /// It was given power.
    Power,
    /// It was reset, and its memory is as it was.
    Restart,
    /// Its own watchdog has reset it.
    Watchdog,
}

/// The first message of a companion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it can do.
    pub capabilities: Capabilities,
    /// The version of its firmware.
    pub firmware: u32,
    /// How many inputs it has.
    pub inputs: u8,
    /// Why it has started.
    pub reset: Reset,
}

/// Light on the sensor, 0 (dark) to 65,535.
pub type Light = u16;

/// When an input wakes the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRule {
    /// Whether it wakes the board at all.
    pub wakes: bool,
    /// Whether the input is active when it is low, as a contact against ground is.
    pub active_low: bool,
    /// How long a level must last before it counts, in milliseconds.
    pub debounce: u16,
    /// How often it must become active...
    pub count: u16,
    /// ... within this many seconds.
    pub within: u16,
    /// How many seconds it rests after it has woken the board.
    pub rest: u16,
    /// It wakes only when it is as dark as this, where there is a sensor.
    pub darker_than: Option<Light>,
}

impl Default for InputRule {
    /// Wakes when the input has been active for 50 ms.
    fn default() -> Self {
        InputRule {
            wakes: true,
            active_low: false,
            debounce: 50,
            count: 1,
            within: 0,
            rest: 0,
            darker_than: None,
        }
    }
}

/// How the companion watches over the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// Seconds without a sign of life after which the board's power is cut.
    pub patience: u16,
    /// Seconds that a board may take to start.
    pub start: u16,
    /// Seconds without power.
    pub off: u16,
}

/// What a companion does, by the board's will.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// One rule an input; inputs without one never wake the board.
    pub inputs: Vec<InputRule, INPUTS, u8>,
    /// Left out: it does not watch over the board.
    pub watchdog: Option<Watchdog>,
    /// Seconds between reports.
    pub report: u16,
}

/// What a board asks of its companion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCompanion {
    /// The board is there, and knows nothing of the companion: say hello.
    Hello,
    /// This is to be done from now on.
    Settings(Settings),
    /// The board is alive.
    Pet,
    /// The board goes to sleep: the wake line falls, and no sign of life is due until it is woken.
    Sleep,
    /// What is kept from this number on.
    ReadLog {
        /// The first number.
        from: u32,
    },
    /// New firmware.
    Update(Update),
}

/// New firmware, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// It has this version, this length in bytes, and this SHA-256.
    Begin {
        /// Must be larger than that of the firmware that runs.
        version: u32,
        /// Bytes of the image.
        length: u32,
        /// Of the image.
        sha256: [u8; 32],
    },
    /// A piece of it, at this offset.
    Chunk {
        /// Where it belongs.
        offset: u32,
        /// The bytes.
        bytes: Vec<u8, CHUNK, u8>,
    },
    /// That was all: check it, and start it.
    Finish,
    /// The firmware that runs does its work: keep it.
    Confirm,
}

/// What a companion has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBoard {
    /// It has started, or was asked.
    Hello(Hello),
    /// The settings are taken, or what is wrong with them.
    Settings(Result<(), Fault>),
    /// The board is to look.
    Wake(Wake),
    /// How it is.
    Report(Report),
    /// One line of its log.
    Entry(Entry),
    /// There are no more; the next one has this number.
    LogEnd {
        /// Its number.
        next: u32,
    },
    /// How far new firmware is.
    Update(UpdateReply),
}

/// The board was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// Grows by one with every one since the companion got power.
    pub number: u32,
    /// Which input.
    pub input: u8,
    /// How often it has become active within the rule's time.
    pub count: u16,
    /// When, on the companion's clock.
    pub at: Millis,
    /// How bright it was.
    pub light: Option<Light>,
}

/// How a companion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its clock.
    pub at: Millis,
    /// Which inputs are active, as bits.
    pub inputs: u8,
    /// How bright it is.
    pub light: Option<Light>,
    /// Whether the wake line is raised.
    pub wake: bool,
    /// Wakes so far.
    pub wakes: u32,
    /// How often it has cut the board's power.
    pub power_cycles: u32,
    /// What did not find room: frames, log entries that were overwritten unread.
    pub lost: u32,
}

/// One line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub number: u32,
    /// When, on the companion's clock.
    pub at: Millis,
    /// What happened.
    pub what: What,
}

/// What a log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The companion has started.
    Started(Reset),
    /// This input became active (or inactive).
    Input {
        /// Which.
        input: u8,
        /// Whether it is active now.
        active: bool,
    },
    /// The board was woken.
    Woken(Cause),
    /// The board went to sleep.
    Slept,
    /// No sign of life: the power was cut for the n-th time in a row.
    PowerCut {
        /// In a row.
        time: u16,
    },
    /// The board has shown the first sign of life since its power came back.
    Alive,
}

/// Why the board was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// This input's rule.
    Input(u8),
}

/// What is wrong with settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// There are more rules than inputs.
    Inputs,
    /// This input's rule counts to 0, or to more than can be remembered.
    Count(u8),
    /// This input's rule needs a light sensor.
    Light(u8),
    /// A watchdog needs the power pin, and times that are not 0.
    Watchdog,
    /// A report is due every 1 to 3,600 seconds.
    Report,
}

/// How far new firmware is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateReply {
    /// All up to here is stored.
    Stored {
        /// Bytes.
        offset: u32,
    },
    /// It is whole, and will be started.
    Starting {
        /// Its version.
        version: u32,
    },
    /// It is kept.
    Confirmed {
        /// Its version.
        version: u32,
    },
    /// It is not taken.
    Refused(UpdateFault),
}

/// Why new firmware is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateFault {
    /// This companion takes none.
    Unsupported,
    /// It is not newer than this version.
    NotNewer(u32),
    /// It is empty, or larger than this many bytes.
    Length(u32),
    /// A piece does not begin where the last one ended; all up to here is stored.
    Offset(u32),
    /// Its SHA-256 is another one.
    Hash,
    /// The flash does not take it.
    Flash,
    /// The firmware that runs is still on trial.
    OnTrial,
    /// None was begun.
    NotBegun,
}
