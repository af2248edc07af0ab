//! Memory that was given back and is kept for later.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The most bytes that are kept.
const MOST_KEPT: usize = 512 << 20;
/// Pieces of memory are multiples of this.
pub(super) const PIECE: usize = 512;

/// What is in use and what is kept, by address.
#[derive(Default)]
pub(super) struct Pieces {
    /// Bytes of what is in use.
    sizes: HashMap<u64, usize>,
    /// What was given back, by size. Work is done in order, so whoever gets it again comes later. Of one size the lowest
    /// address goes first: what was given back in another order is given out in the same one, so that work that repeats
    /// finds the same addresses.
    kept: BTreeMap<usize, BTreeSet<u64>>,
    kept_bytes: usize,
}

impl Pieces {
    /// A kept piece that is large enough, and not much larger.
    pub(super) fn take(&mut self, size: usize) -> Option<u64> {
        let (found, addresses) = self.kept.range_mut(size..=size + size / 4).next()?;
        let (found, at) = (*found, addresses.pop_first()?);
        if addresses.is_empty() {
            self.kept.remove(&found);
        }
        self.kept_bytes -= found;
        self.sizes.insert(at, found);
        Some(at)
    }

    /// Counts a new piece.
    pub(super) fn add(&mut self, at: u64, size: usize) {
        self.sizes.insert(at, size);
    }

    /// Takes a piece back. True: it is not kept, and has to be given back to the driver.
    pub(super) fn put(&mut self, at: u64) -> bool {
        let Some(size) = self.sizes.remove(&at) else {
            return false;
        };
        if self.kept_bytes + size > MOST_KEPT {
            return true;
        }
        self.kept.entry(size).or_default().insert(at);
        self.kept_bytes += size;
        false
    }

    /// All that is kept, which is no more.
    pub(super) fn clear(&mut self) -> Vec<u64> {
        self.kept_bytes = 0;
        std::mem::take(&mut self.kept)
            .into_values()
            .flatten()
            .collect()
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_finds_the_same_addresses() {
        let mut pieces = Pieces::default();
        for at in 1..=3 {
            pieces.add(at * PIECE as u64, PIECE);
        }
        let mut seen = Vec::new();
        for order in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
            for at in order {
                assert!(!pieces.put(at * PIECE as u64));
            }
            let taken: Vec<Option<u64>> = (0..4).map(|_| pieces.take(PIECE)).collect();
            seen.push(taken);
        }
        assert_eq!(seen[0], [Some(512), Some(1024), Some(1536), None]);
        assert!(seen.iter().all(|s| *s == seen[0]));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut pieces = Pieces::default();
        pieces.add(1, MOST_KEPT);
        pieces.add(2, PIECE);
        assert!(!pieces.put(1));
        assert!(pieces.put(2));
        assert!(!pieces.put(2), "it is not there any more");
        assert_eq!(pieces.take(MOST_KEPT / 2), None, "much larger");
        assert_eq!(pieces.kept_bytes(), MOST_KEPT);
        assert_eq!(pieces.clear(), [1]);
        assert_eq!(pieces.kept_bytes(), 0);
    }
}
