//! Which image runs: a short history of records in two sectors, of which the newest valid one counts.

use crc::{CRC_32_ISCSI, Crc};
use embedded_storage::nor_flash::NorFlash;

use crate::flash::{Head, Layout, PAGE, Slot, word};

/// How often new firmware may be started before it must have been confirmed.
pub(crate) const TRIES: u8 = 3;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
const MAGIC: [u8; 4] = *b"KREC";
/// Magic, number, slot, tries, two bytes of nothing, floor.
const CHECKED: usize = 16;

/// What was decided last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Grows with every one.
    number: u32,
    /// What runs.
    pub(crate) slot: Slot,
    /// How many starts are left, while it is on trial.
    pub(crate) tries: Option<u8>,
    /// The largest version that was ever confirmed.
    pub(crate) floor: u32,
}

impl Record {
    fn page(&self) -> [u8; PAGE] {
        let mut page = [0xFF; PAGE];
        page[..4].copy_from_slice(&MAGIC);
        page[4..8].copy_from_slice(&self.number.to_le_bytes());
        page[8] = u8::from(self.slot == Slot::B);
        page[9] = self.tries.unwrap_or(0xFF);
        page[12..CHECKED].copy_from_slice(&self.floor.to_le_bytes());
        let check = CRC.checksum(&page[..CHECKED]).to_le_bytes();
        page[CHECKED..CHECKED + 4].copy_from_slice(&check);
        page
    }

    fn read(page: &[u8; PAGE]) -> Option<Self> {
        let check = word(&page[CHECKED..CHECKED + 4]);
        if page[..4] != MAGIC || CRC.checksum(&page[..CHECKED]) != check {
            return None;
        }
        Some(Record {
            number: word(&page[4..8]),
            slot: [Slot::A, Slot::B][usize::from(page[8] != 0)],
            tries: Some(page[9]).filter(|&t| t != 0xFF),
            floor: word(&page[12..CHECKED]),
        })
    }
}

/// The newest record and where it is.
fn newest<F: NorFlash>(
    flash: &mut F,
    layout: &Layout,
) -> Result<Option<(Record, usize)>, F::Error> {
    let mut found: Option<(Record, usize)> = None;
    let mut page = [0; PAGE];
    for (i, sector) in layout.records.iter().enumerate() {
        for at in sector.clone().step_by(PAGE) {
            flash.read(at, &mut page)?;
            if let Some(record) = Record::read(&page)
                && found.is_none_or(|(f, _)| record.number > f.number)
            {
                found = Some((record, i));
            }
        }
    }
    Ok(found)
}

/// What was decided last, if anything was.
pub(crate) fn decided<F: NorFlash>(
    flash: &mut F,
    layout: &Layout,
) -> Result<Option<Record>, F::Error> {
    Ok(newest(flash, layout)?.map(|(record, _)| record))
}

/// Decides. The last decision holds until the new one is written whole.
pub(crate) fn decide<F: NorFlash>(
    flash: &mut F,
    layout: &Layout,
    slot: Slot,
    tries: Option<u8>,
    floor: u32,
) -> Result<(), F::Error> {
    let last = newest(flash, layout)?;
    let record = Record {
        number: last.map_or(0, |(last, _)| last.number.saturating_add(1)),
        slot,
        tries,
        floor,
    };
    let here = last.map_or(0, |(_, sector)| sector);
    let mut page = [0; PAGE];
    for at in layout.records[here].clone().step_by(PAGE) {
        flash.read(at, &mut page)?;
        if page == [0xFF; PAGE] {
            return flash.write(at, &record.page());
        }
    }
    // This sector is full, and stays as it is until the other one has the new record.
    let there = &layout.records[1 - here];
    flash.erase(there.start, there.end)?;
    flash.write(there.start, &record.page())
}

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// The image.
    pub slot: Slot,
    /// Its version.
    pub version: u32,
    /// Whether it must still be confirmed.
    pub on_trial: bool,
}

/// There is no whole image in either slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoImage;

/// Chooses what is started, after every reset. An image on trial has some starts to be confirmed in; then, or if
/// it is not whole, the other one runs.
///
/// # Errors
/// [`NoImage`].
pub fn boot<F: NorFlash>(flash: &mut F, layout: &Layout) -> Result<Boot, NoImage> {
    let start = |flash: &mut F, slot: Slot, on_trial: bool| {
        let head = Head::of_whole(flash, layout.slot(slot))?;
        Some(Boot {
            slot,
            version: head.version,
            on_trial,
        })
    };
    let record = decided(flash, layout).ok().flatten();
    let (slot, floor) = record.map_or((Slot::A, 0), |r| (r.slot, r.floor));
    if let Some(Record {
        tries: Some(tries), ..
    }) = record
    {
        let left = tries.checked_sub(1);
        // What cannot be written down is not tried: it would be tried for ever.
        let noted = left.is_some_and(|left| decide(flash, layout, slot, Some(left), floor).is_ok());
        if noted && let Some(boot) = start(flash, slot, true) {
            return Ok(boot);
        }
        if let Some(boot) = start(flash, slot.other(), false) {
            // If this cannot be written, the next start comes to the same.
            let _ = decide(flash, layout, slot.other(), None, floor);
            return Ok(boot);
        }
    }
    start(flash, slot, false)
        .or_else(|| start(flash, slot.other(), false))
        .ok_or(NoImage)
}
