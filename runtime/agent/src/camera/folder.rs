//! A folder of pictures as a camera: by name, in a loop. The folder is read anew at every turn, so
//! files may come and go.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::frame::{Frame, Picture};
use crate::slot::Slot;

/// How long to wait when the folder holds nothing that can be read.
const RETRY: Duration = Duration::from_secs(1);
/// The largest file that is read.
const LARGEST_FILE: u64 = 64 << 20;

pub(super) fn run(camera: &str, folder: &Path, period: Duration, slot: &Slot) {
    let mut number = 0;
    let mut complained = String::new();
    let mut due = Instant::now();
    while !slot.closed() {
        let mut delivered = false;
        let mut problem = String::new();
        match pictures(folder) {
            Err(e) => problem = format!("{}: {e}", folder.display()),
            Ok(paths) if paths.is_empty() => {
                problem = format!("{} holds no PNG, JPEG or WebP file", folder.display());
            }
            Ok(paths) => {
                for path in paths {
                    match read(&path) {
                        Ok(picture) => {
                            number += 1;
                            delivered = true;
                            slot.put(Frame {
                                number,
                                at: OffsetDateTime::now_utc(),
                                picture,
                            });
                            due = (due + period).max(Instant::now());
                            sleep_until(due, slot);
                        }
                        Err(e) => problem = format!("{}: {e}", path.display()),
                    }
                    if slot.closed() {
                        return;
                    }
                }
            }
        }
        // The same complaint once, not once a turn.
        if problem != complained {
            if problem.is_empty() {
                tracing::info!(camera, "the camera delivers again");
            } else {
                tracing::warn!(camera, "{problem}");
            }
            complained = problem;
        }
        if !delivered {
            sleep_until(Instant::now() + RETRY, slot);
        }
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

fn read(path: &Path) -> Result<Picture, String> {
    let len = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if len > LARGEST_FILE {
        return Err(format!(
            "it has {len} bytes, at most {LARGEST_FILE} are read"
        ));
    }
    Picture::decode(&fs::read(path).map_err(|e| e.to_string())?)
}

/// Sleeps in pieces, so that closing the slot ends the thread soon.
fn sleep_until(due: Instant, slot: &Slot) {
    const PIECE: Duration = Duration::from_millis(50);
    while !slot.closed() {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(PIECE));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

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
        let slot = Arc::new(Slot::default());
        let camera = Arc::clone(&slot);
        let path = folder.path().to_owned();
        let thread = std::thread::spawn(move || run("c", &path, Duration::from_millis(5), &camera));
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
        fs::remove_dir_all(folder.path()).unwrap();
        slot.close();
        thread.join().unwrap();
    }
}
