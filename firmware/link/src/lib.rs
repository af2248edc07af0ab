//! The wire between a board and the companion microcontroller that wakes it: messages in postcard, frames with
//! CRC-32C in COBS, and a link that numbers, acknowledges and sends again. It knows no serial port and no
//! clock: bytes and the time go in, bytes come out.
//!
//! `message` what is said, `frame` one frame, `link` what makes frames arrive once and in order.
#![no_std]

#[cfg(test)]
extern crate std;

mod frame;
mod link;
mod message;

pub use frame::{Frame, FrameError, Kind, LONGEST_BODY, LONGEST_FRAME, VERSION};
pub use link::{Counters, Full, Link, Millis};
pub use message::{
    CHUNK, Capabilities, Cause, Entry, Fault, Hello, INPUTS, InputRule, Light, Report, Reset,
    Settings, ToBoard, ToCompanion, Update, UpdateFault, UpdateReply, Wake, Watchdog, What,
};
