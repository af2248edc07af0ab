//! A file as shared bytes.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{ContainerError, Result};

/// The maps that are in use, for [`give_back`].
static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

/// Keeps a map alive for the bytes that are slices of it.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps a file into memory. Slices of the result keep the map alive.
///
/// # Errors
/// [`ContainerError::Io`] if the file cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Bytes> {
    let io = |source| ContainerError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(io(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    // An empty file cannot be mapped on every system.
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only and private. Rust demands that mapped bytes do not change while
    // they are borrowed; a model file that is overwritten in place while it is in use breaks that,
    // as it breaks every program that maps files. Kinglet itself never writes in place: every
    // writer goes through `atomic`, which renames a finished file over the old name and leaves the
    // old file's pages intact.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    let map = Arc::new(map);
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|map| map.strong_count() > 0);
    maps.push(Arc::downgrade(&map));
    Ok(Bytes::from_owner(Owner(map)))
}

/// Tells the system that mapped bytes will not be needed soon, so that their pages stop counting as
/// this process's memory. They stay readable: the pages come back from the file. Bytes that lie in no
/// map are left alone.
pub fn give_back(bytes: &[u8]) {
    let begin = bytes.as_ptr().addr();
    let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    for map in maps.iter().filter_map(Weak::upgrade) {
        let start = map.as_ptr().addr();
        if begin >= start && begin + bytes.len() <= start + map.len() {
            advise(&map, begin - start, bytes.len());
            return;
        }
    }
}

#[cfg(unix)]
fn advise(map: &Mmap, from: usize, len: usize) {
    // SAFETY: the pages of a private map of a file that was never written to hold what the file
    // holds; dropping them loses nothing.
    #[allow(unsafe_code)]
    // It is advice: where it is not taken, pages stay until the system needs them.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, len) };
}

#[cfg(not(unix))]
fn advise(_: &Mmap, _: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_were_given_back_are_still_there() {
        let path = std::env::temp_dir().join(format!("kinglet-map-{}", std::process::id()));
        let written: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &written).unwrap();
        let bytes = map(&path).unwrap();
        assert_eq!(bytes, written);
        give_back(&bytes.slice(5_000..90_000));
        give_back(&written);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bytes, written);
    }
}
