//! Files of a tree, read with bounds.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most bytes of a file that are read.
const LONGEST: u64 = 64 << 10;
/// The most entries of a folder that are looked at.
const MOST: usize = 1024;

/// A tree of files as Linux has them.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn new(root: &Path) -> Self {
        Tree {
            root: root.to_owned(),
        }
    }

    /// Where a file is. A captured tree is a folder: links that lead out of it are not followed, which is why its
    /// files are plain ones.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    pub(super) fn bytes(&self, file: &str) -> Option<Vec<u8>> {
        let path = self.path(file);
        // What is no plain file may never end, or wait for ever.
        if !std::fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(path)
            .ok()?
            .take(LONGEST)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    }

    /// The whole text, whatever is no UTF-8 replaced.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes(file)?).into_owned())
    }

    /// The first line, without blanks around it and without control characters; none if it is empty.
    pub(super) fn line(&self, file: &str) -> Option<String> {
        let text = self.text(file)?;
        let line: String = text
            .lines()
            .next()?
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        let line = line.trim();
        (!line.is_empty()).then(|| line.chars().take(200).collect())
    }

    /// Strings that end with zeros, as device trees have them.
    pub(super) fn strings(&self, file: &str) -> Vec<String> {
        let text = self.text(file).unwrap_or_default();
        let clean = |s: &str| {
            s.chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect::<String>()
        };
        let strings = text.split('\0').map(clean).filter(|s| !s.is_empty());
        strings.take(16).collect()
    }

    pub(super) fn number(&self, file: &str) -> Option<i64> {
        self.line(file)?.parse().ok()
    }

    pub(super) fn exists(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// The names in a folder, sorted.
    pub(super) fn children(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else {
            return Vec::new();
        };
        let names = entries
            .take(MOST)
            .filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}
