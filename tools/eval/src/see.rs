//! Answers against the truth of `scenes/`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::program::{Program, Result, data_error};
use crate::share::Share;

/// A scene and its truth.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Scene {
    pub(crate) file: String,
    pub(crate) objects: Vec<String>,
    /// Where they are: x and y in pixels.
    centres: Vec<(usize, usize)>,
    pub(crate) background: String,
    pub(crate) what: String,
    pub(crate) count: String,
}

pub(crate) const NAMING: &str = "what is in the picture?";
pub(crate) const COUNTING: &str = "how many objects are there?";
pub(crate) const BACKGROUND: &str = "what color is the background?";

/// The marks for seeing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Marks {
    /// "what is in the picture?", scenes with one object.
    pub naming: Share,
    /// The same, scenes with several objects: the whole list.
    pub lists: Share,
    /// "how many objects are there?"
    pub counting: Share,
    /// "what color is the background?"
    pub background: Share,
    /// "what is in the picture?" about a square around one of several objects (`--region`): that
    /// object and no other is named, once or (the part and the whole being two pictures) twice.
    pub regions: Share,
}

/// Side of a region around an object, in pixels of a scene.
const REGION: usize = 48;
/// Side of a scene.
const SIDE: usize = 112;

/// Asks the program about every scene.
///
/// # Errors
/// [`crate::EvalError`].
pub fn run(program: &Program) -> Result<Marks> {
    let folder = crate::data("scenes");
    let scenes = scenes(&folder)?;
    let mut marks = Marks::default();
    for scene in &scenes {
        let file = folder.join(&scene.file);
        let file = file.to_string_lossy();
        let ask = |question: &str| -> Result<String> {
            let result = program.json(&["see", &file, "--ask", question])?;
            Ok(result["answer"].as_str().unwrap_or_default().to_owned())
        };
        let named = ask(NAMING)? == scene.what;
        if scene.objects.len() == 1 {
            marks.naming.count(named);
        } else {
            marks.lists.count(named);
            for (object, (x, y)) in scene.objects.iter().zip(&scene.centres) {
                let start = |at: &usize| at.saturating_sub(REGION / 2).min(SIDE - REGION);
                let region = format!("{},{},{REGION},{REGION}", start(x), start(y));
                let ask = ["see", &file, "--ask", NAMING, "--region", &region];
                let answer = program.json(&ask)?;
                let answer = answer["answer"].as_str().unwrap_or_default();
                marks.regions.count(names_only(answer, object));
            }
        }
        marks.counting.count(ask(COUNTING)? == scene.count);
        marks.background.count(ask(BACKGROUND)? == scene.background);
    }
    Ok(marks)
}

/// The scenes of a folder, from its `truth.json`.
pub(crate) fn scenes(folder: &Path) -> Result<Vec<Scene>> {
    let truth = folder.join("truth.json");
    let text = std::fs::read(&truth).map_err(|e| data_error(&truth, e))?;
    serde_json::from_slice(&text).map_err(|e| data_error(&truth, e))
}

/// Whether an answer, as "a frog and a frog", names this object and no other.
fn names_only(answer: &str, object: &str) -> bool {
    let names = answer.replace(", ", " and ");
    names.split(" and ").all(|name| {
        let name = name.strip_prefix("a ").or(name.strip_prefix("an "));
        name == Some(object)
    })
}

#[cfg(test)]
mod tests {
    use super::names_only;

    #[test]
    fn an_answer_that_names_another_object_does_not_count() {
        assert!(names_only("an egg", "egg"));
        assert!(names_only("a frog and a frog", "frog"));
        for answer in ["", "a frog and an egg", "two frogs", "a bullfrog"] {
            assert!(!names_only(answer, "frog"), "{answer}");
        }
    }
}
