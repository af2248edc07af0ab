//! New firmware over the link: it is written into the slot that does not run, checked, started on trial, and kept
//! when the board confirms it.

use embedded_storage::nor_flash::NorFlash;
use kinglet_link::{CHUNK, Update, UpdateFault, UpdateReply};

use crate::boot::{self, Boot, TRIES};
use crate::flash::{self, HEAD, Head, Layout, LayoutError, PAGE, Slot};

// Pieces fill pages.
const _: () = assert!(PAGE.is_multiple_of(CHUNK));

/// Takes new firmware.
pub trait Updater {
    /// Whether it takes any.
    const TAKES: bool;

    /// Does one step.
    fn take(&mut self, update: Update) -> UpdateReply;
}

/// Takes none.
#[derive(Debug, Clone, Copy)]
pub struct NoUpdates;

impl Updater for NoUpdates {
    const TAKES: bool = false;

    fn take(&mut self, _: Update) -> UpdateReply {
        UpdateReply::Refused(UpdateFault::Unsupported)
    }
}

/// An image that arrives.
#[derive(Debug)]
struct Arriving {
    head: Head,
    /// Bytes that have arrived.
    offset: u32,
    /// Those of them that fill no page yet.
    page: [u8; PAGE],
}

/// Two slots in a flash.
#[derive(Debug)]
pub struct Slots<F> {
    flash: F,
    layout: Layout,
    running: Boot,
    arriving: Option<Arriving>,
}

impl<F: NorFlash> Slots<F> {
    /// The slots of a flash, of which this one runs.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn new(flash: F, layout: Layout, running: Boot) -> Result<Self, LayoutError> {
        layout.check(&flash)?;
        Ok(Slots {
            flash,
            layout,
            running,
            arriving: None,
        })
    }

    /// The flash, when nothing more is to come.
    pub fn into_flash(self) -> F {
        self.flash
    }

    fn other(&self) -> Slot {
        self.running.slot.other()
    }

    fn begin(&mut self, head: Head) -> Result<UpdateReply, UpdateFault> {
        self.arriving = None;
        // The slot that would be written is what it would fall back to.
        if self.running.on_trial {
            return Err(UpdateFault::OnTrial);
        }
        let record = boot::decided(&mut self.flash, &self.layout).map_err(broken)?;
        let floor = record.map_or(0, |r| r.floor).max(self.running.version);
        if head.version <= floor {
            return Err(UpdateFault::NotNewer(floor));
        }
        let slot = self.layout.slot(self.other());
        let most = slot.end - slot.start - HEAD;
        if head.length == 0 || head.length > most {
            return Err(UpdateFault::Length(most));
        }
        // What is decided must not be a trial of what is erased now.
        if record.is_none_or(|r| r.slot != self.running.slot || r.tries.is_some()) {
            self.decide(self.running.slot, None, floor)?;
        }
        self.flash.erase(slot.start, slot.end).map_err(broken)?;
        self.arriving = Some(Arriving {
            head,
            offset: 0,
            page: [0xFF; PAGE],
        });
        Ok(UpdateReply::Stored { offset: 0 })
    }

    fn chunk(&mut self, offset: u32, bytes: &[u8]) -> Result<UpdateReply, UpdateFault> {
        let slot = self.layout.slot(self.other());
        let arriving = self.arriving.as_mut().ok_or(UpdateFault::NotBegun)?;
        let left = arriving.head.length - arriving.offset;
        let whole = bytes.len() == CHUNK || bytes.len() as u32 == left;
        if offset != arriving.offset || bytes.is_empty() || bytes.len() as u32 > left || !whole {
            return Err(UpdateFault::Offset(arriving.offset));
        }
        // Pieces are of one length, but for the last one, so none lies in two pages.
        let at = offset as usize % PAGE;
        arriving.page[at..at + bytes.len()].copy_from_slice(bytes);
        arriving.offset += bytes.len() as u32;
        let full = (arriving.offset as usize).is_multiple_of(PAGE);
        if full || arriving.offset == arriving.head.length {
            let start = slot.start + HEAD + offset / PAGE as u32 * PAGE as u32;
            let written = self.flash.write(start, &arriving.page);
            arriving.page = [0xFF; PAGE];
            if written.is_err() {
                self.arriving = None;
                return Err(UpdateFault::Flash);
            }
        }
        let offset = arriving.offset;
        Ok(UpdateReply::Stored { offset })
    }

    fn finish(&mut self) -> Result<UpdateReply, UpdateFault> {
        let Arriving { head, offset, .. } = self.arriving.take().ok_or(UpdateFault::NotBegun)?;
        let slot = self.layout.slot(self.other());
        let found = flash::hash(&mut self.flash, slot.start + HEAD, head.length);
        if offset != head.length || found.ok_or(UpdateFault::Flash)? != head.sha256 {
            return Err(UpdateFault::Hash);
        }
        self.flash.write(slot.start, &head.page()).map_err(broken)?;
        // As the boot loader will read it.
        if Head::of_whole(&mut self.flash, slot) != Some(head) {
            return Err(UpdateFault::Flash);
        }
        let record = boot::decided(&mut self.flash, &self.layout).map_err(broken)?;
        self.decide(self.other(), Some(TRIES), record.map_or(0, |r| r.floor))?;
        let version = head.version;
        Ok(UpdateReply::Starting { version })
    }

    fn confirm(&mut self) -> Result<UpdateReply, UpdateFault> {
        let Boot { slot, version, .. } = self.running;
        if self.running.on_trial {
            let record = boot::decided(&mut self.flash, &self.layout).map_err(broken)?;
            let floor = record.map_or(0, |r| r.floor).max(version);
            self.decide(slot, None, floor)?;
            self.running.on_trial = false;
        }
        Ok(UpdateReply::Confirmed { version })
    }

    fn decide(&mut self, slot: Slot, tries: Option<u8>, floor: u32) -> Result<(), UpdateFault> {
        boot::decide(&mut self.flash, &self.layout, slot, tries, floor).map_err(broken)
    }
}

impl<F: NorFlash> Updater for Slots<F> {
    const TAKES: bool = true;

    fn take(&mut self, update: Update) -> UpdateReply {
        let done = match update {
            Update::Begin {
                version,
                length,
                sha256,
            } => self.begin(Head {
                version,
                length,
                sha256,
            }),
            Update::Chunk { offset, bytes } => self.chunk(offset, &bytes),
            Update::Finish => self.finish(),
            Update::Confirm => self.confirm(),
        };
        done.unwrap_or_else(UpdateReply::Refused)
    }
}

fn broken<E>(_: E) -> UpdateFault {
    UpdateFault::Flash
}
