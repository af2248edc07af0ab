//! A file as shared bytes.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use crate::error::{ContainerError, Result};

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
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
    Ok(Bytes::from_owner(map))
}
