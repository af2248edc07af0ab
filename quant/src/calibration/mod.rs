//! Watching the source model at work, to learn what matters to it.

mod recorder;
pub mod scenes;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use kinglet_kernels::{Cpu, Device};
use kinglet_model::recipes::Guides;
use kinglet_model::{DrawOptions, Drawing, Model, Picture, Source, WriteOptions};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{QuantError, Result};
use crate::passes::depth::{DepthScores, Watcher};
use crate::passes::tensor;
use crate::plan::Part;
use recorder::{Record, Recorder, Samples};
use scenes::{Half, Scene, scenes};

/// `[calibration]`: what the model is watched on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calibrate {
    /// How many drawings, each with a question about it.
    pub count: usize,
    /// Points in time of a drawing, the end included.
    pub timesteps: usize,
    /// Where noise and prompts come from.
    pub seed: u64,
    /// What to draw; none: objects on coloured backgrounds. Where there are four or more, every
    /// fourth is kept for the report.
    pub prompts: Vec<String>,
    /// A folder of pictures to look at (PNG, JPEG, WebP; every fourth is kept for the report);
    /// none: the model's own drawings.
    pub scenes: Option<PathBuf>,
    /// The most tokens of a layer that routers are trained on.
    pub tokens: usize,
}

impl Default for Calibrate {
    fn default() -> Self {
        Calibrate {
            count: 24,
            timesteps: 9,
            seed: 0,
            prompts: Vec::new(),
            scenes: None,
            tokens: 4096,
        }
    }
}

/// The most tokens of an answer to a question.
const ANSWER_TOKENS: usize = 24;

impl Calibrate {
    /// Refuses what cannot be, and finds the scenes of one half.
    ///
    /// # Errors
    /// [`QuantError::Recipe`], or [`QuantError::Data`] if the folder of pictures cannot be used.
    pub fn scenes(&self, half: Half, count: usize) -> Result<Vec<Scene>> {
        let refuse =
            |key: &str, text: &str| Err(QuantError::Recipe(format!("[calibration] {key}: {text}")));
        if self.count == 0 {
            return refuse("count", "at least 1 drawing is needed");
        }
        if !(2..=1000).contains(&self.timesteps) {
            return refuse("timesteps", "2 to 1000 are accepted");
        }
        if self.tokens == 0 {
            return refuse("tokens", "at least 1 is needed");
        }
        scenes(
            half,
            self.seed,
            count,
            &self.prompts,
            self.scenes.as_deref(),
        )
    }
}

/// What was learnt. Everything is about the source's tensors, by their GGUF names.
#[derive(Debug, Clone, Default)]
pub struct Calibration {
    /// Scores of layers in understanding passes.
    pub understand: Option<DepthScores>,
    /// Scores of layers in passes with latents.
    pub generate: Option<DepthScores>,
    /// The mean square of what enters each column of a matrix: how much an error there matters.
    pub importance: BTreeMap<String, Vec<f32>>,
    /// The mean magnitude of what enters each column of a matrix.
    magnitudes: BTreeMap<String, Vec<f32>>,
    /// Rows that enter the generation branch's feed-forward networks, by layer, `[rows, hidden]`.
    inputs: BTreeMap<usize, Vec<f32>>,
    /// Nothing is to be read either: the passes only say what they refuse, and what shapes they make.
    rehearsal: bool,
}

/// What says which neurons matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Their mean magnitude while the source model is watched, times the length of their column.
    #[default]
    Calibrated,
    /// The weights alone: the length of a neuron's column times those of its rows. The model need not
    /// run, so a checkpoint that is larger than the memory will do.
    Magnitude,
}

impl Calibration {
    /// Nothing learnt: every score is zero, but for those that come from the weights alone.
    pub fn none() -> Self {
        Self::default()
    }

