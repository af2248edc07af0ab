//! Drawings of single objects before two referees.

use std::path::Path;

use serde::Serialize;

use crate::colour::{COLOURS, border_colour};
use crate::judge::{Judge, NAMES};
use crate::program::{Program, Result, data_error};
use crate::share::Share;

/// The marks for drawing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Marks {
    /// The referee with a class for junk names the object.
    pub strict: Share,
    /// The referee without one does.
    pub plain: Share,
    /// The border has the colour that was asked for.
    pub background: Share,
}

/// The prompt number `i`, the name of its object and of its background. The objects come one after
/// another; each time anew, all are on other backgrounds.
pub fn prompt(i: usize) -> (String, &'static str, &'static str) {
    let objects = objects();
    let name = NAMES.split_whitespace().nth(i % objects).unwrap_or("cat");
    let (colour, _) = COLOURS[(i % objects + i / objects) % COLOURS.len()];
    let article = |word: &str| {
        if word.starts_with(['a', 'e', 'i', 'o', 'u']) {
            "an"
        } else {
            "a"
        }
    };
    let (a, b) = (article(name), article(colour));
    (
        format!("{a} {name} on {b} {colour} background"),
        name,
        colour,
    )
}

/// Every object once.
pub fn objects() -> usize {
    NAMES.split_whitespace().count()
}

/// Has the program make `count` drawings, the objects one after another, with these further arguments and the
/// drawing's number as seed, into `folder`.
///
/// # Errors
/// [`crate::EvalError`].
pub fn run(program: &Program, folder: &Path, count: usize, further: &[&str]) -> Result<Marks> {
    let strict = Judge::open("strict")?;
    let plain = Judge::open("plain")?;
    let mut marks = Marks::default();
    for i in 0..count {
        let (prompt, name, colour) = prompt(i);
        let path = folder.join(format!("{i:02}-{name}.png"));
        let (file, seed) = (path.to_string_lossy(), i.to_string());
        let mut arguments = vec!["draw", &prompt, "-o", &file, "--seed", &seed];
        arguments.extend(further);
        program.json(&arguments)?;
        let picture = image::open(&path)
            .map_err(|e| data_error(&path, e))?
            .into_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        marks
            .strict
            .count(strict.name(&picture, width, height)? == Some(name));
        marks
            .plain
            .count(plain.name(&picture, width, height)? == Some(name));
        marks
            .background
            .count(border_colour(&picture, width, height) == colour);
    }
    Ok(marks)
}
