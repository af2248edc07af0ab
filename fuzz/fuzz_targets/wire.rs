//! What arrives on the line between a board and its companion, at both ends: bytes as they come, and messages of
//! any content in frames that are right.
#![no_main]

use std::convert::Infallible;

use crc::{CRC_32_ISCSI, Crc};
use embedded_hal::digital::{ErrorType, InputPin, OutputPin};
use kinglet_companion::{Companion, Identity, NoLight, NoUpdates, Parts};
use kinglet_link::{LONGEST_FRAME, Link, Reset, ToBoard, ToCompanion};
use libfuzzer_sys::fuzz_target;

struct Pin(bool);

impl ErrorType for Pin {
    type Error = Infallible;
}

impl InputPin for Pin {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        self.0 = !self.0;
        Ok(self.0)
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(!self.0)
    }
}

impl OutputPin for Pin {
    fn set_low(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// A frame with this body, numbered as the receiver expects it.
fn frame(number: u16, body: &[u8]) -> Vec<u8> {
    let mut raw = vec![1, 0, 7, 0];
    raw.extend(number.to_le_bytes());
    raw.extend(body);
    let check = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&raw);
    raw.extend(check.to_le_bytes());
    let mut bytes = cobs::encode_vec(&raw);
    bytes.push(0);
    bytes
}

fuzz_target!(|data: &[u8]| {
    let Some((&how, data)) = data.split_first() else {
        return;
    };
    let bytes = if how & 1 == 0 {
        data.to_vec()
    } else {
        let bodies = data.split(|&b| b == how);
        (0..)
            .zip(bodies)
            .flat_map(|(i, body)| frame(i, body))
            .collect()
    };
    let mut board = Link::<ToCompanion, ToBoard, 4>::new(1);
    let parts = Parts {
        inputs: [Pin(false), Pin(true)],
        wake: Pin(false),
        power: Some(Pin(false)),
        light: NoLight,
        updater: NoUpdates,
    };
    let identity = Identity {
        firmware: 1,
        reset: Reset::Power,
        light: true,
        session: 2,
    };
    let mut companion = Companion::new(parts, identity, 0);
    let mut out = [0; LONGEST_FRAME];
    for (now, &byte) in (0..).map(|n| n * 97).zip(&bytes) {
        let _ = board.receive(byte, now);
        companion.receive(byte, now);
        companion.poll(now);
        while let Some(frame) = companion.transmit(now, &mut out) {
            assert_eq!(frame.last(), Some(&0));
        }
        while board.transmit(now, &mut out).is_some() {}
    }
});
