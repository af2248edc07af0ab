//! Write beside, then rename: a file is either the old one or the new one, never half of it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{ContainerError, Result};

/// A file being written beside its final name. Dropped before [`AtomicFile::commit`], it leaves
/// nothing.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    beside: PathBuf,
    file: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts writing what will become `path`.
    ///
    /// # Errors
    /// [`ContainerError::Io`] if the folder cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let beside = path.with_file_name(name);
        let file = File::create(&beside).map_err(|source| ContainerError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(AtomicFile {
            path: path.to_owned(),
            beside,
            file: Some(BufWriter::with_capacity(1 << 20, file)),
        })
    }

    /// Puts the finished file in its place, after its bytes are on disk.
    ///
    /// # Errors
    /// [`ContainerError::Io`]; the old file is then untouched.
    pub fn commit(mut self) -> Result<()> {
        self.finish().map_err(|source| ContainerError::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            drop(file);
            fs::rename(&self.beside, &self.path)?;
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a commit this name no longer exists; before one, half a file must not stay.
        let _ = fs::remove_file(&self.beside);
    }
}

/// Writes `bytes` to `path` as one step.
///
/// # Errors
/// [`ContainerError::Io`]; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|source| ContainerError::Io {
        path: path.to_owned(),
        source,
    })?;
    file.commit()
}
