//! The few operations on files that an installation is made of, so that a test can have each of them fail.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Operations on files.
pub(crate) trait Files: Send + Sync {
    /// Makes a folder, if it is not there.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// The length of a file; none, if it is not there.
    fn length(&self, path: &Path) -> io::Result<Option<u64>>;
    /// Appends to a file, which is made if it is not there.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Has what was written to a file reach the disk.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, and has that reach the disk.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file's bytes to `sink`, piece by piece.
    fn read(&self, path: &Path, sink: &mut dyn FnMut(&[u8])) -> io::Result<()>;
    /// The names of the files in a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<std::ffi::OsString>>;
}

/// The machine's own.
#[derive(Debug)]
pub(crate) struct Disk;

impl Files for Disk {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)?;
        file.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        fs::File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn read(&self, path: &Path, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut file = fs::File::open(path)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            match io::Read::read(&mut file, &mut piece)? {
                0 => return Ok(()),
                n => sink(&piece[..n]),
            }
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        fs::read_dir(folder)?.map(|e| Ok(e?.file_name())).collect()
    }
}
