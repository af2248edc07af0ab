//! What fewer passes cost: one model, the same prompts and noise, drawn in many ways. The first way is the one that all
//! others are compared with.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kinglet_kernels::Cpu;
use kinglet_model::recipes::Guides;
use kinglet_model::{DrawOptions, Drawing, Model, ModelError, Picture, Sampler, Source};
use kinglet_quant::measure::psnr;
use serde::Deserialize;

use crate::draw;
use crate::judge::Judge;
use crate::program::{Result, data_error};
use crate::share::Share;
use crate::table::paired::Difference;
use crate::table::work::on_all_cores;

/// A way to draw; what is left out is the model's own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Way {
    /// What it is called in the table.
    pub name: String,
    steps: Option<usize>,
    sampler: Option<String>,
    shift: Option<f32>,
    guidance: Option<f32>,
    /// Guidance where low < t <= high.
    interval: Option<(f32, f32)>,
    /// Guidance anew every so many velocities.
    every: Option<usize>,
    /// TaylorSeer with derivatives up to this one.
    predict: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    way: Vec<Way>,
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model.
    pub model: PathBuf,
    /// The ways.
    pub ways: PathBuf,
    /// Drawings.
    pub drawings: usize,
    /// Where the drawings of each way are kept.
    pub folder: PathBuf,
}

/// One drawing.
struct Drawn {
    prompt: usize,
    right: [bool; 3],
    decibels: f64,
    passes: usize,
    seconds: f64,
}

impl Way {
    fn options(&self, model: &Model<Cpu>) -> std::result::Result<DrawOptions, String> {
        let mut options = DrawOptions::defaults(&model.config);
        if let Some(steps) = self.steps {
            options.timesteps = steps + 1;
        }
        if let Some(name) = &self.sampler {
            options.sampler =
                Sampler::from_name(name).ok_or(format!("the sampler {name} is not known"))?;
        }
        options.shift = self.shift.unwrap_or(options.shift);
        let guidance = &mut options.guidance;
        guidance.text_scale = self.guidance.unwrap_or(guidance.text_scale);
        guidance.interval = self.interval.unwrap_or(guidance.interval);
        guidance.every = self.every.unwrap_or(guidance.every);
        options.predict = self.predict;
        options.check(&model.config).map_err(|e| e.to_string())?;
        Ok(options)
    }
}

fn read(path: &Path) -> Result<Vec<Way>> {
    let text = std::fs::read_to_string(path).map_err(|e| data_error(path, e))?;
    let file: File = toml::from_str(&text).map_err(|e| data_error(path, e))?;
    Ok(file.way)
}

/// Draws in every way and returns the table; it is also written into the folder after every way.
///
/// # Errors
/// [`crate::EvalError`] if a way cannot be read or drawn.
pub fn run(options: &Options) -> Result<String> {
    let model = Model::on_cpu(&Source::open(&options.model)?)?;
    let judges = [Judge::open("strict")?, Judge::open("plain")?];
    let numbers: Vec<usize> = (0..options.drawings).collect();
    let mut table = "| | passes | ms a drawing | strict | plain | colour | PSNR |\n\
                     |---|---|---|---|---|---|---|\n"
        .to_owned();
    let mut first: Option<(PathBuf, Vec<Drawn>)> = None;
    for way in read(&options.ways)? {
        let settings = way
            .options(&model)
            .map_err(|e| data_error(&options.ways, format!("{}: {e}", way.name)))?;
        let folder = options.folder.join(crate::table::variants::slug(&way.name));
        std::fs::create_dir_all(&folder).map_err(|e| data_error(&folder, e))?;
        let originals = first.as_ref().map(|(folder, _)| folder.as_path());
        let mut drawn = on_all_cores(&way.name, &numbers, |i| {
            one(&model, &settings, &judges, i, &folder, originals)
        })?;
        drawn.sort_by_key(|d| d.prompt);
        row(
            &mut table,
            &way.name,
            &drawn,
            first.as_ref().map(|(_, d)| &d[..]),
        );
        let page = options.folder.join("steps.md");
        std::fs::write(&page, &table).map_err(|e| data_error(&page, e))?;
        first.get_or_insert((folder, drawn));
    }
    let _ = writeln!(table, "\n{} drawings each.", numbers.len());
    Ok(table)
}

