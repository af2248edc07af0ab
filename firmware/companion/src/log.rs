//! What is remembered while the board sleeps.

use heapless::Deque;
use kinglet_link::{Entry, Millis, What};

/// How many entries are kept; older ones are overwritten.
pub const ENTRIES: usize = 64;

/// The last entries.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Deque<Entry, ENTRIES>,
    next: u32,
}

impl Log {
    /// Remembers this. Returns whether an older entry had to go for it.
    pub(crate) fn note(&mut self, at: Millis, what: What) -> bool {
        let full = self.entries.is_full();
        if full {
            self.entries.pop_front();
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        // There is room now.
        let _ = self.entries.push_back(Entry { number, at, what });
        full
    }

    /// The first entry that is there with this number or a later one.
    pub(crate) fn from(&self, number: u32) -> Option<Entry> {
        self.entries.iter().find(|e| e.number >= number).copied()
    }

    /// The number of the next entry.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }
}
