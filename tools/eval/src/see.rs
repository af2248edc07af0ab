//! Answers against the truth of `scenes/`.

use serde::{Deserialize, Serialize};

use crate::program::{Program, Result, data_error};
use crate::share::Share;

#[derive(Deserialize)]
struct Scene {
    file: String,
    objects: Vec<String>,
    background: String,
    what: String,
    count: String,
}

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
}

/// Asks the program about every scene.
///
/// # Errors
/// [`crate::EvalError`].
pub fn run(program: &Program) -> Result<Marks> {
    let folder = crate::data("scenes");
    let truth = folder.join("truth.json");
    let text = std::fs::read(&truth).map_err(|e| data_error(&truth, e))?;
    let scenes: Vec<Scene> = serde_json::from_slice(&text).map_err(|e| data_error(&truth, e))?;
    let mut marks = Marks::default();
    for scene in &scenes {
        let file = folder.join(&scene.file);
        let file = file.to_string_lossy();
        let ask = |question: &str| -> Result<String> {
            let result = program.json(&["see", &file, "--ask", question])?;
            Ok(result["answer"].as_str().unwrap_or_default().to_owned())
        };
        let named = ask("what is in the picture?")? == scene.what;
        if scene.objects.len() == 1 {
            marks.naming.count(named);
        } else {
            marks.lists.count(named);
        }
        marks
            .counting
            .count(ask("how many objects are there?")? == scene.count);
        marks
            .background
            .count(ask("what color is the background?")? == scene.background);
    }
    Ok(marks)
}