    /// Nothing learnt and nothing read: every score is zero.
    pub(crate) fn rehearsal() -> Self {
        Calibration {
            rehearsal: true,
            ..Self::default()
        }
    }

    /// The importance of each neuron of a feed-forward network `[gate, up, down]` by `score`.
    ///
    /// # Errors
    /// What decoding refuses.
    pub(crate) fn scores(&self, network: [&Part; 3], score: Score) -> Result<Vec<f32>> {
        let [gate, up, down] = network;
        match score {
            _ if self.rehearsal => Ok(vec![0.0; down.cols()]),
            Score::Calibrated => self.neurons(down),
            Score::Magnitude => {
                let mut scores = column_lengths(down)?;
                for rows in [gate, up] {
                    for (score, length) in scores.iter_mut().zip(row_lengths(rows)?) {
                        *score *= length;
                    }
                }
                Ok(scores.iter().map(|s| *s as f32).collect())
            }
        }
    }

    /// The importance of each neuron of a feed-forward network whose last matrix is `down`
    /// (docs/model.md, 4.2): its mean magnitude times the length of its column. Zeros if nothing
    /// was learnt about it.
    ///
    /// # Errors
    /// What decoding refuses.
    pub fn neurons(&self, down: &Part) -> Result<Vec<f32>> {
        let magnitudes = self.magnitudes.get(&down.name);
        let Some(magnitudes) = magnitudes.and_then(|m| down.of_columns(m)) else {
            return Ok(vec![0.0; down.cols()]);
        };
        let score = |(m, s): (&f32, f64)| (f64::from(*m) * s) as f32;
        Ok(magnitudes
            .iter()
            .zip(column_lengths(down)?)
            .map(score)
            .collect())
    }

    /// What enters the generation branch's feed-forward network of a layer, `[rows, hidden]`; empty
    /// if nothing was kept.
    pub fn inputs(&self, layer: usize) -> &[f32] {
        self.inputs.get(&layer).map_or(&[], Vec::as_slice)
    }

    /// A checksum of all that was learnt.
    pub(crate) fn digest(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        for scores in [&self.understand, &self.generate] {
            let all = scores.iter().flat_map(DepthScores::all);
            all.for_each(|score| hash.update(score.to_le_bytes()));
        }
        let mut put = |name: &str, values: &[f32]| {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|v| hash.update(v.to_le_bytes()));
        };
        for (name, values) in self.importance.iter().chain(&self.magnitudes) {
            put(name, values);
        }
        for (layer, values) in &self.inputs {
            put(&layer.to_string(), values);
        }
        hash.finalize().to_vec()
    }

    fn from_records(records: BTreeMap<Arc<str>, Record>, layers: usize) -> Self {
        let mut calibration = Calibration::default();
        for (name, record) in records {
            let mean = |sums: &[f64]| -> Vec<f32> {
                let rows = record.rows.max(1) as f64;
                sums.iter().map(|sum| (sum / rows) as f32).collect()
            };
            let name = name.to_string();
            let (squares, magnitudes) = (mean(&record.squares), mean(&record.magnitudes));
            calibration.magnitudes.insert(name.clone(), magnitudes);
            let layer = (0..layers).find(|l| name == tensor(*l, "ffn_gate", "_gen"));
            if let Some(layer) = layer.filter(|_| !record.sample.is_empty()) {
                calibration.inputs.insert(layer, record.sample);
            }
            calibration.importance.insert(name, squares);
        }
        calibration
    }
}

/// The Euclidean length of each column.
fn column_lengths(matrix: &Part) -> Result<Vec<f64>> {
    let mut squares = vec![0.0f64; matrix.cols()];
    let mut row = vec![0.0; matrix.cols()];
    let mut reader = matrix.reader()?;
    for i in 0..matrix.rows() {
        reader.read(i, &mut row)?;
        for (sum, v) in squares.iter_mut().zip(&row) {
            *sum += f64::from(*v).powi(2);
        }
    }
    matrix.give_back();
    Ok(squares.into_iter().map(f64::sqrt).collect())
}

