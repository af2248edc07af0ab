//! A file whose writing may be interrupted at any time and goes on where it was.
//!
//! Beside `X` two files grow: `X.partial`, which is the file itself from its first byte on, and
//! `X.partial.journal`, which says whose it is and which tensors are done. A tensor is entered in the
//! journal only after its bytes are on disk, with their checksum; what lies behind the last one that was
//! entered is written again. In the end the first is renamed to `X` and the second removed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::layout::{Layout, Order};
use crate::atomic;
use crate::error::{ContainerError, Refusal, Result};

/// What a journal begins with.
const MAGIC: &str = "kinglet partial 1";
/// At the latest after so many bytes, and a tensor's end, they are put on disk and entered.
const SYNCED: u64 = 8 << 20;

/// A file that is being written, under a lock: nobody else writes it.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    beside: PathBuf,
    journal: PathBuf,
    file: BufWriter<File>,
    entries: Option<File>,
    layout: Option<Layout>,
    order: Option<Order>,
    hash: Sha256,
    /// Lines of the journal whose tensors may not be on disk yet, and the bytes since they were.
    pending: (String, u64),
}

/// What an earlier run left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Tensors that are done, in order, each with the note that it was entered with.
    Done(Vec<String>),
    /// The same, but something behind them is damaged and is done again.
    Damaged(Vec<String>),
    /// Something of another run (another source, recipe or version), which was removed.
    Other,
}

