//! Drawings and edits before two judges of places, by GenEval's categories: one thing, two, a number of them, a colour, a
//! position, an attribute. Both judges must agree with what was asked for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet_kernels::Cpu;
use kinglet_model::recipes::Guides;
use kinglet_model::{DrawOptions, Drawing, Model, Picture, Source};
use serde::{Deserialize, Serialize};

use crate::draw::border_colour;
use crate::places::{Places, SIDE, Thing};
use crate::program::{Result, data_error};
use crate::share::Share;
use crate::table::work::on_all_cores;

/// Pixels by which one thing must lie to the left of or above another.
const CLEARLY: f32 = 6.0;
/// Pixels by which a thing may have moved that an edit should have left alone.
const STAYED: f32 = 10.0;

/// Something to draw, or an edit of a picture.
#[derive(Debug, Clone, Deserialize)]
pub struct Wanted {
    /// GenEval's name, or what kind of edit it is.
    pub category: String,
    /// The prompt or the order.
    pub prompt: String,
    /// The picture that is edited: a file beside `prompts.json`.
    pub picture: Option<String>,
    /// The names of all things that should be there.
    pub things: Vec<String>,
    /// The background's colour.
    pub background: String,
    /// How the first of two things should stand to the other.
    pub relation: Option<(String, String, String)>,
    /// Things of the edited picture that should stay where they are: name, x and y.
    #[serde(default)]
    pub kept: Vec<(String, f32, f32)>,
}

/// What the judges say of a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Every kind that was asked for is there, and no other.
    pub objects: bool,
    /// As many of each.
    pub count: bool,
    /// They stand as was asked; none if nothing was, or if places do not show it (behind, in front of).
    pub relation: Option<bool>,
    /// The border has the colour.
    pub background: bool,
    /// What should stay is where it was; none if nothing is edited.
    pub kept: Option<bool>,
}

impl Verdict {
    /// Everything that was asked for.
    pub fn all(self) -> bool {
        let there = self.objects && self.count && self.background;
        there && self.relation != Some(false) && self.kept != Some(false)
    }

    fn both(self, other: Verdict) -> Verdict {
        let and = |a: Option<bool>, b: Option<bool>| a.zip(b).map(|(a, b)| a && b);
        Verdict {
            objects: self.objects && other.objects,
            count: self.count && other.count,
            relation: and(self.relation, other.relation),
            background: self.background && other.background,
            kept: and(self.kept, other.kept),
        }
    }
}

/// Shares of a category's drawings.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Marks {
    /// See [`Verdict`].
    pub objects: Share,
    /// See [`Verdict`].
    pub count: Share,
    /// See [`Verdict`].
    pub relation: Share,
    /// See [`Verdict`].
    pub background: Share,
    /// See [`Verdict`].
    pub kept: Share,
    /// Everything.
    pub all: Share,
}

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Options {
    /// A container.
    pub model: PathBuf,
    /// A folder with `prompts.json`.
    pub scenes: PathBuf,
    /// The two judges.
    pub judges: [PathBuf; 2],
    /// At most so many of each category.
    pub most: usize,
    /// Points of time instead of the container's.
    pub timesteps: Option<usize>,
    /// Where drawings are kept.
    pub folder: PathBuf,
}

/// What is to be drawn of a folder.
///
/// # Errors
/// [`crate::EvalError`] if its `prompts.json` is not sound.
pub fn wanted(folder: &Path) -> Result<Vec<Wanted>> {
    let path = folder.join("prompts.json");
    let text = std::fs::read(&path).map_err(|e| data_error(&path, e))?;
    serde_json::from_slice(&text).map_err(|e| data_error(&path, e))
}

