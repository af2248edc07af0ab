//! Who says what is in a drawing: judges of ours, or a file with the answers of others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kinglet_model::Picture;
use serde_json::Value;

use crate::colour::border_colour;
use crate::error::{Result, data_error};
use crate::kept::identity;
use crate::places::{Places, Thing};
use crate::prompts::Wanted;
use crate::verdict::Verdict;

/// Judges.
pub struct Judges {
    who: Who,
    /// Their files, which others of the same names are told from.
    files: Vec<PathBuf>,
}

enum Who {
    /// Of tools/train/train_judge.py: they know the bundled model's world.
    Places(Places),
    /// What somebody else has seen in the drawings of a folder, by their files' names. A detector of everyday things
    /// writes such a file for a large model.
    Answers(BTreeMap<String, Vec<Thing>>),
}

impl Judges {
    /// From judges' safetensors files, or from one JSON file: `{"00000.png": [{"name", "x", "y", "size"}]}`, places and sizes
    /// in pixels, a name `null` for what is nothing known.
    ///
    /// # Errors
    /// [`crate::EvalError`] if a file is not sound.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let who = match paths {
            [path] if path.extension().is_some_and(|e| e == "json") => {
                let text = std::fs::read(path).map_err(|e| data_error(path, e))?;
                Who::Answers(serde_json::from_slice(&text).map_err(|e| data_error(path, e))?)
            }
            _ => Who::Places(Places::open(paths)?),
        };
        Ok(Judges {
            who,
            files: paths.to_vec(),
        })
    }

    /// What tells them from others.
    pub fn identity(&self) -> Value {
        self.files.iter().map(|file| identity(file)).collect()
    }

    /// What is to be said of a drawing that is kept in this file.
    ///
    /// # Errors
    /// [`crate::EvalError`] if it cannot be judged, or nobody has.
    pub fn verdict(&self, wanted: &Wanted, picture: &Picture, file: &str) -> Result<Verdict> {
        let colour = border_colour(picture.rgb(), picture.width(), picture.height());
        Ok(match &self.who {
            Who::Places(places) => Verdict::of(wanted, &places.things(picture.rgb())?, colour),
            Who::Answers(answers) => {
                let things = answers
                    .get(file)
                    .ok_or_else(|| data_error(Path::new(file), "there is no answer on it"))?;
                Verdict::of(wanted, things, colour)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_others_count_and_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.json");
        let text = r#"{"00000.png": [{"name": "cat", "x": 9.0, "y": 9.0, "size": 20.0}]}"#;
        std::fs::write(&path, text).unwrap();
        let judges = Judges::open(&[path]).unwrap();
        let wanted = Wanted {
            things: vec!["cat".to_owned()],
            background: Some("red".to_owned()),
            ..Wanted::default()
        };
        let picture = Picture::from_rgb(16, 16, [200, 50, 45].repeat(256)).unwrap();
        assert!(
            judges
                .verdict(&wanted, &picture, "00000.png")
                .unwrap()
                .all()
        );
        let missing = judges.verdict(&wanted, &picture, "00001.png").unwrap_err();
        assert!(missing.to_string().contains("00001.png"), "{missing}");
    }
}
