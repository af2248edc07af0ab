//! Makes a variant, lets it look and draw, keeps what came out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kinglet_model::{Model, Source};
use kinglet_quant::{Recipe, compress};
use serde_json::json;

use super::Options;
use super::variants::Variant;
use crate::drawings::{Drawn, Easel};
use crate::error::{Result, data_error};
use crate::judges::Judges;
use crate::kept;
use crate::prompts::{Wanted, first_of_each};
use crate::questions::{self, Scene};
use crate::way::Way;

/// What all variants see and draw.
pub struct Tasks {
    scenes: Vec<Scene>,
    looks: Vec<usize>,
    wanted: Vec<Wanted>,
    drawings: Vec<usize>,
    judges: Judges,
}

impl Tasks {
    /// Those of the options' folder.
    ///
    /// # Errors
    /// [`crate::EvalError`] if a file is not sound.
    pub fn of(options: &Options) -> Result<Self> {
        let scenes = questions::scenes(&options.scenes)?;
        let plain = |i: &usize| scenes[*i].condition == "plain";
        let looks = (0..scenes.len())
            .filter(plain)
            .take(options.looks)
            .collect();
        let wanted = crate::prompts::wanted(&options.scenes)?;
        let categories = wanted.iter().map(|w| &*w.category);
        Ok(Tasks {
            looks,
            drawings: first_of_each(categories, options.drawings),
            judges: Judges::open(&options.judges)?,
            scenes,
            wanted,
        })
    }
}

/// What was measured with a variant.
#[derive(Debug, Clone)]
pub struct Results {
    /// Bytes of its tensors.
    pub bytes: usize,
    /// Values in them.
    pub values: usize,
    /// What it saw, by the number of the scene: for every question its ability and whether it was answered right.
    pub looks: BTreeMap<usize, Vec<(String, bool)>>,
    /// What it drew, by the number of the prompt, with its category.
    pub drawings: BTreeMap<usize, (String, Drawn)>,
}

/// Measures what is missing of a variant.
///
/// # Errors
/// [`crate::EvalError`] if it cannot be made or run.
pub fn measure(options: &Options, tasks: &Tasks, variant: &Variant) -> Result<Results> {
    let name = variant.file_name();
    let path = made(options, variant, &name)?;
    let source = Source::open(&path)?;
    let model = Model::on_cpu(&source)?;
    let looks = kept::results(
        &format!("{name}: looks"),
        &options.folder.join("looks").join(format!("{name}.jsonl")),
        &json!([
            kept::identity(&path),
            kept::identity(&options.scenes.join("truth.json"))
        ]),
        &tasks.looks,
        |i| questions::right(&model, &tasks.scenes[i], &options.scenes),
    )?;
    let originals = options.folder.join("drawings/source");
    let way = Way::in_steps(options.steps);
    let easel = Easel {
        model,
        file: &path,
        way: &way,
        scenes: &options.scenes,
        folder: options.folder.join("drawings").join(&name),
        originals: (!variant.is_source()).then_some(&originals),
    };
    let what = format!("{name}: drawings");
    let drawn = easel.draw(&what, &tasks.wanted, &tasks.drawings, &tasks.judges)?;
    let categories = drawn
        .into_iter()
        .map(|(i, d)| (i, (tasks.wanted[i].category.clone(), d)));
    Ok(Results {
        bytes: source.tensors.values().map(|t| t.bytes.len()).sum(),
        values: source.tensors.values().map(|t| t.values()).sum(),
        looks,
        drawings: categories.collect(),
    })
}

/// The container of a variant, made if it is not there or was made of something else.
fn made(options: &Options, variant: &Variant, name: &str) -> Result<PathBuf> {
    if variant.is_source() {
        return Ok(options.source.clone());
    }
    let folder = options.folder.join("containers");
    std::fs::create_dir_all(&folder).map_err(|e| data_error(&folder, e))?;
    let path = folder.join(format!("{name}.gguf"));
    let note = folder.join(format!("{name}.json"));
    let of = json!([kept::identity(&options.source), variant.recipe]).to_string();
    if path.exists() && std::fs::read_to_string(&note).is_ok_and(|text| text == of) {
        return Ok(path);
    }
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
    std::fs::write(&note, of).map_err(|e| data_error(&note, e))?;
    Ok(path)
}
