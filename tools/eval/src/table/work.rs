//! Makes a variant, lets it look and draw, keeps what came out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kinglet_kernels::Cpu;
use kinglet_model::recipes::Guides;
use kinglet_model::{DrawOptions, Drawing, Model, Picture, Source, WriteOptions};
use kinglet_quant::measure::psnr;
use kinglet_quant::{Recipe, compress};
use serde::{Deserialize, Serialize};

use super::Options;
use super::variants::Variant;
use crate::draw;
use crate::judge::Judge;
use crate::program::{EvalError, Result, data_error};
use crate::see::{self, Scene};

/// The most tokens of an answer.
const ANSWER_TOKENS: usize = 24;

/// What was measured with a variant.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// What it is.
    pub made: Made,
    /// What it saw, by the number of the scene.
    pub looks: BTreeMap<usize, Look>,
    /// What it drew, by the number of the prompt.
    pub drawings: BTreeMap<usize, Drawn>,
}

/// How a variant was made: another recipe, source or number of steps is another variant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Made {
    source: PathBuf,
    recipe: String,
    steps: Option<usize>,
    /// Bytes of its tensors.
    pub bytes: usize,
    /// Values in them.
    pub values: usize,
}

/// What a variant said about a scene.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Look {
    scene: usize,
    /// Objects in the scene.
    pub objects: usize,
    /// All of them, and nothing else, were named.
    pub named: bool,
    /// They were counted right.
    pub counted: bool,
    /// The background's colour was.
    pub background: bool,
}

/// What the referees said about a drawing.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Drawn {
    prompt: usize,
    /// The strict referee names the object.
    pub strict: bool,
    /// The plain one does.
    pub plain: bool,
    /// The border has the colour.
    pub background: bool,
    /// Against the source's drawing from the same noise, in decibels.
    pub psnr: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Made(Made),
    Look(Look),
    Drawing(Drawn),
}

/// Measures what is missing of a variant.
///
/// # Errors
/// [`EvalError`] if it cannot be made or run.
pub fn measure(options: &Options, variant: &Variant) -> Result<Results> {
    let name = variant.file_name();
    let file = options.folder.join("results").join(format!("{name}.jsonl"));
    let pictures = options.folder.join("pictures").join(&name);
    for folder in [file.parent().unwrap_or(&file), &pictures] {
        std::fs::create_dir_all(folder).map_err(|e| data_error(folder, e))?;
    }
    let mut results = read(&file)?;
    let wanted = Made {
        source: options.source.clone(),
        recipe: variant.recipe.clone(),
        steps: options.steps,
        ..results.made
    };
    let scenes = see::scenes(&options.scenes)?;
    let looks: Vec<usize> = (0..scenes.len().min(options.looks)).collect();
    let drawings: Vec<usize> = (0..options.drawings).collect();
    let same = results.made == wanted;
    if same
        && looks.iter().all(|i| results.looks.contains_key(i))
        && drawings.iter().all(|i| results.drawings.contains_key(i))
    {
        return Ok(results);
    }
    if !same {
        results = Results::default();
    }
    let path = make(options, variant, &name)?;
    let source = Source::open(&path)?;
    let mut kept = OpenOptions::new();
    kept.create(true).append(same).write(true).truncate(!same);
    let kept = Mutex::new(kept.open(&file).map_err(|e| data_error(&file, e))?);
    if !same {
        results.made = Made {
            bytes: source.tensors.values().map(|t| t.bytes.len()).sum(),
            values: source.tensors.values().map(|t| t.values()).sum(),
            ..wanted
        };
        keep(&kept, &file, &Line::Made(results.made.clone()))?;
    }
    let run = Run {
        model: Model::on_cpu(&source)?,
        strict: Judge::open("strict")?,
        plain: Judge::open("plain")?,
        steps: options.steps,
        pictures,
        originals: (!variant.is_source()).then(|| options.folder.join("pictures/source")),
    };
    let missing: Vec<usize> = looks
        .into_iter()
        .filter(|i| !results.looks.contains_key(i))
        .collect();
    let new = on_all_cores(&format!("{name}: looks"), &missing, |i| {
        let look = run.look(i, &scenes[i], &options.scenes)?;
        keep(&kept, &file, &Line::Look(look))?;
        Ok(look)
    })?;
    results.looks.extend(new.into_iter().map(|l| (l.scene, l)));
    let missing: Vec<usize> = drawings
        .into_iter()
        .filter(|i| !results.drawings.contains_key(i))
        .collect();
    let new = on_all_cores(&format!("{name}: drawings"), &missing, |i| {
        let drawn = run.draw(i)?;
        keep(&kept, &file, &Line::Drawing(drawn))?;
        Ok(drawn)
    })?;
    results
        .drawings
        .extend(new.into_iter().map(|d| (d.prompt, d)));
    Ok(results)
}

