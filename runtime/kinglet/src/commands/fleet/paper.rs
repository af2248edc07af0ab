//! Keys, and files that are never overwritten.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use kinglet_agent::keys::PrivateKey;

use crate::failure::{Failure, Outcome};

/// Who may read a file.
#[derive(Clone, Copy)]
pub(crate) enum Reader {
    Anybody,
    Owner,
}

/// Writes a file that must not be there yet.
pub(crate) fn write(path: &Path, reader: Reader, text: &str) -> Outcome {
    let refuse = |e| {
        Failure::new(format_args!(
            "{}: {e}; nothing is overwritten",
            path.display()
        ))
    };
    let mode = match reader {
        Reader::Anybody => 0o644,
        Reader::Owner => 0o600,
    };
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = made.map_err(refuse)?;
    file.write_all(text.as_bytes()).map_err(refuse)?;
    file.sync_all().map_err(refuse)
}

/// Reads a key that signs.
pub(crate) fn read_key(path: &Path) -> Outcome<PrivateKey> {
    let refuse = |e: String| Failure::new(format_args!("{}: {e}", path.display()));
    let bytes = crate::commands::read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("it is no key in PEM".to_owned()))?;
    PrivateKey::from_pem(&text).map_err(refuse)
}
