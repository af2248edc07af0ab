//! Room that is kept for the moment when a disk is full: removing from a database writes first.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Far more than a removal takes, in bytes.
const SIZE: usize = 1 << 20;

/// A file that only takes room.
#[derive(Debug)]
pub(crate) struct Ballast(PathBuf);

impl Ballast {
    /// The ballast of this file. It is made as soon as there is room.
    pub(crate) fn beside(path: &Path) -> Self {
        let ballast = Ballast(path.with_extension("ballast"));
        ballast.hold();
        ballast
    }

    /// Takes the room, if it is not taken and there is any.
    pub(crate) fn hold(&self) {
        if self.0.metadata().is_ok_and(|m| m.len() >= SIZE as u64) {
            return;
        }
        let made = File::create(&self.0).and_then(|mut file| file.write_all(&vec![1; SIZE]));
        if made.is_err() {
            // Half of it is of no use here, but may be to somebody else.
            self.release();
        }
    }

    /// Gives the room away; false if there is none.
    pub(crate) fn release(&self) -> bool {
        std::fs::remove_file(&self.0).is_ok()
    }
}