fn one(
    model: &Arc<Model<Cpu>>,
    settings: &DrawOptions,
    [strict, plain]: &[Judge; 2],
    number: usize,
    folder: &Path,
    originals: Option<&Path>,
) -> Result<Drawn> {
    let (prompt, name, colour) = draw::prompt(number);
    let mut settings = settings.clone();
    settings.seed = number as u64;
    let start = Instant::now();
    let (picture, passes) = drawing(model, &prompt, &settings)?;
    let seconds = start.elapsed().as_secs_f64();
    let file = format!("{number:04}.png");
    let path = folder.join(&file);
    std::fs::write(&path, picture.to_png()?).map_err(|e| data_error(&path, e))?;
    let decibels = match originals {
        Some(folder) => {
            let path = folder.join(&file);
            let bytes = std::fs::read(&path).map_err(|e| data_error(&path, e))?;
            psnr(&picture, &Picture::decode(&bytes)?)
        }
        None => f64::INFINITY,
    };
    let (rgb, width, height) = (picture.rgb(), picture.width(), picture.height());
    Ok(Drawn {
        prompt: number,
        right: [
            strict.name(rgb, width, height)? == Some(name),
            plain.name(rgb, width, height)? == Some(name),
            draw::border_colour(rgb, width, height) == colour,
        ],
        decibels,
        passes,
        seconds,
    })
}

fn drawing(
    model: &Arc<Model<Cpu>>,
    prompt: &str,
    settings: &DrawOptions,
) -> std::result::Result<(Picture, usize), ModelError> {
    let guides = Guides::to_draw(model, prompt, false)?;
    let mut drawing = Drawing::new(&guides, settings)?;
    drawing.run(&mut |_| ControlFlow::Continue(()))?;
    Ok((drawing.picture()?, drawing.passes()))
}

/// A way's shares, for all but the first with how far they are from the first one's and half of the paired 95 %
/// interval.
fn row(table: &mut String, name: &str, drawn: &[Drawn], first: Option<&[Drawn]>) {
    let count = drawn.len().max(1) as f64;
    let mean = |of: &dyn Fn(&Drawn) -> f64| drawn.iter().map(of).sum::<f64>() / count;
    let _ = write!(
        table,
        "| {name} | {:.0} | {:.0} |",
        mean(&|d| d.passes as f64),
        1e3 * mean(&|d| d.seconds)
    );
    for judge in 0..3 {
        let mut share = Share::default();
        drawn.iter().for_each(|d| share.count(d.right[judge]));
        let percent = 100.0 * share.value();
        let _ = match first {
            Some(first) => {
                let pairs = first.iter().zip(drawn);
                let d = Difference::of(pairs.map(|(a, b)| (a.right[judge], b.right[judge])));
                write!(table, " {percent:.1} ({:+.1} ± {:.1}) |", d.points, d.half)
            }
            None => {
                let (low, high) = share.interval();
                write!(
                    table,
                    " {percent:.1} ({:.1} to {:.1}) |",
                    100.0 * low,
                    100.0 * high
                )
            }
        };
    }
    let _ = match first {
        Some(_) => writeln!(table, " {:.1} |", mean(&|d| d.decibels)),
        None => writeln!(table, " |"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_of_this_crate_can_be_drawn() {
        let model = Source::open(&crate::data("../../runtime/assets/kinglet-tiny.gguf")).unwrap();
        let model = Model::on_cpu(&model).unwrap();
        let ways = read(&crate::data("steps.toml")).unwrap();
        assert!(ways.len() > 10);
        for way in ways {
            way.options(&model).unwrap();
        }
    }
}
