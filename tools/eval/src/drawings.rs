//! A model's drawings and edits, by GenEval's categories: one thing, two, a number of them, a colour, a position, an
//! attribute.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kinglet_kernels::Cpu;
use kinglet_model::recipes::Guides;
use kinglet_model::{DrawOptions, Drawing, Model, Picture};
use kinglet_quant::measure::psnr;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Result, data_error};
use crate::judges::Judges;
use crate::kept;
use crate::prompts::Wanted;
use crate::share::Share;
use crate::verdict::Verdict;
use crate::way::Way;

/// A drawing and what was said of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drawn {
    /// What the judges say.
    pub verdict: Verdict,
    /// Passes through the model.
    pub passes: usize,
    /// On one core, from the prompt to the picture.
    pub seconds: f64,
    /// How near it is to the original, in decibels; none without an original.
    pub decibels: Option<f64>,
}

/// What draws, how, and where its drawings are kept.
pub struct Easel<'a> {
    /// The model.
    pub model: Arc<Model<Cpu>>,
    /// Its file, which another one of the same name is told from.
    pub file: &'a Path,
    /// How it draws.
    pub way: &'a Way,
    /// The folder with `prompts.json`.
    pub scenes: &'a Path,
    /// Where drawings and results are kept.
    pub folder: PathBuf,
    /// Drawings of the same prompts and noise to compare with.
    pub originals: Option<&'a Path>,
}

impl Easel<'_> {
    /// Draws these prompts, one a core, with their numbers as seeds, and has them judged. What is kept is not done again.
    ///
    /// # Errors
    /// [`crate::EvalError`] if something cannot be read, drawn or judged.
    pub fn draw(
        &self,
        what: &str,
        all: &[Wanted],
        numbers: &[usize],
        judges: &Judges,
    ) -> Result<BTreeMap<usize, Drawn>> {
        let drawn = self.pictures(what, all, numbers)?;
        let file = self.folder.join("verdicts.jsonl");
        let task = json!([self.task(), judges.identity(), self.originals]);
        let judged = kept::results(&format!("{what}: judging"), &file, &task, numbers, |i| {
            let name = name(i);
            let picture = open(&self.folder.join(&name))?;
            let decibels = match self.originals {
                Some(folder) => Some(psnr(&picture, &open(&folder.join(&name))?)),
                None => None,
            };
            let verdict = judges.verdict(&all[i], &picture, &name)?;
            Ok((verdict, decibels))
        })?;
        let both = judged.into_iter().zip(drawn.into_values());
        Ok(both
            .map(|((i, (verdict, decibels)), (passes, seconds))| {
                let one = Drawn {
                    verdict,
                    passes,
                    seconds,
                    decibels,
                };
                (i, one)
            })
            .collect())
    }

    /// Only draws: passes and seconds of each.
    ///
    /// # Errors
    /// [`crate::EvalError`] if something cannot be read or drawn.
    pub fn pictures(
        &self,
        what: &str,
        all: &[Wanted],
        numbers: &[usize],
    ) -> Result<BTreeMap<usize, (usize, f64)>> {
        std::fs::create_dir_all(&self.folder).map_err(|e| data_error(&self.folder, e))?;
        let file = self.folder.join("drawings.jsonl");
        kept::results(what, &file, &self.task(), numbers, |i| {
            let start = Instant::now();
            let (picture, passes) = self.one(&all[i], i)?;
            let seconds = start.elapsed().as_secs_f64();
            let path = self.folder.join(name(i));
            std::fs::write(&path, picture.to_png()?).map_err(|e| data_error(&path, e))?;
            Ok((passes, seconds))
        })
    }

    fn task(&self) -> Value {
        let prompts = self.scenes.join("prompts.json");
        json!([
            kept::identity(self.file),
            kept::identity(&prompts),
            self.way
        ])
    }

    fn one(&self, wanted: &Wanted, seed: usize) -> Result<(Picture, usize)> {
        let (model, seed) = (&self.model, seed as u64);
        let (guides, how) = match &wanted.picture {
            Some(file) => {
                let picture = open(&self.scenes.join(file))?;
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
        let how = self.way.applied(how, &model.config);
        let mut how = how.map_err(|e| data_error(Path::new(&self.way.name), e))?;
        how.seed = seed;
        let mut drawing = Drawing::new(&guides, &how)?;
        drawing.run(&mut |_| ControlFlow::Continue(()))?;
        Ok((drawing.picture()?, drawing.passes()))
    }
}

/// The file of a drawing.
pub fn name(number: usize) -> String {
    format!("{number:05}.png")
}

fn open(path: &Path) -> Result<Picture> {
    let bytes = std::fs::read(path).map_err(|e| data_error(path, e))?;
    Ok(Picture::decode(&bytes)?)
}

/// Shares of a category's drawings; see [`crate::verdict::Verdict`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Marks {
    /// What the category is named for.
    pub named: Share,
    /// Kinds.
    pub objects: Share,
    /// Kinds and how many of each.
    pub count: Share,
    /// The relation.
    pub relation: Share,
    /// The background's colour.
    pub background: Share,
    /// The size.
    pub size: Share,
    /// The rest of an edited picture.
    pub kept: Share,
    /// Everything.
    pub all: Share,
}

