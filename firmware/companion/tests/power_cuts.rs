//! Power is cut at every operation of an update: some image is always there to start.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// An error is the flash as it was left.
#![allow(clippy::result_large_err)]

use std::ops::Range;

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use kinglet_companion::{Boot, Layout, NoImage, Slot, Slots, Updater, boot};
use kinglet_link::{CHUNK, Update, UpdateFault, UpdateReply};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

const SECTOR: u32 = 1024;

/// A flash as NOR cells are: erasing makes ones, writing makes zeros. Its power goes at a chosen operation, which
/// is then done in part: of a write some bytes and some bits of the next one, of an erasure some cells.
#[derive(Clone)]
struct Flash {
    cells: Vec<u8>,
    operations: usize,
    cut: Option<usize>,
    off: bool,
    random: ChaCha8Rng,
}

#[derive(Debug)]
struct NoPower;

impl NorFlashError for NoPower {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl Flash {
    fn new() -> Self {
        Flash {
            cells: vec![0xFF; 18 * SECTOR as usize],
            operations: 0,
            cut: None,
            off: false,
            random: ChaCha8Rng::seed_from_u64(0),
        }
    }

    /// Whether this operation is the one.
    fn is_cut(&mut self) -> bool {
        self.operations += 1;
        self.off = self.cut == Some(self.operations - 1);
        self.off
    }
}

impl ErrorType for Flash {
    type Error = NoPower;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NoPower> {
        if self.off {
            return Err(NoPower);
        }
        bytes.copy_from_slice(&self.cells[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.cells.len()
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 256;
    const ERASE_SIZE: usize = SECTOR as usize;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NoPower> {
        for sector in (from..to).step_by(SECTOR as usize) {
            if self.off {
                return Err(NoPower);
            }
            let cut = self.is_cut();
            let share = self.random.random::<f64>();
            for cell in &mut self.cells[sector as usize..][..SECTOR as usize] {
                if !cut || self.random.random_bool(share) {
                    *cell = 0xFF;
                }
            }
        }
        if self.off { Err(NoPower) } else { Ok(()) }
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NoPower> {
        if self.off {
            return Err(NoPower);
        }
        assert!(offset.is_multiple_of(256) && bytes.len().is_multiple_of(256));
        let cut = self.is_cut();
        let end = if cut {
            self.random.random_range(0..bytes.len())
        } else {
            bytes.len()
        };
        let cells = &mut self.cells[offset as usize..][..bytes.len()];
        for (cell, byte) in cells.iter_mut().zip(bytes).take(end) {
            if !cut {
                assert_eq!(*cell & byte, *byte, "a cell is written twice");
            }
            *cell &= byte;
        }
        if cut {
            cells[end] &= bytes[end] | self.random.random::<u8>();
            return Err(NoPower);
        }
        Ok(())
    }
}

fn layout() -> Layout {
    let sectors = |range: Range<u32>| range.start * SECTOR..range.end * SECTOR;
    Layout {
        records: [sectors(0..1), sectors(1..2)],
        slots: [sectors(2..10), sectors(10..18)],
    }
}

fn image(version: u32) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(version.into());
    (0..3000 + version * 7).map(|_| random.random()).collect()
}

/// The messages that bring an image.
fn messages(version: u32) -> Vec<Update> {
    let image = image(version);
    let mut messages = vec![Update::Begin {
        version,
        length: image.len() as u32,
        sha256: Sha256::digest(&image).into(),
    }];
    for (i, bytes) in image.chunks(CHUNK).enumerate() {
        messages.push(Update::Chunk {
            offset: (i * CHUNK) as u32,
            bytes: bytes.iter().copied().collect(),
        });
    }
    messages.push(Update::Finish);
    messages
}

/// Brings an image as far as it goes.
fn bring(slots: &mut Slots<Flash>, version: u32) -> UpdateReply {
    let mut last = UpdateReply::Refused(UpdateFault::NotBegun);
    for message in messages(version) {
        last = slots.take(message);
        if matches!(last, UpdateReply::Refused(_)) {
            break;
        }
    }
    last
}

/// Gives power, lets the boot loader choose, and looks that what it chose is whole.
fn start(flash: &mut Flash) -> Result<Boot, NoImage> {
    let chosen = boot(flash, &layout())?;
    let slot = &layout().slots[usize::from(chosen.slot == Slot::B)];
    let image = image(chosen.version);
    let found = &flash.cells[slot.start as usize + 256..][..image.len()];
    assert!(found == image, "what is started is not whole");
    Ok(chosen)
}

/// A device that has been in use: versions up to this one, each confirmed.
fn used(newest: u32) -> Flash {
    let none = Boot {
        slot: Slot::A,
        version: 0,
        on_trial: false,
    };
    let mut flash = Flash::new();
    assert_eq!(start(&mut flash), Err(NoImage));
    let mut running = none;
    for version in 1..=newest {
        let mut slots = Slots::new(flash.clone(), layout(), running).unwrap();
        assert_eq!(
            bring(&mut slots, version),
            UpdateReply::Starting { version }
        );
        flash = slots.into_flash();
        running = start(&mut flash).unwrap();
        assert_eq!((running.version, running.on_trial), (version, true));
        let mut slots = Slots::new(flash.clone(), layout(), running).unwrap();
        assert_eq!(
            slots.take(Update::Confirm),
            UpdateReply::Confirmed { version }
        );
        flash = slots.into_flash();
        running.on_trial = false;
    }
    flash
}

/// Starts, confirms this version if it is the one that runs, else brings it; until it is confirmed. Power goes
/// where the flash says so: then the flash is an error.
fn live(mut flash: Flash, to: u32) -> Result<Flash, Flash> {
    for _ in 0..10 {
        let Ok(running) = start(&mut flash) else {
            assert!(flash.off, "there is no image");
            return Err(flash);
        };
        assert!((to - 1..=to).contains(&running.version));
        if flash.off {
            return Err(flash);
        }
        let mut slots = Slots::new(flash, layout(), running).unwrap();
        let done = if running.version == to {
            slots.take(Update::Confirm)
        } else {
            bring(&mut slots, to)
        };
        flash = slots.into_flash();
        if flash.off {
            return Err(flash);
        }
        if done == (UpdateReply::Confirmed { version: to }) {
            return Ok(flash);
        }
        assert_eq!(done, UpdateReply::Starting { version: to });
    }
    panic!("the update never ends");
}

#[test]
fn every_cut_leaves_an_image_that_works() {
    let (mut cuts, mut twice, mut all) = (0, 0, 0);
    // An update leaves three records behind, and a sector takes four: so its sectors are changed at another one
    // of its steps every time.
    for newest in 4..8 {
        let (used, to) = (used(newest), newest + 1);
        let fresh = |cut, seed| Flash {
            operations: 0,
            cut,
            random: ChaCha8Rng::seed_from_u64(seed),
            ..used.clone()
        };
        let whole = live(fresh(None, 0), to).unwrap_or_else(|_| panic!("no power was cut"));
        let operations = whole.operations;
        all += operations;
        for cut in 0..operations {
            // What a cut leaves of an operation is another thing every time.
            for seed in 0..20 {
                let Err(dark) = live(fresh(Some(cut), seed), to) else {
                    panic!("operation {cut} was never reached");
                };
                cuts += 1;
                // And once more while it recovers, sooner or later, and then never again.
                let again = Flash {
                    operations: 0,
                    cut: Some(seed as usize * operations / 20),
                    off: false,
                    ..dark
                };
                let mut flash = live(again, to).unwrap_or_else(|dark| {
                    twice += 1;
                    let light = Flash {
                        cut: None,
                        off: false,
                        ..dark
                    };
                    live(light, to).unwrap_or_else(|_| panic!("no power was cut"))
                });
                let running = start(&mut flash).unwrap();
                assert_eq!(
                    (running.version, running.on_trial),
                    (to, false),
                    "cut {cut}"
                );
            }
        }
    }
    println!(
        "power cut at each of {all} operations of 4 updates, 20 times each: {cuts} cuts, {twice} of them with a \
         second cut while recovering; a whole image was started every time"
    );
}

#[test]
fn firmware_that_is_never_confirmed_is_left() {
    let mut flash = used(4);
    let running = start(&mut flash).unwrap();
    let mut slots = Slots::new(flash, layout(), running).unwrap();
    assert_eq!(bring(&mut slots, 9), UpdateReply::Starting { version: 9 });
    let mut flash = slots.into_flash();
    let versions: Vec<_> = (0..5).map(|_| start(&mut flash).unwrap().version).collect();
    assert_eq!(versions, [9, 9, 9, 4, 4]);
    // It may come again, and be better then.
    let running = start(&mut flash).unwrap();
    assert!(!running.on_trial);
    let mut slots = Slots::new(flash, layout(), running).unwrap();
    assert_eq!(bring(&mut slots, 9), UpdateReply::Starting { version: 9 });
}

#[test]
fn versions_never_go_down_and_bad_images_never_run() {
    let mut flash = used(4);
    let running = start(&mut flash).unwrap();
    let mut slots = Slots::new(flash, layout(), running).unwrap();
    let refused = UpdateReply::Refused;
    for old in [0, 3, 4] {
        assert_eq!(bring(&mut slots, old), refused(UpdateFault::NotNewer(4)));
    }
    assert_eq!(slots.take(Update::Finish), refused(UpdateFault::NotBegun));
    let begin = |length, sha256| Update::Begin {
        version: 5,
        length,
        sha256,
    };
    let most = 8 * SECTOR - 256;
    for length in [0, most + 1, u32::MAX] {
        let length = slots.take(begin(length, [0; 32]));
        assert_eq!(length, refused(UpdateFault::Length(most)));
    }
    // Another hash; too little; pieces out of order, too short, too long.
    let chunk = |offset, length| Update::Chunk {
        offset,
        bytes: (0..length).collect(),
    };
    slots.take(begin(100, [0; 32]));
    assert_eq!(slots.take(chunk(64, 36)), refused(UpdateFault::Offset(0)));
    assert_eq!(slots.take(chunk(0, 30)), refused(UpdateFault::Offset(0)));
    assert_eq!(slots.take(chunk(0, 64)), UpdateReply::Stored { offset: 64 });
    assert_eq!(slots.take(chunk(0, 64)), refused(UpdateFault::Offset(64)));
    assert_eq!(slots.take(chunk(64, 64)), refused(UpdateFault::Offset(64)));
    assert_eq!(
        slots.take(chunk(64, 36)),
        UpdateReply::Stored { offset: 100 }
    );
    assert_eq!(slots.take(Update::Finish), refused(UpdateFault::Hash));
    slots.take(begin(100, [0; 32]));
    assert_eq!(slots.take(Update::Finish), refused(UpdateFault::Hash));
    let mut flash = slots.into_flash();
    assert_eq!(start(&mut flash).unwrap().version, 4);
    // One on trial takes no other one: it would overwrite what it may have to go back to.
    let mut slots = Slots::new(flash, layout(), start(&mut used(4)).unwrap()).unwrap();
    assert_eq!(bring(&mut slots, 5), UpdateReply::Starting { version: 5 });
    let mut flash = slots.into_flash();
    let running = start(&mut flash).unwrap();
    let mut slots = Slots::new(flash, layout(), running).unwrap();
    assert_eq!(bring(&mut slots, 6), refused(UpdateFault::OnTrial));
}

#[test]
fn records_fill_their_sectors_and_go_on() {
    let mut flash = used(4);
    for version in 5..40 {
        let running = start(&mut flash).unwrap();
        let mut slots = Slots::new(flash, layout(), running).unwrap();
        assert_eq!(
            bring(&mut slots, version),
            UpdateReply::Starting { version }
        );
        flash = slots.into_flash();
        let running = start(&mut flash).unwrap();
        let mut slots = Slots::new(flash, layout(), running).unwrap();
        slots.take(Update::Confirm);
        flash = slots.into_flash();
        assert_eq!(start(&mut flash).unwrap().version, version);
    }
}

#[test]
fn a_layout_that_does_not_fit_is_refused() {
    let running = start(&mut used(4)).unwrap();
    let refused = |change: &dyn Fn(&mut Layout)| {
        let mut layout = layout();
        change(&mut layout);
        Slots::new(Flash::new(), layout, running).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|l| l.slots[1].end += SECTOR));
    assert!(refused(&|l| l.slots[0].start += 256));
    assert!(refused(&|l| l.slots[1] = l.slots[0].clone()));
    assert!(refused(&|l| l.records[1] = l.records[0].clone()));
    assert!(refused(&|l| l.records[0].end = l.records[0].start));
}
