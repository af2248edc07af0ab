//! What fewer passes cost: one model (or what was distilled from it), the same prompts and noise, drawn in many ways. The
//! first way is the one that all others are compared with.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use kinglet_model::{Model, Source};

use crate::drawings::{Drawn, Easel};
use crate::error::{Result, data_error};
use crate::judges::Judges;
use crate::prompts::{Wanted, first_of_each, wanted};
use crate::share::Share;
use crate::table::paired::Difference;
use crate::table::variants::slug;
use crate::way;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model.
    pub model: PathBuf,
    /// The ways.
    pub ways: PathBuf,
    /// A folder with `prompts.json`.
    pub scenes: PathBuf,
    /// Who judges.
    pub judges: Vec<PathBuf>,
    /// At most so many drawings of each category.
    pub most: usize,
    /// Where the drawings of each way are kept.
    pub folder: PathBuf,
}

/// Draws in every way and returns the table; it is also written into the folder after every way.
///
/// # Errors
/// [`crate::EvalError`] if a way cannot be read or drawn.
pub fn run(options: &Options) -> Result<String> {
    let model = Model::on_cpu(&Source::open(&options.model)?)?;
    let judges = Judges::open(&options.judges)?;
    let all = wanted(&options.scenes)?;
    let numbers = first_of_each(all.iter().map(group), options.most);
    let mut groups: Vec<&str> = numbers.iter().map(|i| group(&all[*i])).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut table = format!(
        "| | passes | ms a drawing | {} | PSNR |\n|---|---|---|{}---|\n",
        groups.join(" | "),
        "---|".repeat(groups.len())
    );
    let mut first: Option<(PathBuf, BTreeMap<usize, Drawn>)> = None;
    for way in way::ways(&options.ways)? {
        let file = way.model.as_deref().unwrap_or(&options.model);
        let model = match &way.model {
            Some(other) => Model::on_cpu(&Source::open(other)?)?,
            None => model.clone(),
        };
        let folder = options.folder.join(slug(&way.name));
        let easel = Easel {
            model,
            file,
            way: &way,
            scenes: &options.scenes,
            folder: folder.clone(),
            originals: first.as_ref().map(|(folder, _)| folder.as_path()),
        };
        let drawn = easel.draw(&way.name, &all, &numbers, &judges)?;
        let before = first.as_ref().map(|(_, drawn)| drawn);
        row(&mut table, &way.name, &all, &groups, &drawn, before);
        let page = options.folder.join("steps.md");
        std::fs::write(&page, &table).map_err(|e| data_error(&page, e))?;
        first.get_or_insert((folder, drawn));
    }
    let _ = writeln!(table, "\n{} drawings each.", numbers.len());
    Ok(table)
}

/// Whatever an edit changes is one category here.
fn group(wanted: &Wanted) -> &str {
    wanted.category.split(':').next().unwrap_or_default()
}

/// A way's shares, for all but the first with how far they are from the first one's and half of the paired 95 %
/// interval.
fn row(
    table: &mut String,
    name: &str,
    all: &[Wanted],
    groups: &[&str],
    drawn: &BTreeMap<usize, Drawn>,
    first: Option<&BTreeMap<usize, Drawn>>,
) {
    let mean = |of: &dyn Fn(&Drawn) -> f64| {
        drawn.values().map(of).sum::<f64>() / drawn.len().max(1) as f64
    };
    let passes = mean(&|d| d.passes as f64);
    let milliseconds = 1e3 * mean(&|d| d.seconds);
    let _ = write!(table, "| {name} | {passes:.0} | {milliseconds:.0} |");
    for wanted in groups {
        let of = drawn.iter().filter(|(i, _)| group(&all[**i]) == *wanted);
        let right = |i: &usize, d: &Drawn| d.verdict.named(&all[*i].category);
        let pairs = of.map(|(i, d)| {
            let was = first.and_then(|first| first.get(i)).unwrap_or(d);
            (right(i, was), right(i, d))
        });
        let pairs: Vec<(bool, bool)> = pairs.collect();
        let mut share = Share::default();
        pairs.iter().for_each(|(_, right)| share.count(*right));
        let _ = match first {
            Some(_) => {
                let d = Difference::of(pairs);
                let percent = 100.0 * share.value();
                write!(table, " {percent:.1} ({:+.1} ± {:.1}) |", d.points, d.half)
            }
            None => write!(table, " {} |", share.percent()),
        };
    }
    let _ = match first {
        Some(_) => writeln!(table, " {:.1} |", mean(&|d| d.decibels.unwrap_or_default())),
        None => writeln!(table, " |"),
    };
}
