//! Writing: everything but the tensors' bytes is known before the first byte goes out, so a file
//! of any size is written in one pass.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::Value;
use super::layout::{Layout, Order};
use crate::TensorType;
use crate::atomic::AtomicFile;
use crate::error::{ContainerError, Result};

/// Writes a GGUF file: metadata and tensor descriptions first, then the tensors' bytes in the same
/// order. The file appears under its name only when it is whole.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: AtomicFile,
    order: Order,
}

impl Writer {
    /// Starts a file with this metadata and these tensors (name, type, sizes outermost first). Where
    /// the metadata has `general.alignment`, tensors are aligned to that.
    ///
    /// # Errors
    /// [`ContainerError::Io`], [`Refusal::Shape`](crate::Refusal::Shape) for a tensor that its type
    /// cannot hold, or [`Refusal::Alignment`](crate::Refusal::Alignment).
    pub fn create(
        path: &Path,
        metadata: &[(String, Value)],
        tensors: &[(String, TensorType, Vec<usize>)],
    ) -> Result<Self> {
        let layout = Layout::new(path, metadata, tensors)?;
        let mut writer = Writer {
            path: path.to_owned(),
            file: AtomicFile::create(path)?,
            order: Order::new(path, &layout, 0),
        };
        writer.put(layout.header())?;
        Ok(writer)
    }

    /// Writes the next tensor's bytes.
    ///
    /// # Errors
    /// [`ContainerError::Io`], or [`Refusal::OutOfBounds`](crate::Refusal::OutOfBounds) if these are
    /// not the bytes of the tensor that was announced next.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.order.is_whole(name, bytes.len())?;
        self.part(name, bytes)
    }

    /// Writes some of the next tensor's bytes, or of that which was begun.
    ///
    /// # Errors
    /// As [`Writer::tensor`]; here too if another tensor has been begun and is not complete.
    pub fn part(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let padding = self.order.take(name, bytes.len())?;
        self.put(bytes)?;
        self.put(&vec![0; padding.unwrap_or(0)])
    }

    /// Puts the whole file in its place.
    ///
    /// # Errors
    /// [`ContainerError::Io`], or [`Refusal::MissingTensor`](crate::Refusal::MissingTensor) if an
    /// announced tensor was not written.
    pub fn finish(self) -> Result<()> {
        self.order.is_finished()?;
        self.file.commit()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|source| ContainerError::Io {
                path: self.path.clone(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;

    #[test]
    fn a_tensor_written_in_parts_is_the_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let tensors: Vec<_> = ["a", "b"]
            .map(|name| (name.to_owned(), TensorType::F32, vec![3]))
            .into();
        let mut writer = Writer::create(&path, &[], &tensors).unwrap();
        writer.part("a", &[1; 5]).unwrap();
        assert!(writer.part("b", &[2; 12]).is_err(), "a is not complete");
        assert!(writer.part("a", &[1; 8]).is_err(), "a has no room");
        writer.part("a", &[1; 7]).unwrap();
        writer.tensor("b", &[2; 12]).unwrap();
        writer.finish().unwrap();
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.tensor("a").unwrap().bytes, vec![1; 12]);
        assert_eq!(file.tensor("b").unwrap().bytes, vec![2; 12]);

        let mut writer = Writer::create(&path, &[], &tensors).unwrap();
        writer.tensor("a", &[1; 12]).unwrap();
        writer.part("b", &[2; 11]).unwrap();
        assert!(writer.finish().is_err(), "b is not complete");
    }
}