/// Marks by category.
pub fn marks(all: &[Wanted], drawn: &BTreeMap<usize, Drawn>) -> BTreeMap<String, Marks> {
    let mut out = BTreeMap::<String, Marks>::new();
    for (i, Drawn { verdict, .. }) in drawn {
        let category = &all[*i].category;
        let marks = out.entry(category.clone()).or_default();
        marks.named.count(verdict.named(category));
        marks.objects.count(verdict.objects);
        marks.count.count(verdict.count);
        marks.all.count(verdict.all());
        for (share, answer) in [
            (&mut marks.relation, verdict.relation),
            (&mut marks.background, verdict.background),
            (&mut marks.size, verdict.size),
            (&mut marks.kept, verdict.kept),
        ] {
            if let Some(right) = answer {
                share.count(right);
            }
        }
    }
    out
}

/// A Markdown table: a row a category, shares in percent with 95 % intervals.
pub fn table(marks: &BTreeMap<String, Marks>) -> String {
    let columns = [
        "as named",
        "objects",
        "count",
        "relation",
        "background",
        "size",
        "the rest",
        "all",
    ];
    let mut out = format!(
        "| | of | {} |\n|---|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    for (category, m) in marks {
        // Writing to a string cannot fail.
        let _ = write!(out, "| {category} | {} |", m.all.of);
        for share in [
            m.named,
            m.objects,
            m.count,
            m.relation,
            m.background,
            m.size,
            m.kept,
            m.all,
        ] {
            let _ = match share.of {
                0 => write!(out, " |"),
                _ => write!(out, " {} |", share.percent()),
            };
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_by_category_and_leave_out_what_was_not_asked() {
        let category = |name: &str| Wanted {
            category: name.to_owned(),
            ..Wanted::default()
        };
        let all = [
            category("position"),
            category("counting"),
            category("position"),
        ];
        let drawn = |objects, relation| Drawn {
            verdict: Verdict {
                objects,
                count: true,
                relation,
                background: Some(true),
                size: None,
                kept: None,
            },
            passes: 4,
            seconds: 0.1,
            decibels: None,
        };
        let drawn = [
            (0, drawn(true, Some(false))),
            (1, drawn(true, None)),
            (2, drawn(true, Some(true))),
        ];
        let marks = marks(&all, &BTreeMap::from(drawn));
        assert_eq!(marks["position"].named, Share { right: 1, of: 2 });
        assert_eq!(marks["position"].objects, Share { right: 2, of: 2 });
        assert_eq!(marks["counting"].relation, Share::default());
        let table = table(&marks);
        assert!(
            table.contains("| counting | 1 | 100.0 (20.7 to 100.0) |"),
            "{table}"
        );
    }
}
