//! A model's files are fetched into a slot: what is there already is not fetched again.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest::{File, Manifest};
use super::record::{Record, Slot};
use super::{Failure, FetchError, Updater};

/// How often the progress is told: so many times a file.
const TOLD: u64 = 10;

/// Fills a slot with what a manifest says. Afterwards the record says so, on disk.
pub(super) fn install(
    updater: &Updater,
    record: &mut Record,
    slot: Slot,
    manifest: &Manifest,
    base: &str,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Failure> {
    if record.slots.get(&slot) == Some(manifest) {
        return Ok(());
    }
    let later = |e: &dyn std::fmt::Display| Failure::Later(e.to_string());
    // Before its files change, a slot holds nothing.
    if record.slots.remove(&slot).is_some() {
        updater.ledger.store(record).map_err(|e| later(&e))?;
    }
    let folder = updater.slots.join(slot.name());
    let files = updater.files.as_ref();
    files.make_folder(&folder).map_err(|e| later(&e))?;
    // A new folder is an entry in the one above it, which must reach the disk, too: up to the state directory.
    for above in folder.ancestors().skip(1).take(2) {
        files.sync(above).map_err(|e| later(&e))?;
    }
    clear(updater, &folder, manifest).map_err(|e| later(&e))?;
    let all = manifest.bytes();
    let mut before = 0;
    for file in &manifest.files {
        let whole = folder.join(&file.path);
        let there = files.length(&whole).map_err(|e| later(&e))? == Some(file.length);
        if !(there && hash(updater, &whole)? == file.sha256) {
            files.remove(&whole).map_err(|e| later(&e))?;
            let part = partial(&folder, file);
            let told = &mut |bytes| progress(before + bytes, all);
            let resumed = fetch(updater, base, file, &part, told)?;
            files.sync(&part).map_err(|e| later(&e))?;
            let found = hash(updater, &part)?;
            if found != file.sha256 {
                files.remove(&part).map_err(|e| later(&e))?;
                let name = &file.path;
                let reason = format!("{name}: its SHA-256 is {found}, not {}", file.sha256);
                // What an interruption left may be damaged: that says nothing about the source.
                return Err(if resumed {
                    Failure::Later(reason)
                } else {
                    Failure::Refused(reason)
                });
            }
            files.rename(&part, &whole).map_err(|e| later(&e))?;
        }
        before += file.length;
    }
    record.slots.insert(slot, manifest.clone());
    updater.ledger.store(record).map_err(|e| later(&e))
}

/// Whether a slot still holds what its manifest says.
pub(super) fn verify(updater: &Updater, slot: Slot, manifest: &Manifest) -> Result<(), Failure> {
    let folder = updater.slots.join(slot.name());
    for file in &manifest.files {
        let found = hash(updater, &folder.join(&file.path))?;
        if found != file.sha256 {
            let name = &file.path;
            let reason = format!("{name}: its SHA-256 is {found}, not {}", file.sha256);
            return Err(Failure::Refused(reason));
        }
    }
    Ok(())
}

/// Where a file is while it is not whole. Another content is another file.
fn partial(folder: &Path, file: &File) -> PathBuf {
    let start = file.sha256.get(..16).unwrap_or_default();
    folder.join(format!("{}.{start}.partial", file.path))
}

/// Removes what does not belong to the manifest.
fn clear(updater: &Updater, folder: &Path, manifest: &Manifest) -> std::io::Result<()> {
    for name in updater.files.list(folder)? {
        let path = folder.join(name);
        let belongs =
            |file: &File| path == folder.join(&file.path) || path == partial(folder, file);
        if !manifest.files.iter().any(belongs) {
            updater.files.remove(&path)?;
        }
    }
    Ok(())
}

/// Fetches what is missing of a file. Returns whether some of it was there already.
fn fetch(
    updater: &Updater,
    base: &str,
    file: &File,
    part: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<bool, Failure> {
    let files = updater.files.as_ref();
    let later = |e: std::io::Error| Failure::Later(e.to_string());
    let mut there = files.length(part).map_err(later)?.unwrap_or(0);
    if there > file.length {
        files.remove(part).map_err(later)?;
        there = 0;
    }
    let resumed = there > 0;
    if resumed && there == file.length {
        return Ok(true);
    }
    // An empty file is a file, too.
    files.append(part, &[]).map_err(later)?;
    let step = (file.length / TOLD).max(1);
    let (from, mut told) = (there, there / step);
    progress(there);
    let mut sink = |bytes: &[u8]| {
        if there + bytes.len() as u64 > file.length {
            let reason = format!("{} has more than {} bytes", file.path, file.length);
            return Err(FetchError::Wrong(reason));
        }
        let kept = files.append(part, bytes);
        kept.map_err(|e| FetchError::Later(e.to_string()))?;
        there += bytes.len() as u64;
        if there / step > told {
            told = there / step;
            progress(there);
        }
        Ok(())
    };
    let fetched = updater.fetch.fetch(base, &file.path, from, &mut sink);
    let fetched = fetched.and_then(|()| match there == file.length {
        true => Ok(()),
        false => Err(FetchError::Later(format!(
            "{} ended after {there} of {} bytes",
            file.path, file.length
        ))),
    });
    match fetched {
        Ok(()) => Ok(resumed),
        Err(FetchError::Later(reason)) => Err(Failure::Later(reason)),
        Err(FetchError::Wrong(reason)) => {
            let _ = files.remove(part);
            Err(Failure::Refused(reason))
        }
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
fn hash(updater: &Updater, path: &Path) -> Result<String, Failure> {
    let mut hash = Sha256::new();
    let read = updater.files.read(path, &mut |bytes| hash.update(bytes));
    read.map_err(|e| Failure::Later(e.to_string()))?;
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