/// Draws everything, one drawing a core, with its number as seed; marks by category.
///
/// # Errors
/// [`crate::EvalError`] if a file is not sound or the model cannot be run.
pub fn run(options: &Options, wanted: &[Wanted]) -> Result<BTreeMap<String, Marks>> {
    std::fs::create_dir_all(&options.folder).map_err(|e| data_error(&options.folder, e))?;
    let model = Model::on_cpu(&Source::open(&options.model)?)?;
    let judges = [
        Places::open(&options.judges[0])?,
        Places::open(&options.judges[1])?,
    ];
    let mut count = BTreeMap::<&str, usize>::new();
    let chosen: Vec<usize> = (0..wanted.len())
        .filter(|i| {
            let count = count.entry(&wanted[*i].category).or_default();
            *count += 1;
            *count <= options.most
        })
        .collect();
    let verdicts = on_all_cores("drawings", &chosen, |i| {
        let picture = drawn(&model, options, &wanted[i], i)?;
        let path = options.folder.join(format!("{i:05}.png"));
        std::fs::write(&path, picture.to_png()?).map_err(|e| data_error(&path, e))?;
        let (rgb, colour) = (picture.rgb(), border_colour(picture.rgb(), SIDE, SIDE));
        let [one, other] = &judges;
        let verdict = judged(&wanted[i], &one.things(rgb)?, colour);
        Ok((
            i,
            verdict.both(judged(&wanted[i], &other.things(rgb)?, colour)),
        ))
    })?;
    let mut marks = BTreeMap::<String, Marks>::new();
    for (i, verdict) in verdicts {
        let marks = marks.entry(wanted[i].category.clone()).or_default();
        marks.objects.count(verdict.objects);
        marks.count.count(verdict.count);
        marks.background.count(verdict.background);
        marks.all.count(verdict.all());
        if let Some(right) = verdict.relation {
            marks.relation.count(right);
        }
        if let Some(right) = verdict.kept {
            marks.kept.count(right);
        }
    }
    Ok(marks)
}

fn drawn(
    model: &Arc<Model<Cpu>>,
    options: &Options,
    wanted: &Wanted,
    seed: usize,
) -> Result<Picture> {
    let seed = seed as u64;
    let (guides, mut how) = match &wanted.picture {
        Some(file) => {
            let path = options.scenes.join(file);
            let bytes = std::fs::read(&path).map_err(|e| data_error(&path, e))?;
            let picture = Picture::decode(&bytes)?;
            let size = picture.size_by(&model.config.latent.rule);
            let how = DrawOptions::edit_defaults(&model.config, size);
            let (guides, _) = Guides::to_edit(model, &picture, &wanted.prompt, seed, false)?;
            (guides, how)
        }
        None => {
            let how = DrawOptions::defaults(&model.config);
            (Guides::to_draw(model, &wanted.prompt, false)?, how)
        }
    };
    how.seed = seed;
    how.timesteps = options.timesteps.unwrap_or(how.timesteps);
    let mut drawing = Drawing::new(&guides, &how)?;
    drawing.run(&mut |_| ControlFlow::Continue(()))?;
    Ok(drawing.picture()?)
}

/// What one judge, who sees these things, says of a drawing with this colour at its border.
fn judged(wanted: &Wanted, things: &[Thing], colour: &str) -> Verdict {
    let mut asked: Vec<Option<&str>> = wanted.things.iter().map(|name| Some(&name[..])).collect();
    let mut seen: Vec<Option<&str>> = things.iter().map(|thing| thing.name).collect();
    asked.sort_unstable();
    seen.sort_unstable();
    let count = asked == seen;
    asked.dedup();
    seen.dedup();
    Verdict {
        objects: asked == seen,
        count,
        relation: wanted
            .relation
            .as_ref()
            .and_then(|relation| stands(relation, things)),
        background: colour == wanted.background,
        kept: wanted
            .picture
            .is_some()
            .then(|| stayed(&wanted.kept, things)),
    }
}

/// Whether the first thing stands so to the second one.
fn stands((first, relation, second): &(String, String, String), things: &[Thing]) -> Option<bool> {
    let place = |name: &String| {
        let found = things.iter().find(|thing| thing.name == Some(name))?;
        Some((found.x, found.y))
    };
    let right = |test: fn(f32, f32) -> bool| match (place(first), place(second)) {
        (Some((x, y)), Some((to_x, to_y))) => test(x - to_x, y - to_y),
        _ => false,
    };
    Some(match &relation[..] {
        "left of" => right(|x, _| x < -CLEARLY),
        "right of" => right(|x, _| x > CLEARLY),
        "above" => right(|_, y| y < -CLEARLY),
        "below" => right(|_, y| y > CLEARLY),
        // Nearly over each other, too.
        "on" => right(|x, y| y < -CLEARLY && x.abs() < 2.0 * CLEARLY),
        _ => return None,
    })
}

