//! The memory of matrices. Large ones are used again instead of being given back: the system would
//! have to clear each page anew, which costs as much as a good part of a product.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Fewer values than this come from the allocator.
const LEAST: usize = 1 << 14;
/// The most values that are kept for later, all together: 256 MB.
const MOST: usize = 64 << 20;
/// The most pieces that are kept.
const PIECES: usize = 32;

static KEPT: Mutex<Kept<Vec<f32>>> = Mutex::new(Kept(Vec::new()));

/// A piece of memory.
pub(crate) trait Piece {
    /// Values that it has room for.
    fn room(&self) -> usize;
}

impl Piece for Vec<f32> {
    fn room(&self) -> usize {
        self.capacity()
    }
}

/// Pieces of memory that are kept for later.
#[derive(Debug)]
pub(crate) struct Kept<P>(Vec<P>);

impl<P> Default for Kept<P> {
    fn default() -> Self {
        Kept(Vec::new())
    }
}

impl<P: Piece> Kept<P> {
    /// A kept piece that is large enough, and not much larger.
    pub(crate) fn take(&mut self, len: usize) -> Option<P> {
        if len < LEAST {
            return None;
        }
        let best = (0..self.0.len())
            .filter(|i| (len..=2 * len).contains(&self.0[*i].room()))
            .min_by_key(|i| self.0[*i].room())?;
        Some(self.0.swap_remove(best))
    }

    /// Keeps a piece, or gives it back if it is too small or too large. The oldest pieces go first.
    pub(crate) fn put(&mut self, piece: P) {
        if piece.room() < LEAST || piece.room() > MOST {
            return;
        }
        let mut all = self.room();
        while !self.0.is_empty() && (all + piece.room() > MOST || self.0.len() >= PIECES) {
            all -= self.0.remove(0).room();
        }
        self.0.push(piece);
    }

    /// Values that there is room for, all together.
    pub(crate) fn room(&self) -> usize {
        self.0.iter().map(P::room).sum()
    }
}

/// Values of a matrix.
#[derive(Debug)]
pub(crate) struct Values(Vec<f32>);

impl Values {
    pub(crate) fn zeros(len: usize) -> Self {
        match take(len) {
            Some(mut kept) => {
                kept.fill(0.0);
                Values(kept)
            }
            None => Values(vec![0.0; len]),
        }
    }

    /// Values of which nothing is known but that all of them will be written.
    pub(crate) fn any(len: usize) -> Self {
        Values(take(len).unwrap_or_else(|| vec![0.0; len]))
    }
}

/// A kept piece, cut to this length.
fn take(len: usize) -> Option<Vec<f32>> {
    let mut piece = KEPT.lock().ok()?.take(len)?;
    piece.resize(len, 0.0);
    Some(piece)
}

impl Drop for Values {
    fn drop(&mut self) {
        if let Ok(mut kept) = KEPT.lock() {
            kept.put(std::mem::take(&mut self.0));
        }
    }
}

impl Clone for Values {
    fn clone(&self) -> Self {
        let mut copy = Values::any(self.0.len());
        copy.copy_from_slice(&self.0);
        copy
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Values(values)
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl<'a> IntoIterator for &'a Values {
    type Item = &'a f32;
    type IntoIter = std::slice::Iter<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a mut Values {
    type Item = &'a mut f32;
    type IntoIter = std::slice::IterMut<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zeros_also_in_memory_that_was_used_before() {
        for len in [LEAST, LEAST + 5, 2 * LEAST] {
            let mut values = Values::any(len);
            assert_eq!(values.len(), len);
            values.fill(7.0);
            drop(values);
            assert!(Values::zeros(len).iter().all(|v| *v == 0.0));
        }
        let kept = KEPT.lock().unwrap();
        assert!(kept.0.len() <= PIECES);
    }
}
