//! A folder of pictures as a camera: by name, in a loop. The folder is read anew at every turn, so
//! files may come and go.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::feed::Feed;
use super::source::{Parsed, Source, refuse_unused};
use crate::config::{CameraConfig, error};
use crate::error::Result;
use crate::frame::Picture;

/// The largest file that is read.
const LARGEST_FILE: u64 = 64 << 20;

struct Folder {
    path: PathBuf,
}

/// Reads `DIR` or `DIR?fps=N`.
pub(super) fn parse(rest: &str, config: &CameraConfig) -> Result<Parsed> {
    let refuse = |expected: &str| error("camera.source", &config.source, expected);
    refuse_unused(config, &["width", "height", "ca"])?;
    let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() {
        return Err(refuse("names no folder"));
    }
    let mut rate = 1.0;
    for option in options.split('&').filter(|o| !o.is_empty()) {
        if config.fps.is_some() {
            return Err(refuse("says fps twice: camera.fps says it too"));
        }
        rate = option
            .strip_prefix("fps=")
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| refuse("has an option that is not fps=N"))?;
    }
    let path = path.into();
    Ok(Parsed {
        source: Box::new(Folder { path }),
        rate,
    })
}

impl Source for Folder {
    fn prepare(&mut self, folder: &Path) -> Result<()> {
        self.path = folder.join(&self.path);
        Ok(())
    }

    fn session(&mut self, feed: &mut Feed) -> std::result::Result<(), String> {
        let folder = self.path.display();
        while !feed.closed() {
            let paths = pictures(&self.path).map_err(|e| format!("{folder}: {e}"))?;
            let before = feed.delivered();
            for path in paths {
                match read(&path) {
                    Ok(picture) => {
                        let now = Instant::now();
                        let due = feed.next_due(now);
                        feed.sleep(due.duration_since(now));
                        if feed.closed() {
                            return Ok(());
                        }
                        feed.put(picture);
                    }
                    Err(e) => feed.damaged(&format!("{}: {e}", path.display())),
                }
            }
            if feed.delivered() == before {
                return Err(format!("{folder} holds no PNG, JPEG or WebP file"));
            }
        }
        Ok(())
    }
}

fn pictures(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        if ["png", "jpg", "jpeg", "webp"].contains(&extension.to_ascii_lowercase().as_str()) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> std::result::Result<Picture, String> {
    let len = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if len > LARGEST_FILE {
        return Err(format!(
            "it has {len} bytes, at most {LARGEST_FILE} are read"
        ));
    }
    super::decode(&fs::read(path).map_err(|e| e.to_string())?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::camera::{feed, retry};

    #[test]
    fn a_folder_may_empty_and_fill_again() {
        let folder = tempfile::tempdir().unwrap();
        let png = |name: &str| {
            let picture = Picture {
                width: 2,
                height: 1,
                rgb: vec![9; 6].into(),
            };
            fs::write(folder.path().join(name), picture.to_png().unwrap()).unwrap();
        };
        let (mut feed, slot, report) = feed::tests::feed(100.0, &[]);
        let path = folder.path().to_owned();
        let thread = std::thread::spawn(move || retry::run(&mut Folder { path }, &mut feed));
        let next = |seen| {
            slot.newer_than(seen, Duration::from_secs(30))
                .map(|f| f.number)
        };

        // Nothing there yet, then a picture among what is none.
        fs::write(folder.path().join("a.png"), b"no picture").unwrap();
        fs::write(folder.path().join("notes.txt"), b"text").unwrap();
        png("b.PNG");
        let seen = next(0).expect("the picture comes");
        fs::remove_file(folder.path().join("b.PNG")).unwrap();
        png("c.png");
        assert!(next(seen + 1) > Some(seen), "the camera goes on");
        assert!(report.read(Instant::now()).errors > 0);
        fs::remove_dir_all(folder.path()).unwrap();
        slot.close();
        thread.join().unwrap();
    }
}