/// The container of a variant, made if it is not there.
fn make(options: &Options, variant: &Variant, name: &str) -> Result<PathBuf> {
    if variant.is_source() {
        return Ok(options.source.clone());
    }
    let folder = options.folder.join("containers");
    std::fs::create_dir_all(&folder).map_err(|e| data_error(&folder, e))?;
    let path = folder.join(format!("{name}.gguf"));
    // An old container of this name may be of another recipe; making one takes a minute at most.
    let recipe = Recipe::parse(&variant.recipe)?;
    let source = Source::open(&options.source)?;
    eprintln!("{name}: compressing");
    compress(
        &source,
        &recipe,
        &path,
        &kinglet_quant::Options::default(),
        &mut |_, _, _| {},
    )?;
    Ok(path)
}

/// What is kept in a file of results; a last line that was cut off is left out.
fn read(file: &Path) -> Result<Results> {
    let mut results = Results::default();
    let Ok(opened) = File::open(file) else {
        return Ok(results);
    };
    for line in BufReader::new(opened).lines() {
        let line = line.map_err(|e| data_error(file, e))?;
        match serde_json::from_str(&line) {
            Ok(Line::Made(made)) => results.made = made,
            Ok(Line::Look(look)) => {
                results.looks.insert(look.scene, look);
            }
            Ok(Line::Drawing(drawn)) => {
                results.drawings.insert(drawn.prompt, drawn);
            }
            Err(_) => break,
        }
    }
    Ok(results)
}

fn keep(kept: &Mutex<File>, path: &Path, line: &Line) -> Result<()> {
    let mut text = serde_json::to_string(line).map_err(|e| data_error(path, e))?;
    text.push('\n');
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.write_all(text.as_bytes())
        .map_err(|e| data_error(path, e))
}

/// Does the work of every number, one on each core: a small model gains more from that than from many
/// threads for one picture.
pub(crate) fn on_all_cores<T: Send>(
    what: &str,
    numbers: &[usize],
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|e| data_error(Path::new("a thread"), e))?;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(number) = numbers.get(i) else {
                return Ok(());
            };
            if i % 100 == 0 {
                eprintln!("{what}: {i} of {}", numbers.len());
            }
            match pool.install(|| work(*number)) {
                Ok(result) => done
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(result),
                Err(e) => {
                    // The others stop, too.
                    next.store(numbers.len(), Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker
                .join()
                .map_err(|_| data_error(Path::new("a thread"), "it panicked"))??;
        }
        Ok::<(), EvalError>(())
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A variant at work.
struct Run {
    model: Arc<Model<Cpu>>,
    strict: Judge,
    plain: Judge,
    steps: Option<usize>,
    /// Where its drawings are kept.
    pictures: PathBuf,
    /// Where the source's are; none if this is the source.
    originals: Option<PathBuf>,
}

impl Run {
    fn look(&self, number: usize, scene: &Scene, folder: &Path) -> Result<Look> {
        let mut context = self.model.context();
        context.push_image(&open(&folder.join(&scene.file))?)?;
        let ask = |question: &str| -> Result<String> {
            let mut context = context.fork();
            context.push_text(question)?;
            let options = WriteOptions::greedy(ANSWER_TOKENS);
            let written = context.write(&options, &mut |_| ControlFlow::Continue(()))?;
            Ok(written.text)
        };
        Ok(Look {
            scene: number,
            objects: scene.objects.len(),
            named: ask(see::NAMING)? == scene.what,
            counted: ask(see::COUNTING)? == scene.count,
            background: ask(see::BACKGROUND)? == scene.background,
        })
    }

    fn draw(&self, number: usize) -> Result<Drawn> {
        let (prompt, name, colour) = draw::prompt(number);
        let mut options = DrawOptions::defaults(&self.model.config);
        options.seed = number as u64;
        if let Some(steps) = self.steps {
            options.timesteps = steps + 1;
        }
        let guides = Guides::to_draw(&self.model, &prompt, false)?;
        let mut drawing = Drawing::new(&guides, &options)?;
        drawing.run(&mut |_| ControlFlow::Continue(()))?;
        let picture = drawing.picture()?;
        let file = format!("{number:04}.png");
        let path = self.pictures.join(&file);
        std::fs::write(&path, picture.to_png()?).map_err(|e| data_error(&path, e))?;
        let psnr = match &self.originals {
            Some(folder) => Some(psnr(&picture, &open(&folder.join(&file))?)),
            None => None,
        };
        let (rgb, width, height) = (picture.rgb(), picture.width(), picture.height());
        Ok(Drawn {
            prompt: number,
            strict: self.strict.name(rgb, width, height)? == Some(name),
            plain: self.plain.name(rgb, width, height)? == Some(name),
            background: draw::border_colour(rgb, width, height) == colour,
            psnr,
        })
    }
}

fn open(path: &Path) -> Result<Picture> {
    let bytes = std::fs::read(path).map_err(|e| data_error(path, e))?;
    Ok(Picture::decode(&bytes)?)
}