/// Whether each of these is still where it was.
fn stayed(kept: &[(String, f32, f32)], things: &[Thing]) -> bool {
    kept.iter().all(|(name, x, y)| {
        let near = |thing: &&Thing| (thing.x - x).abs() < STAYED && (thing.y - y).abs() < STAYED;
        things
            .iter()
            .filter(near)
            .any(|thing| thing.name == Some(name))
    })
}

/// A Markdown table: a row a category, shares in percent with 95 % intervals.
pub fn table(marks: &BTreeMap<String, Marks>) -> String {
    let columns = ["objects", "count", "relation", "background", "kept", "all"];
    let mut out = format!(
        "| | {} |\n|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    for (category, m) in marks {
        // Writing to a string cannot fail.
        let _ = write!(out, "| {category} |");
        for share in [m.objects, m.count, m.relation, m.background, m.kept, m.all] {
            let (low, high) = share.interval();
            let _ = match share.of {
                0 => write!(out, " |"),
                of => write!(
                    out,
                    " {:.1} ({:.1} to {:.1}) of {of} |",
                    100.0 * share.value(),
                    100.0 * low,
                    100.0 * high
                ),
            };
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(name: &'static str, x: f32, y: f32) -> Thing {
        Thing {
            name: (name != "junk").then_some(name),
            x,
            y,
            cells: 9,
        }
    }

    fn wanted(things: &[&str]) -> Wanted {
        Wanted {
            category: "two".to_owned(),
            prompt: String::new(),
            picture: None,
            things: things.iter().map(|&name| name.to_owned()).collect(),
            background: "blue".to_owned(),
            relation: None,
            kept: Vec::new(),
        }
    }

    #[test]
    fn kinds_numbers_and_colours_are_judged_one_by_one() {
        let asked = wanted(&["cat", "cat", "dog"]);
        let (cat, dog) = (thing("cat", 20.0, 20.0), thing("dog", 80.0, 20.0));
        let all = judged(&asked, &[dog.clone(), cat.clone(), cat.clone()], "blue");
        assert!(all.all() && all.objects && all.count);
        let fewer = judged(&asked, &[cat.clone(), dog.clone()], "blue");
        assert!(fewer.objects && !fewer.count && !fewer.all());
        let junk = judged(
            &asked,
            &[cat.clone(), cat, dog, thing("junk", 0.0, 0.0)],
            "red",
        );
        assert!(!junk.objects && !junk.count && !junk.background);
    }

    #[test]
    fn a_relation_is_one_of_places() {
        let mut asked = wanted(&["cat", "dog"]);
        let things = [thing("cat", 20.0, 50.0), thing("dog", 80.0, 54.0)];
        for (relation, right) in [
            ("left of", Some(true)),
            ("right of", Some(false)),
            ("above", Some(false)),
            ("on", Some(false)),
            ("behind", None),
        ] {
            asked.relation = Some(("cat".to_owned(), relation.to_owned(), "dog".to_owned()));
            assert_eq!(
                judged(&asked, &things, "blue").relation,
                right,
                "{relation}"
            );
        }
        asked.relation = Some(("fox".to_owned(), "left of".to_owned(), "dog".to_owned()));
        assert_eq!(judged(&asked, &things, "blue").relation, Some(false));
    }

    #[test]
    fn an_edit_leaves_the_rest_where_it_was() {
        let mut asked = wanted(&["cat", "dog"]);
        asked.picture = Some("0.png".to_owned());
        asked.kept = vec![("cat".to_owned(), 20.0, 20.0)];
        let at = |x| [thing("cat", x, 24.0), thing("dog", 80.0, 80.0)];
        assert_eq!(judged(&asked, &at(25.0), "blue").kept, Some(true));
        assert_eq!(judged(&asked, &at(40.0), "blue").kept, Some(false));
        assert!(!judged(&asked, &at(40.0), "blue").all());
    }
}
