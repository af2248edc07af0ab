//! What the model is asked to see and draw: for calibration, and, apart from that, for the report.

use std::path::{Path, PathBuf};

use kinglet_model::Picture;

use crate::error::{QuantError, Result};

/// Things that any model of the family knows.
const OBJECTS: &[&str] = &[
    "cat", "dog", "horse", "cow", "frog", "tiger", "owl", "fish", "turtle", "elephant", "apple",
    "banana", "carrot", "pizza", "cake", "car", "bus", "bicycle", "train", "rocket", "ship",
    "house", "tree", "umbrella", "chair", "clock", "key", "guitar", "ball",
];
const COLOURS: &[&str] = &["blue", "green", "red", "white", "yellow", "pink", "gray"];
/// What is asked about every picture, one after another.
const QUESTIONS: &[&str] = &[
    "what is in the picture?",
    "describe the picture.",
    "how many objects are there?",
    "what color is the background?",
];
/// Of so many pictures of a folder one is kept for the report.
const KEPT: usize = 4;

/// Which half of everything: neither shares a prompt, a seed or a file with the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// For calibration.
    Calibration,
    /// For the report.
    Report,
}

/// Something to draw, and to answer a question about.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// What to draw.
    pub prompt: String,
    /// Where its noise comes from.
    pub seed: u64,
    /// What to ask about the drawing, or about `picture`.
    pub question: String,
    /// A picture to look at instead of the drawing.
    pub picture: Option<PathBuf>,
}

/// `count` scenes of one half. Without a folder the model looks at what it has drawn itself: that
/// is of its own kind, whatever it was trained on.
///
/// # Errors
/// [`QuantError::Data`] if the folder cannot be read or has too few pictures.
pub fn scenes(
    half: Half,
    seed: u64,
    count: usize,
    prompts: &[String],
    folder: Option<&Path>,
) -> Result<Vec<Scene>> {
    let pictures = folder.map(|f| pictures(f, half)).transpose()?;
    // Odd numbers are the report's, so no prompt of the list below and no seed meets the other's.
    let number = |i: usize| 2 * i as u64 + u64::from(half == Half::Report);
    let own: Vec<&String> = prompts
        .iter()
        .enumerate()
        .filter(|(i, _)| prompts.len() < KEPT || (i % KEPT == 0) == (half == Half::Report))
        .map(|(_, prompt)| prompt)
        .collect();
    let scene = |i: usize| {
        let n = number(i);
        let prompt = match own.get(i % own.len().max(1)) {
            Some(prompt) => (*prompt).clone(),
            None => prompt(seed.wrapping_mul(2).wrapping_add(n)),
        };
        Scene {
            prompt,
            seed: mixed(seed ^ mixed(n)),
            question: QUESTIONS[i % QUESTIONS.len()].to_owned(),
            picture: pictures.as_ref().map(|p| p[i % p.len()].clone()),
        }
    };
    Ok((0..count).map(scene).collect())
}

/// Prompt number `n`. All combinations come before one comes again, and their number is odd, so
/// even and odd numbers stay apart for as long.
fn prompt(n: u64) -> String {
    let combinations = (OBJECTS.len() * COLOURS.len()) as u64;
    // The stride has no factor in common with the number of combinations (29 * 7).
    let at = (n % combinations * 64 % combinations) as usize;
    let (object, colour) = (OBJECTS[at % OBJECTS.len()], COLOURS[at / OBJECTS.len()]);
    let article = |word: &str| match word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => "an",
        false => "a",
    };
    format!("{} {object} on a {colour} background", article(object))
}

/// SplitMix64's last step: nearby numbers become far ones.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The pictures of a folder by name, this half of them.
fn pictures(folder: &Path, half: Half) -> Result<Vec<PathBuf>> {
    let refuse = |reason: String| QuantError::Data {
        path: folder.display().to_string(),
        reason,
    };
    let entries = std::fs::read_dir(folder).map_err(|e| refuse(e.to_string()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| refuse(e.to_string()))?.path();
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        if ["png", "jpg", "jpeg", "webp"].contains(&kind.to_ascii_lowercase().as_str()) {
            files.push(path);
        }
    }
    files.sort();
    let mine: Vec<PathBuf> = files
        .into_iter()
        .enumerate()
        .filter(|(i, _)| (i % KEPT == KEPT - 1) == (half == Half::Report))
        .map(|(_, path)| path)
        .collect();
    if mine.is_empty() {
        return Err(refuse(format!(
            "at least {KEPT} pictures (PNG, JPEG or WebP) are needed: of {KEPT} one is kept for the report"
        )));
    }
    Ok(mine)
}

/// Opens a scene's picture.
///
/// # Errors
/// [`QuantError::Data`] if it cannot be read or decoded.
pub fn open(path: &Path) -> Result<Picture> {
    let refuse = |reason: String| QuantError::Data {
        path: path.display().to_string(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
    Picture::decode(&bytes).map_err(|e| refuse(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_shares_nothing_with_the_calibration() {
        let all = |half| scenes(half, 7, 60, &[], None).unwrap();
        let (mine, other) = (all(Half::Calibration), all(Half::Report));
        for scene in &mine {
            assert!(other.iter().all(|o| o.prompt != scene.prompt), "{scene:?}");
            assert!(other.iter().all(|o| o.seed != scene.seed));
        }
        let mut prompts: Vec<&str> = mine.iter().map(|s| &*s.prompt).collect();
        prompts.sort_unstable();
        prompts.dedup();
        assert_eq!(prompts.len(), 60);
    }

    #[test]
    fn an_empty_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = scenes(Half::Report, 0, 1, &[], Some(folder.path()));
        assert!(refused.unwrap_err().to_string().contains("pictures"));
    }
}
