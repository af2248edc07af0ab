//! What makes messages arrive once and in order over a line that loses, doubles and damages bytes: one message
//! is under way at a time, and is sent again until it is acknowledged (stop and wait).

use core::marker::PhantomData;

use heapless::{Deque, Vec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{self, Frame, FrameError, Kind, LONGEST_FRAME};

/// Milliseconds since some start of one's own.
pub type Millis = u64;

/// How long an acknowledgement is waited for at first; a frame of full length takes 10 ms at 115,200 baud.
const PATIENCE: Millis = 60;
/// How long at most: every try doubles it.
const LONGEST_PATIENCE: Millis = 2000;

/// There is no room for one more message: this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// What has happened on a link since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were taken in.
    pub received: u32,
    /// Messages that were acknowledged.
    pub sent: u32,
    /// Frames that were sent once more.
    pub again: u32,
    /// What arrived damaged.
    pub damaged: u32,
    /// Messages that arrived once more, which is how lost acknowledgements look.
    pub doubled: u32,
    /// Times that the other end has begun anew.
    pub beginnings: u32,
    /// Frames of another version of the protocol, and messages that cannot be read.
    pub strange: u32,
}

/// Which message of which run of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    session: u16,
    sequence: u16,
}

/// One end of a link that says `Out`, hears `In` and keeps up to `N` messages.
#[derive(Debug)]
pub struct Link<Out, In, const N: usize> {
    session: u16,
    /// Number of the first message of the queue.
    sequence: u16,
    queue: Deque<Out, N>,
    tries: u32,
    /// When the first message is sent (again).
    due: Millis,
    /// What has arrived and was not acknowledged yet.
    owed: Option<Key>,
    /// What has arrived last.
    last: Option<Key>,
    /// What has arrived of the next frame.
    frame: Vec<u8, LONGEST_FRAME>,
    /// The frame is too long to be one: wait for its end.
    skipping: bool,
    heard: Option<Millis>,
    other_version: Option<u8>,
    counters: Counters,
    hears: PhantomData<In>,
}

impl<Out: Serialize, In: DeserializeOwned, const N: usize> Link<Out, In, N> {
    /// A link whose runs are told apart by `session`: another number after every start.
    #[must_use]
    pub const fn new(session: u16) -> Self {
        Link {
            session,
            sequence: 0,
            queue: Deque::new(),
            tries: 0,
            due: 0,
            owed: None,
            last: None,
            frame: Vec::new(),
            skipping: false,
            heard: None,
            other_version: None,
            counters: Counters {
                received: 0,
                sent: 0,
                again: 0,
                damaged: 0,
                doubled: 0,
                beginnings: 0,
                strange: 0,
            },
            hears: PhantomData,
        }
    }

    /// Puts a message behind those that wait.
    ///
    /// # Errors
    /// [`Full`] with the message, if `N` wait already.
    pub fn send(&mut self, message: Out) -> Result<(), Full<Out>> {
        self.queue.push_back(message).map_err(Full)
    }

    /// How many messages are not acknowledged yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Takes a byte from the line, at `now`. Returns a message, if one is complete now.
    pub fn receive(&mut self, byte: u8, now: Millis) -> Option<In> {
        if byte != 0 {
            if !self.skipping && self.frame.push(byte).is_err() {
                self.skipping = true;
                self.counters.damaged = self.counters.damaged.saturating_add(1);
            }
            return None;
        }
        let skipped = core::mem::take(&mut self.skipping);
        let mut bytes = core::mem::take(&mut self.frame);
        // Two zeros are an empty line, which wakes a receiver up; not an error.
        if skipped || bytes.is_empty() {
            return None;
        }
        match Frame::read(&mut bytes) {
            Ok(frame) => {
                self.heard = Some(now);
                self.other_version = None;
                self.take(frame)
            }
            Err(FrameError::Version(version)) => {
                self.other_version = Some(version);
                self.counters.strange = self.counters.strange.saturating_add(1);
                None
            }
            Err(_) => {
                self.counters.damaged = self.counters.damaged.saturating_add(1);
                None
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Option<In> {
        let key = Key {
            session: frame.session,
            sequence: frame.sequence,
        };
        match frame.kind {
            Kind::Acknowledgement => {
                let first = Key {
                    session: self.session,
                    sequence: self.sequence,
                };
                if key == first && self.tries > 0 && self.queue.pop_front().is_some() {
                    self.counters.sent = self.counters.sent.wrapping_add(1);
                    self.sequence = next(self.sequence);
                    (self.tries, self.due) = (0, 0);
                }
                None
            }
            Kind::Data => {
                let is_new = match self.last {
                    Some(last) if last.session == key.session => {
                        // A sender begins with 0, and never comes back to it: it has begun again with
                        // the same session.
                        key.sequence == next(last.sequence)
                            || key.sequence == 0 && last.sequence != 0
                    }
                    _ => true,
                };
                if is_new {
                    self.last = Some(key);
                    let begins = u32::from(key.sequence == 0);
                    self.counters.beginnings = self.counters.beginnings.wrapping_add(begins);
                } else if self.last != Some(key) {
                    // Neither the last one nor the next: no sender of this protocol does that.
                    self.counters.strange = self.counters.strange.saturating_add(1);
                    return None;
                }
                self.owed = Some(key);
                if !is_new {
                    self.counters.doubled = self.counters.doubled.saturating_add(1);
                    return None;
                }
                match postcard::from_bytes(frame.body) {
                    Ok(message) => {
                        self.counters.received = self.counters.received.wrapping_add(1);
                        Some(message)
                    }
                    // It is acknowledged all the same: sent again it would be no better.
                    Err(_) => {
                        self.counters.strange = self.counters.strange.saturating_add(1);
                        None
                    }
                }
            }
        }
    }

    /// The next frame for the line at `now`, if there is one: ask until there is none.
    pub fn transmit<'o>(
        &mut self,
        now: Millis,
        out: &'o mut [u8; LONGEST_FRAME],
    ) -> Option<&'o [u8]> {
        if let Some(Key { session, sequence }) = self.owed.take() {
            return frame::write(Kind::Acknowledgement, session, sequence, None::<&Out>, out).ok();
        }
        let message = self.queue.front().filter(|_| now >= self.due)?;
        let (session, sequence) = (self.session, self.sequence);
        let frame = frame::write(Kind::Data, session, sequence, Some(message), out);
        match frame {
            Ok(frame) => {
                if self.tries > 0 {
                    self.counters.again = self.counters.again.saturating_add(1);
                }
                self.due = now + (PATIENCE << self.tries.min(8)).min(LONGEST_PATIENCE);
                self.tries = self.tries.saturating_add(1);
                Some(frame)
            }
            // Nobody could ever hear it; those behind it must not wait for that.
            Err(_) => {
                self.queue.pop_front();
                self.counters.strange = self.counters.strange.saturating_add(1);
                None
            }
        }
    }

    /// When [`Link::transmit`] has something to say next, if nothing arrives before.
    #[must_use]
    pub fn due(&self) -> Option<Millis> {
        if self.owed.is_some() {
            return Some(0);
        }
        (!self.queue.is_empty()).then_some(self.due)
    }

    /// When a whole frame has arrived last.
    #[must_use]
    pub fn heard(&self) -> Option<Millis> {
        self.heard
    }

    /// The version of the protocol that the other end speaks, if it is another one.
    #[must_use]
    pub fn other_version(&self) -> Option<u8> {
        self.other_version
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

/// The number behind this one. 0 is a session's first alone.
fn next(sequence: u16) -> u16 {
    sequence.checked_add(1).unwrap_or(1)
}
