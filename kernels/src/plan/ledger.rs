//! What is held, what is computed, what is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::footprint::{Residency, Work};
use crate::scalar::{Kept, Piece};

/// What weights are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Answering questions about pictures.
    Seeing,
    /// Drawing.
    Drawing,
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    /// Bytes that are held by matrices, keys and values.
    held: u64,
    work: Work,
    kept: Kept<Room>,
    phase: Option<Phase>,
    weights: Vec<Entry>,
}

/// A weight.
#[derive(Debug)]
struct Entry {
    /// Bytes of its own.
    own: u64,
    /// Bytes of the mapped file that are read.
    mapped: u64,
    /// Bytes of the mapped file of which only those that are asked for are read.
    table: u64,
    seeing: bool,
    drawing: bool,
}

/// A piece of memory that nobody holds now, in values.
#[derive(Debug)]
struct Room(usize);

impl Piece for Room {
    fn room(&self) -> usize {
        self.0
    }
}

const VALUE: u64 = size_of::<f32>() as u64;

impl Books {
    fn note(&mut self) {
        let kept = self.kept.room() as u64 * VALUE;
        self.work.memory = self.work.memory.max(self.held + kept);
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.lock().phase = Some(phase);
    }

    pub(super) fn take(&self) -> Work {
        let mut books = self.lock();
        books.note();
        std::mem::take(&mut books.work)
    }

    /// A weight with bytes of its own, or in the mapped file, or a table there. Returns its number.
    pub(super) fn weight(&self, own: usize, mapped: usize, table: usize) -> usize {
        let mut books = self.lock();
        books.weights.push(Entry {
            own: own as u64,
            mapped: mapped as u64,
            table: table as u64,
            seeing: false,
            drawing: false,
        });
        books.weights.len() - 1
    }

    pub(super) fn read(&self, number: usize, bytes: usize) {
        let mut books = self.lock();
        books.work.read += bytes as u64;
        let phase = books.phase;
        if let Some(entry) = books.weights.get_mut(number) {
            entry.seeing |= phase == Some(Phase::Seeing);
            entry.drawing |= phase == Some(Phase::Drawing);
            let rows = (bytes as u64).min(entry.table);
            entry.table -= rows;
            entry.mapped += rows;
        }
    }

    /// Bytes that are read and are no weights.
    pub(super) fn stream(&self, bytes: usize) {
        self.lock().work.read += bytes as u64;
    }

    pub(super) fn compute(&self, operations: u64, integers: bool) {
        let work = &mut self.lock().work;
        if integers {
            work.integer += operations;
        } else {
            work.float += operations;
        }
    }

    /// Bytes of weights of their own, and in the mapped file.
    pub(super) fn weights(&self) -> (Residency, Residency) {
        let books = self.lock();
        let (mut own, mut mapped) = (Residency::default(), Residency::default());
        for entry in &books.weights {
            for (all, bytes) in [(&mut own, entry.own), (&mut mapped, entry.mapped)] {
                let class = match (entry.seeing, entry.drawing) {
                    (true, true) => &mut all.always,
                    (true, false) => &mut all.seeing,
                    (false, true) => &mut all.drawing,
                    (false, false) => &mut all.never,
                };
                *class += bytes;
            }
        }
        (own, mapped)
    }
}

/// Memory that is held.
#[derive(Debug)]
pub(super) struct Held {
    ledger: Arc<Ledger>,
    /// In values.
    room: usize,
    /// Whether it is kept for later when nobody holds it any more.
    kept: bool,
}

impl Held {
    /// Room for so many values, of what was kept if that fits.
    pub(super) fn new(ledger: &Arc<Ledger>, values: usize) -> Self {
        let mut books = ledger.lock();
        let room = books.kept.take(values).map_or(values, |room| room.0);
        drop(books);
        Self::of(ledger, room, true)
    }

    /// Room that is given back to the system.
    pub(super) fn plain(ledger: &Arc<Ledger>, values: usize) -> Self {
        Self::of(ledger, values, false)
    }

    fn of(ledger: &Arc<Ledger>, room: usize, kept: bool) -> Self {
        let mut books = ledger.lock();
        books.held += room as u64 * VALUE;
        books.note();
        drop(books);
        Held {
            ledger: Arc::clone(ledger),
            room,
            kept,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut books = self.ledger.lock();
        books.held -= self.room as u64 * VALUE;
        if self.kept {
            books.kept.put(Room(self.room));
        }
    }
}
