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

static KEPT: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

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

/// A kept piece that is large enough, cut to this length, and not much larger.
fn take(len: usize) -> Option<Vec<f32>> {
    if len < LEAST {
        return None;
    }
    let mut kept = KEPT.lock().ok()?;
    let fits = |piece: &Vec<f32>| (len..=2 * len).contains(&piece.capacity());
    let best = (0..kept.len())
        .filter(|i| fits(&kept[*i]))
        .min_by_key(|i| kept[*i].capacity())?;
    let mut piece = kept.swap_remove(best);
    drop(kept);
    piece.resize(len, 0.0);
    Some(piece)
}

impl Drop for Values {
    fn drop(&mut self) {
        let piece = std::mem::take(&mut self.0);
        if piece.capacity() < LEAST || piece.capacity() > MOST {
            return;
        }
        if let Ok(mut kept) = KEPT.lock() {
            let mut all: usize = kept.iter().map(Vec::capacity).sum();
            // The oldest go first.
            while !kept.is_empty() && (all + piece.capacity() > MOST || kept.len() >= PIECES) {
                all -= kept.remove(0).capacity();
            }
            kept.push(piece);
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
        assert!(kept.len() <= PIECES);
    }
}