impl Partial {
    /// Takes the place beside `path`, so that it fails now and not after hours if nothing can be
    /// written there.
    ///
    /// # Errors
    /// [`ContainerError::Io`]: if `path` is a folder, its folder cannot be written, another run is
    /// writing it, or what lies beside it is nothing that a run left.
    pub fn claim(path: &Path) -> Result<Self> {
        let with = |suffix: &str| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(suffix);
            path.with_file_name(name)
        };
        let (beside, journal) = (with(".partial"), with(".partial.journal"));
        let io = |source| ContainerError::Io {
            path: path.to_owned(),
            source,
        };
        if path.is_dir() || path.file_name().is_none() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&beside)
            .map_err(io)?;
        let refuse = |reason: &str| {
            Err(ContainerError::Io {
                path: beside.clone(),
                source: io::Error::other(reason.to_owned()),
            })
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return refuse("another run is writing it"),
            // Where there are no locks, two runs at once are the user's own affair.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let is_ours = match read_text(&journal).map_err(io)? {
            Some(text) => text.starts_with(MAGIC),
            None => file.metadata().map_err(io)?.len() == 0,
        };
        if !is_ours {
            return refuse("it was not left by an interrupted run; move it away");
        }
        Ok(Partial {
            path: path.to_owned(),
            beside,
            journal,
            file: BufWriter::with_capacity(1 << 20, file),
            entries: None,
            layout: None,
            order: None,
            hash: Sha256::new(),
            pending: (String::new(), 0),
        })
    }

    /// Begins a file of this layout, or goes on with it: if an earlier run left one with the same
    /// header and `identity`, its tensors are checked and kept. `identity` stands for everything that
    /// decides on the tensors' bytes and is not in the header.
    ///
    /// # Errors
    /// [`ContainerError::Io`], also if the disk has too little room.
    pub fn begin(&mut self, layout: Layout, identity: &[u8]) -> Result<Left> {
        let mut hash = Sha256::new();
        hash.update(layout.header());
        hash.update(identity);
        let head = format!("{MAGIC} {}\n", hex(&hash.finalize()));
        let begun = self.begun(layout, &head);
        begun.map_err(|source| self.io(source))
    }

    fn begun(&mut self, layout: Layout, head: &str) -> io::Result<Left> {
        let journal = read_text(&self.journal)?;
        let mut kept = head.to_owned();
        let left = match journal.as_deref().map(|text| text.strip_prefix(head)) {
            None => Left::Nothing,
            Some(None) => Left::Other,
            Some(Some(entries)) => self.checked(&layout, entries, &mut kept)?,
        };
        let done = match &left {
            Left::Done(notes) | Left::Damaged(notes) => notes.len(),
            Left::Nothing | Left::Other => 0,
        };
        let end = if done > 0 { layout.end_of(done) } else { 0 };
        self.has_room(layout.file_bytes())?;
        atomic::write(&self.journal, kept.as_bytes()).map_err(io::Error::other)?;
        let file = self.file.get_mut();
        file.set_len(end)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(layout.header())?;
        file.seek(SeekFrom::Start(layout.end_of(done)))?;
        self.entries = Some(OpenOptions::new().append(true).open(&self.journal)?);
        self.order = Some(Order::new(&self.path, &layout, done));
        self.layout = Some(layout);
        Ok(left)
    }

    /// Reads the tensors that the journal says are done, as far as they are what it says. `kept` gets
    /// their entries.
    fn checked(&mut self, layout: &Layout, entries: &str, kept: &mut String) -> io::Result<Left> {
        let mut notes = Vec::new();
        let file = self.file.get_mut();
        let len = file.metadata()?.len();
        let mut tensors = layout.tensors().iter().enumerate();
        for line in entries.split_inclusive('\n') {
            let (Some((i, (_, bytes))), Some(entry)) = (tensors.next(), Entry::parse(line)) else {
                return Ok(Left::Damaged(notes));
            };
            let (start, bytes) = (layout.end_of(i), *bytes as u64);
            if layout.end_of(i + 1) > len {
                return Ok(Left::Damaged(notes));
            }
            file.seek(SeekFrom::Start(start))?;
            let mut hash = Sha256::new();
            io::copy(&mut Read::by_ref(file).take(bytes), &mut hash)?;
            if hex(&hash.finalize()) != entry.checksum {
                return Ok(Left::Damaged(notes));
            }
            kept.push_str(line);
            notes.push(entry.note.to_owned());
        }
        Ok(Left::Done(notes))
    }

    /// Whether a file of this size has room on the disk, counting what is there of it.
    ///
    /// # Errors
    /// [`ContainerError::Io`] if not.
    pub fn fits(&self, bytes: u64) -> Result<()> {
        self.has_room(bytes).map_err(|source| self.io(source))
    }

    fn has_room(&self, bytes: u64) -> io::Result<()> {
        let needed = bytes.saturating_sub(self.held());
        match free(&self.beside) {
            Some(free) if free < needed => Err(full(needed, Some(free))),
            _ => Ok(()),
        }
    }

    /// Bytes on disk.
    fn held(&self) -> u64 {
        self.file.get_ref().metadata().map_or(0, |m| m.len())
    }

    /// Writes some of the next tensor's bytes, or of that which was begun. Returns whether it is
    /// complete; [`Partial::enter`] comes next then.
    ///
    /// # Errors
    /// [`ContainerError::Io`], or [`Refusal::OutOfBounds`] if these are not bytes of the tensor that
    /// comes next.
    pub fn part(&mut self, name: &str, bytes: &[u8]) -> Result<bool> {
        let Some(order) = &mut self.order else {
            return Err(self.io(io::ErrorKind::NotConnected.into()));
        };
        let padding = order.take(name, bytes.len())?;
        self.hash.update(bytes);
        let zeros = vec![0; padding.unwrap_or(0)];
        let written = self.file.write_all(bytes);
        let written = written.and_then(|()| self.file.write_all(&zeros));
        written.map_err(|source| self.io(source))?;
        self.pending.1 += bytes.len() as u64;
        Ok(padding.is_some())
    }

    /// Enters the tensor that was just completed, with a note of one line.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn enter(&mut self, note: &str) -> Result<()> {
        let checksum = hex(&std::mem::take(&mut self.hash).finalize());
        self.pending.0 += &Entry::line(&checksum, note);
        if self.pending.1 >= SYNCED {
            self.sync()?;
        }
        Ok(())
    }

    /// Puts all that was written on disk, and enters it.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn sync(&mut self) -> Result<()> {
        self.synced().map_err(|source| self.io(source))
    }

    fn synced(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        if let Some(entries) = &mut self.entries {
            entries.write_all(self.pending.0.as_bytes())?;
            entries.sync_data()?;
        }
        self.pending = (String::new(), 0);
        Ok(())
    }

    /// The name that the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file lies until it is finished.
    pub fn beside(&self) -> &Path {
        &self.beside
    }

    /// Puts the whole file in its place, with this text for a string value of the metadata; the rest
    /// of the room that the value has is filled with spaces.
    ///
    /// # Errors
    /// [`ContainerError::Io`], [`Refusal::MissingTensor`] if an announced tensor was not written,
    /// [`Refusal::TooMany`] if the text is longer than its room.
    pub fn finish(&mut self, key: &str, text: &str) -> Result<()> {
        if let Some(order) = &self.order {
            order.is_finished()?;
        }
        self.sync()?;
        let place = self.layout.as_ref().and_then(|layout| layout.string(key));
        let (at, room) = place.unwrap_or((0, 0));
        if text.len() > room {
            return Err(ContainerError::Refused {
                name: self.path.display().to_string(),
                refusal: Refusal::TooMany {
                    what: format!("the length of \"{key}\""),
                    got: text.len() as u64,
                    limit: room as u64,
                },
            });
        }
        let finish = |this: &mut Self| {
            let file = this.file.get_mut();
            file.seek(SeekFrom::Start(at as u64))?;
            file.write_all(format!("{text:room$}").as_bytes())?;
            file.sync_all()?;
            fs::rename(&this.beside, &this.path)?;
            fs::remove_file(&this.journal)?;
            // The new name is on disk only when the folder is.
            #[cfg(unix)]
            File::open(folder(&this.path))?.sync_all()?;
            Ok(())
        };
        finish(self).map_err(|source| self.io(source))
    }

    /// Removes what was written: nobody is to go on with it.
    pub fn discard(self) {
        // Nothing can be done if one of them stays.
        let _ = fs::remove_file(&self.beside);
        let _ = fs::remove_file(&self.journal);
    }

    /// Whether an interrupted run could go on from here.
    pub fn is_begun(&self) -> bool {
        self.order.is_some()
    }

    fn io(&self, source: io::Error) -> ContainerError {
        // What the system says; a refusal of our own says it all already.
        let is_full = source.raw_os_error().is_some()
            && matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
        let source = if is_full {
            let all = self.layout.as_ref().map_or(0, Layout::file_bytes);
            full(all.saturating_sub(self.held()), free(&self.beside))
        } else {
            source
        };
        ContainerError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // A place that was taken and never used.
        if self.order.is_none() && !self.journal.exists() {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// A line of the journal: the checksum of a tensor, a note, and a checksum of the line.
struct Entry<'a> {
    checksum: &'a str,
    note: &'a str,
}

impl<'a> Entry<'a> {
    fn line(checksum: &str, note: &str) -> String {
        let text = format!("{checksum} {note}");
        format!("{} {text}\n", &hex(&Sha256::digest(&text))[..16])
    }

    /// None if the line was cut short or changed.
    fn parse(line: &'a str) -> Option<Self> {
        let (_, text) = line.strip_suffix('\n')?.split_once(' ')?;
        let (checksum, note) = text.split_once(' ')?;
        (Self::line(checksum, note) == line).then_some(Entry { checksum, note })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// None if there is no such file. What is no text counts as an empty one.
fn read_text(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8(bytes).unwrap_or_default())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn full(needed: u64, free: Option<u64>) -> io::Error {
    let free = free.map_or_else(String::new, |free| format!(", {free} are free"));
    io::Error::new(
        io::ErrorKind::StorageFull,
        format!("the disk is too full: {needed} bytes are needed{free}"),
    )
}

/// Bytes that can still be written where a file lies; none if the system does not say.
pub fn free(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(folder(path)).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorType;
    use crate::gguf::{Gguf, Value};

    const KEY: &str = "report";

    fn layout(path: &Path, name: &str) -> Layout {
        let metadata = [
            ("name".to_owned(), Value::from(name)),
            (KEY.to_owned(), Value::from(" ".repeat(20))),
        ];
        let tensors: Vec<_> = ["a", "b", "c"]
            .map(|name| (name.to_owned(), TensorType::F32, vec![3]))
            .into();
        Layout::new(path, &metadata, &tensors).unwrap()
    }

    /// Begins, writes the tensors from where it is up to `until`, and says what was found.
    fn write(path: &Path, name: &str, until: usize) -> (Partial, Left) {
        let mut partial = Partial::claim(path).unwrap();
        let left = partial.begin(layout(path, name), b"identity").unwrap();
        let done = match &left {
            Left::Done(notes) | Left::Damaged(notes) => notes.len(),
            Left::Nothing | Left::Other => 0,
        };
        for i in done..until {
            let name = ["a", "b", "c"][i];
            assert!(!partial.part(name, &[i as u8; 5]).unwrap());
            assert!(partial.part(name, &[i as u8; 7]).unwrap());
            partial.enter(&format!("note {i}")).unwrap();
        }
        partial.sync().unwrap();
        (partial, left)
    }

    fn notes(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("note {i}")).collect()
    }

    #[test]
    fn what_was_interrupted_goes_on_and_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [path, straight] = ["x.gguf", "straight.gguf"].map(|n| folder.path().join(n));
        let (mut partial, left) = write(&straight, "m", 3);
        assert_eq!(left, Left::Nothing);
        partial.finish(KEY, "{\"a\": 1}").unwrap();

        drop(write(&path, "m", 1).0);
        assert!(!path.exists());
        let (mut partial, left) = write(&path, "m", 2);
        assert_eq!(left, Left::Done(notes(1)));
        // Bytes that were not entered do not count.
        partial.part("c", &[9; 4]).unwrap();
        drop(partial);
        let (mut partial, left) = write(&path, "m", 3);
        assert_eq!(left, Left::Done(notes(2)));
        partial.finish(KEY, "{\"a\": 1}").unwrap();
        assert_eq!(fs::read(&path).unwrap(), fs::read(&straight).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.tensor("c").unwrap().bytes, vec![2; 12]);
        let text = file.find(KEY).and_then(Value::as_str).unwrap();
        assert_eq!((text.trim_end(), text.len()), ("{\"a\": 1}", 20));
    }

    #[test]
    fn what_another_run_left_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        drop(write(&path, "m", 2).0);
        let (mut partial, left) = write(&path, "another", 3);
        assert_eq!(left, Left::Other);
        partial.finish(KEY, "").unwrap();
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.tensor("b").unwrap().bytes, vec![1; 12]);
    }

    #[test]
    fn damage_is_found_and_what_is_before_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let with = |suffix: &str| folder.path().join(format!("x.gguf.{suffix}"));
        let (file, journal) = (with("partial"), with("partial.journal"));
        let damage = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = fs::read(path).unwrap();
            change(&mut bytes);
            fs::write(path, bytes).unwrap();
        };
        let left = |change: &dyn Fn(&mut Vec<u8>), of: &Path| {
            let (partial, _) = write(&path, "m", 3);
            drop(partial);
            damage(of, change);
            let (partial, left) = write(&path, "m", 3);
            partial.discard();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
            left
        };
        let start = layout(&path, "m").end_of(1) as usize;
        assert_eq!(left(&|b| b[start + 3] ^= 1, &file), Left::Damaged(notes(1)));
        assert_eq!(left(&|b| b.truncate(start), &file), Left::Damaged(notes(1)));
        assert_eq!(left(&|b| b.clear(), &file), Left::Damaged(notes(0)));
        // The end of the journal was cut off, or a line was changed.
        assert_eq!(
            left(&|b| b.truncate(b.len() - 1), &journal),
            Left::Damaged(notes(2))
        );
        assert_eq!(
            left(&|b| *b.iter_mut().rev().nth(1).unwrap() = b'9', &journal),
            Left::Damaged(notes(2))
        );
    }

    #[test]
    fn files_that_no_run_left_and_those_of_a_run_that_works_are_let_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let beside = folder.path().join("x.gguf.partial");
        fs::write(&beside, "a download").unwrap();
        let refused = Partial::claim(&path).unwrap_err().to_string();
        assert!(refused.contains("x.gguf.partial"), "{refused}");
        assert_eq!(fs::read(&beside).unwrap(), b"a download");
        fs::remove_file(&beside).unwrap();

        let first = write(&path, "m", 1).0;
        let refused = Partial::claim(&path).unwrap_err().to_string();
        assert!(refused.contains("another run"), "{refused}");
        drop(first);
        Partial::claim(&path).unwrap().discard();

        drop(Partial::claim(&path).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Partial::claim(folder.path()).is_err());
    }

    #[test]
    fn a_disk_without_room_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        // More than any disk has.
        let tensors = [("a".to_owned(), TensorType::F32, vec![1 << 58])];
        let mut partial = Partial::claim(&path).unwrap();
        let layout = Layout::new(&path, &[], &tensors).unwrap();
        let refused = partial.begin(layout, b"").unwrap_err().to_string();
        assert!(refused.contains("1152921504606847"), "{refused}");
        assert!(refused.contains("are free"), "{refused}");
        drop(partial);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_report_longer_than_its_room_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let (mut partial, _) = write(&path, "m", 3);
        assert!(partial.finish(KEY, &"x".repeat(21)).is_err());
        assert!(!path.exists());
    }
}
