//! How two images and the record of which one runs lie in the flash.

use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;
use sha2::{Digest, Sha256};

/// What is written at once, in bytes: a page of common flash.
pub const PAGE: usize = 256;
/// What a slot begins with: a page with the image's version, length and SHA-256.
pub(crate) const HEAD: u32 = PAGE as u32;
/// An image's first word: "KING".
const MAGIC: [u8; 4] = *b"KING";

/// One of two places for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }
}

/// Where things lie, in bytes from the flash's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Two sectors of records, one erase unit each.
    pub records: [Range<u32>; 2],
    /// Two slots of whole erase units.
    pub slots: [Range<u32>; 2],
}

/// What is wrong with a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutError {
    /// Something does not begin or end where erase units do, is empty, or lies outside the flash.
    Bounds,
    /// Two of them overlap.
    Overlap,
    /// The flash is written in units that do not divide a page.
    Unit,
}

impl Layout {
    /// Whether it fits this flash.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn check<F: NorFlash>(&self, flash: &F) -> Result<(), LayoutError> {
        if F::WRITE_SIZE == 0
            || !PAGE.is_multiple_of(F::WRITE_SIZE)
            || !F::ERASE_SIZE.is_multiple_of(PAGE)
        {
            return Err(LayoutError::Unit);
        }
        let all = [
            &self.records[0],
            &self.records[1],
            &self.slots[0],
            &self.slots[1],
        ];
        let unit = F::ERASE_SIZE as u32;
        for range in all {
            let aligned = range.start.is_multiple_of(unit) && range.end.is_multiple_of(unit);
            if !aligned || range.is_empty() || range.end as usize > flash.capacity() {
                return Err(LayoutError::Bounds);
            }
        }
        if self.records.iter().any(|r| r.len() != F::ERASE_SIZE) {
            return Err(LayoutError::Bounds);
        }
        for (i, a) in all.iter().enumerate() {
            if all[..i].iter().any(|b| a.start < b.end && b.start < a.end) {
                return Err(LayoutError::Overlap);
            }
        }
        Ok(())
    }

    /// Where this slot is.
    pub(crate) fn slot(&self, slot: Slot) -> Range<u32> {
        let [a, b] = &self.slots;
        match slot {
            Slot::A => a.clone(),
            Slot::B => b.clone(),
        }
    }
}

/// What an image says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: u32,
    pub(crate) length: u32,
    pub(crate) sha256: [u8; 32],
}

impl Head {
    pub(crate) fn page(&self) -> [u8; PAGE] {
        let mut page = [0xFF; PAGE];
        page[..4].copy_from_slice(&MAGIC);
        page[4..8].copy_from_slice(&self.version.to_le_bytes());
        page[8..12].copy_from_slice(&self.length.to_le_bytes());
        page[12..44].copy_from_slice(&self.sha256);
        page
    }

    /// Of the image in this slot, if it is whole.
    pub(crate) fn of_whole<F: NorFlash>(flash: &mut F, slot: Range<u32>) -> Option<Self> {
        let mut page = [0; PAGE];
        flash.read(slot.start, &mut page).ok()?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&page[12..44]);
        let head = Head {
            version: word(&page[4..8]),
            length: word(&page[8..12]),
            sha256,
        };
        let fits = slot.len() as u64 >= u64::from(HEAD) + u64::from(head.length);
        if page[..4] != MAGIC || head.length == 0 || !fits {
            return None;
        }
        let found = hash(flash, slot.start + HEAD, head.length)?;
        (found == sha256).then_some(head)
    }
}

/// SHA-256 of this part of the flash.
pub(crate) fn hash<F: NorFlash>(flash: &mut F, start: u32, length: u32) -> Option<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut page = [0; PAGE];
    let mut at = 0;
    while at < length {
        // Reading in whole pages suits every flash; what is behind the image is left out.
        flash.read(start + at, &mut page).ok()?;
        let here = (length - at).min(PAGE as u32);
        hasher.update(&page[..here as usize]);
        at += here;
    }
    Some(hasher.finalize().into())
}

/// Four bytes, little endian.
pub(crate) fn word(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, &b| word << 8 | u32::from(b))
}