/// The Euclidean length of each row.
fn row_lengths(matrix: &Part) -> Result<Vec<f64>> {
    let mut row = vec![0.0; matrix.cols()];
    let mut reader = matrix.reader()?;
    let mut lengths = Vec::with_capacity(matrix.rows());
    for i in 0..matrix.rows() {
        reader.read(i, &mut row)?;
        let squares: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
        lengths.push(squares.sqrt());
    }
    matrix.give_back();
    Ok(lengths)
}

/// Runs the source model: it draws every scene's prompt, looks at the drawing (or at the scene's
/// picture) and answers the question. `progress` gets the scenes that are done and all of them.
///
/// # Errors
/// [`QuantError`] if the model cannot be loaded, or the calibration's data not be read.
pub fn calibrate(
    source: &Source,
    asked: &Calibrate,
    keep_inputs: bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Calibration> {
    let scenes = asked.scenes(Half::Calibration, asked.count)?;
    // A drawing's step is two passes: with the prompt and without.
    let passes = 2 * scenes.len() * (asked.timesteps - 1);
    let samples = Samples {
        of: if keep_inputs { ".ffn_gate_gen." } else { "" }.to_owned(),
        each: asked.tokens.div_ceil(passes.max(1)),
        most: asked.tokens,
    };
    let recorder = Recorder::new(Cpu::from_environment()?, source, samples);
    let model = Model::load(source, recorder)?;
    let c = &model.config.language;
    let mut understand = Watcher::new(&model.device, c.hidden, c.blocks);
    let mut generate = Watcher::new(&model.device, c.hidden, c.blocks);
    let options = DrawOptions {
        timesteps: asked.timesteps,
        ..DrawOptions::defaults(&model.config)
    };
    for (done, scene) in scenes.iter().enumerate() {
        progress(done, scenes.len());
        let drawn = draw(&model, scene, &options, &mut generate)?;
        let picture = match &scene.picture {
            Some(path) => scenes::open(path)?,
            None => drawn,
        };
        answer(&model, &picture, &scene.question, &mut understand)?;
    }
    progress(scenes.len(), scenes.len());
    let scores = (understand.scores()?, generate.scores()?);
    let mut calibration = Calibration::from_records(model.device.take(), c.blocks);
    calibration.understand = Some(scores.0);
    calibration.generate = Some(scores.1);
    Ok(calibration)
}

fn draw<D: Device>(
    model: &Arc<Model<D>>,
    scene: &Scene,
    options: &DrawOptions,
    watcher: &mut Watcher<'_, D>,
) -> Result<Picture> {
    let guides = Guides::to_draw(model, &scene.prompt, false)?;
    let options = DrawOptions {
        seed: scene.seed,
        ..options.clone()
    };
    let mut drawing = Drawing::new(&guides, &options)?;
    for i in 0..options.steps() {
        let mut see = |stage, x: &D::Buffer| watcher.see(stage, x);
        drawing.observed_step(i, &mut Some(&mut see))?;
    }
    Ok(drawing.picture()?)
}

fn answer<D: Device>(
    model: &Arc<Model<D>>,
    picture: &Picture,
    question: &str,
    watcher: &mut Watcher<'_, D>,
) -> Result<()> {
    let t = &model.tokenizer;
    let resized = picture.resized(&model.config.vision.rule)?;
    let mut see = |stage, x: &D::Buffer| watcher.see(stage, x);
    let mut context = model.context();
    context.push_resized_image(&resized, &mut Some(&mut see))?;
    let ids = t.block(&t.encode_data(question)?);
    context.push_ids(&ids, &mut Some(&mut see))?;
    context.write(&WriteOptions::greedy(ANSWER_TOKENS), &mut |_| {
        ControlFlow::Continue(())
    })?;
    Ok(())
}
