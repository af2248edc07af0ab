//! One frame: `version, kind, session (2), sequence (2), body, CRC-32C of all that (4)`, little endian, in COBS,
//! ended by a zero byte.

use crc::{CRC_32_ISCSI, Crc};
use heapless::Vec;
use serde::Serialize;

/// The protocol's version. Another one is refused in words, not guessed at.
pub const VERSION: u8 = 1;
/// The most bytes of a message.
pub const LONGEST_BODY: usize = 96;
/// The most bytes of a frame before COBS.
const LONGEST_RAW: usize = HEAD + LONGEST_BODY + CHECK;
/// The most bytes of a frame on the wire, its zero included: COBS adds one byte for every 254.
pub const LONGEST_FRAME: usize = LONGEST_RAW + 2;

const HEAD: usize = 6;
const CHECK: usize = 4;
/// CRC-32C (Castagnoli), as iSCSI has it.
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It carries a message.
    Data,
    /// It says that the message with its session and sequence has arrived.
    Acknowledgement,
}

/// A frame that has arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is for.
    pub kind: Kind,
    /// Which run of its sender it is of; of the receiver, in an acknowledgement.
    pub session: u16,
    /// The message's number.
    pub sequence: u16,
    /// The message in postcard.
    pub body: &'a [u8],
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// No COBS, no known kind, too short, or another checksum: the line is noisy.
    Damaged,
    /// Somebody who speaks this version of the protocol.
    Version(u8),
    /// A message of more than [`LONGEST_BODY`] bytes.
    TooLong,
}

impl<'a> Frame<'a> {
    /// Reads what stood between two zero bytes, in place.
    ///
    /// # Errors
    /// [`FrameError::Damaged`] or [`FrameError::Version`].
    pub fn read(bytes: &'a mut [u8]) -> Result<Self, FrameError> {
        let length = cobs::decode_in_place(bytes).map_err(|_| FrameError::Damaged)?;
        let raw = bytes.get(..length).ok_or(FrameError::Damaged)?;
        let body = length
            .checked_sub(CHECK)
            .filter(|&at| at >= HEAD)
            .ok_or(FrameError::Damaged)?;
        let (checked, check) = raw.split_at(body);
        if CRC.checksum(checked).to_le_bytes() != check {
            return Err(FrameError::Damaged);
        }
        let &[version, kind, s0, s1, n0, n1, ref body @ ..] = checked else {
            return Err(FrameError::Damaged);
        };
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Acknowledgement,
            _ => return Err(FrameError::Damaged),
        };
        Ok(Frame {
            kind,
            session: u16::from_le_bytes([s0, s1]),
            sequence: u16::from_le_bytes([n0, n1]),
            body,
        })
    }
}

/// Writes a frame with this message, if it has one, and returns its bytes with the zero at the end.
///
/// # Errors
/// [`FrameError::TooLong`].
pub(crate) fn write<'o>(
    kind: Kind,
    session: u16,
    sequence: u16,
    message: Option<&impl Serialize>,
    out: &'o mut [u8; LONGEST_FRAME],
) -> Result<&'o [u8], FrameError> {
    let mut raw: Vec<u8, LONGEST_RAW, u8> = Vec::new();
    let [s0, s1] = session.to_le_bytes();
    let [n0, n1] = sequence.to_le_bytes();
    let kind = match kind {
        Kind::Data => 0,
        Kind::Acknowledgement => 1,
    };
    let too_long = |_| FrameError::TooLong;
    raw.extend_from_slice(&[VERSION, kind, s0, s1, n0, n1])
        .map_err(too_long)?;
    if let Some(message) = message {
        let mut body = [0; LONGEST_BODY];
        let body = postcard::to_slice(message, &mut body).map_err(|_| FrameError::TooLong)?;
        raw.extend_from_slice(body).map_err(too_long)?;
    }
    let check = CRC.checksum(&raw).to_le_bytes();
    raw.extend_from_slice(&check).map_err(too_long)?;
    // The last byte stays the zero that ends the frame.
    let length = cobs::encode(&raw, &mut out[..LONGEST_FRAME - 1]);
    out[length] = 0;
    Ok(&out[..=length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = [0; LONGEST_FRAME];
        for body in [&[][..], &[0; 80], &[7; 90], &[0, 1, 0, 255]] {
            let body: Vec<u8, LONGEST_BODY> = body.iter().copied().collect();
            let frame = write(Kind::Data, 0x1234, 513, Some(&body), &mut out).unwrap();
            assert!(frame.ends_with(&[0]) && !frame[..frame.len() - 1].contains(&0));
            let mut bytes: std::vec::Vec<u8> = frame[..frame.len() - 1].into();
            let read = Frame::read(&mut bytes).unwrap();
            assert_eq!(
                (read.kind, read.session, read.sequence),
                (Kind::Data, 0x1234, 513)
            );
            let read: Vec<u8, LONGEST_BODY> = postcard::from_bytes(read.body).unwrap();
            assert_eq!(read, body);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut out = [0; LONGEST_FRAME];
        let frame = write(Kind::Data, 7, 8, Some(&[1u8, 0, 3, 0, 5]), &mut out).unwrap();
        let frame: std::vec::Vec<u8> = frame[..frame.len() - 1].into();
        for at in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert_eq!(
                Frame::read(&mut damaged),
                Err(FrameError::Damaged),
                "bit {at}"
            );
        }
    }

    #[test]
    fn another_version_is_said() {
        let mut raw = [9, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let check = CRC.checksum(&raw[..6]).to_le_bytes();
        raw[6..].copy_from_slice(&check);
        let mut bytes = [0; 16];
        let length = cobs::encode(&raw, &mut bytes);
        assert_eq!(
            Frame::read(&mut bytes[..length]),
            Err(FrameError::Version(9))
        );
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut out = [0; LONGEST_FRAME];
        let body = [1u8; 97];
        let refused = write(Kind::Data, 0, 0, Some(&&body[..]), &mut out);
        assert_eq!(refused, Err(FrameError::TooLong));
    }
}
