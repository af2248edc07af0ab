//! Drawings of single objects before two referees.

use std::path::Path;

use serde::Serialize;

use crate::judge::{Judge, NAMES};
use crate::program::{Program, Result, data_error};
use crate::share::Share;

/// Background colours by name.
const COLOURS: [(&str, [f32; 3]); 11] = [
    ("green", [80.0, 160.0, 75.0]),
    ("blue", [65.0, 110.0, 200.0]),
    ("purple", [130.0, 70.0, 165.0]),
    ("pink", [245.0, 165.0, 195.0]),
    ("brown", [125.0, 85.0, 55.0]),
    ("gray", [140.0, 140.0, 140.0]),
    ("white", [242.0, 242.0, 242.0]),
    ("black", [28.0, 28.0, 28.0]),
    ("red", [200.0, 50.0, 45.0]),
    ("orange", [240.0, 150.0, 50.0]),
    ("yellow", [245.0, 220.0, 80.0]),
];

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

/// The named colour that is nearest to the mean of the outermost pixels.
pub(crate) fn border_colour(rgb: &[u8], width: usize, height: usize) -> &'static str {
    const BORDER: usize = 4;
    let (mut sum, mut count) = ([0.0f32; 3], 0.0f32);
    for (i, p) in rgb.chunks_exact(3).enumerate() {
        let (y, x) = (i / width, i % width);
        if y.min(x).min(height - 1 - y).min(width - 1 - x) < BORDER {
            for c in 0..3 {
                sum[c] += f32::from(p[c]);
            }
            count += 1.0;
        }
    }
    let distance =
        |colour: &[f32; 3]| -> f32 { (0..3).map(|c| (sum[c] / count - colour[c]).powi(2)).sum() };
    let nearest = COLOURS
        .iter()
        .min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
    nearest.map_or("", |(name, _)| name)
}
