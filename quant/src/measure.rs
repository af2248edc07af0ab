//! How far the result is from the source, on scenes that the calibration has not seen.
//!
//! The source runs first and leaves what it did in memory (logits, a few latents, pictures), then
//! the result does the same work, so only one model is loaded at a time.

use std::ops::ControlFlow;
use std::sync::Arc;

use kinglet_kernels::{Cpu, Device};
use kinglet_model::recipes::Guides;
use kinglet_model::{DrawOptions, Drawing, Model, Picture, Source, WriteOptions};
use serde::Serialize;

use crate::calibration::scenes::{self, Scene};
use crate::error::Result;

/// The most tokens of an answer.
const ANSWER_TOKENS: usize = 24;
/// At most so many steps of a drawing are compared, evenly spaced.
const COMPARED_STEPS: usize = 8;
/// What two equal pictures count as, in decibels.
const EQUAL: f64 = 99.0;

/// How far the result is from the source.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Measures {
    /// Scenes.
    pub scenes: usize,
    /// Tokens of the source's answers; the result predicts the same ones.
    pub tokens: usize,
    /// Mean Kullback-Leibler divergence of its logits from the source's, in nats.
    pub divergence: f64,
    /// Share of tokens where both find the same token likeliest.
    pub agreement: f64,
    /// By time: the relative L2 distance of its velocities from the source's, at the source's
    /// latents, without guidance.
    pub velocities: Vec<(f64, f64)>,
    /// PSNR of its drawings against the source's from equal noise, in decibels, a drawing each.
    pub pictures: Vec<f64>,
    /// Steps of these drawings.
    pub steps: usize,
}

impl Measures {
    /// As long as they can be of so many scenes, if `number` is a long one.
    pub(crate) fn longest(scenes: usize, number: f64) -> Self {
        Measures {
            scenes,
            tokens: usize::MAX,
            divergence: number,
            agreement: number,
            velocities: vec![(number, number); COMPARED_STEPS],
            pictures: vec![number; scenes],
            steps: usize::MAX,
        }
    }
}

/// What the source did with a scene.
struct Done {
    picture: Picture,
    /// The source's answer, as it is fed to both models.
    answer: Vec<u32>,
    /// After each of its tokens, `[tokens, vocabulary]`.
    logits: Vec<f32>,
    /// Latents before a step, its time, and the velocity there.
    steps: Vec<(f32, Vec<f32>, Vec<f32>)>,
}

/// Runs both models on the scenes. `progress` gets the scenes that are done, of both, and all.
///
/// # Errors
/// [`crate::QuantError`] if a model cannot be loaded or a picture not be read.
pub fn measure(
    source: &Source,
    result: &Source,
    scenes: &[Scene],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measures> {
    // Both draw as the result does by default.
    let options = DrawOptions::defaults(&result.config);
    let all = 2 * scenes.len();
    let mut done = Vec::new();
    {
        let model = Model::load(source, Cpu::from_environment()?)?;
        for (i, scene) in scenes.iter().enumerate() {
            progress(i, all);
            done.push(run(&model, scene, &options)?);
        }
    }
    let model = Model::load(result, Cpu::from_environment()?)?;
    let mut measures = Measures {
        scenes: scenes.len(),
        steps: options.steps(),
        ..Measures::default()
    };
    let mut velocities: Vec<(f32, f64, f64)> = Vec::new();
    for (i, (scene, of_source)) in scenes.iter().zip(&done).enumerate() {
        progress(scenes.len() + i, all);
        compare(
            &model,
            scene,
            of_source,
            &options,
            &mut measures,
            &mut velocities,
        )?;
    }
    progress(all, all);
    let tokens = measures.tokens.max(1) as f64;
    measures.divergence /= tokens;
    measures.agreement /= tokens;
    measures.velocities = velocities
        .into_iter()
        .map(|(t, off, of)| (rounded(t), (off / of.max(f64::MIN_POSITIVE)).sqrt()))
        .collect();
    Ok(measures)
}

fn run<D: Device>(model: &Arc<Model<D>>, scene: &Scene, options: &DrawOptions) -> Result<Done> {
    let guides = Guides::to_draw(model, &scene.prompt, false)?;
    let options = seeded(options, scene);
    let mut drawing = Drawing::new(&guides, &options)?;
    let every = options.steps().div_ceil(COMPARED_STEPS);
    let mut steps = Vec::new();
    for i in 0..options.steps() {
        if i % every == 0 {
            let t = drawing.times()[i];
            let x = model.device.download(drawing.latents())?;
            let v = velocity(model, &guides, &options, &x, t)?;
            steps.push((t, x, v));
        }
        drawing.step(i)?;
    }
    let drawn = drawing.picture()?;
    let mut context = question(model, scene, &drawn)?;
    let options = WriteOptions::greedy(ANSWER_TOKENS);
    let text = context
        .write(&options, &mut |_| ControlFlow::Continue(()))?
        .text;
    let mut answer = vec![model.tokenizer.text_start];
    answer.extend(model.tokenizer.encode_data(&text)?);
    let logits = logits(model, scene, &drawn, &answer)?;
    Ok(Done {
        picture: drawn,
        answer,
        logits,
        steps,
    })
}

fn compare<D: Device>(
    model: &Arc<Model<D>>,
    scene: &Scene,
    of_source: &Done,
    options: &DrawOptions,
    measures: &mut Measures,
    velocities: &mut Vec<(f32, f64, f64)>,
) -> Result<()> {
    let guides = Guides::to_draw(model, &scene.prompt, false)?;
    let options = seeded(options, scene);
    velocities.resize(of_source.steps.len(), (0.0, 0.0, 0.0));
    for ((t, x, expected), (time, off, of)) in of_source.steps.iter().zip(velocities) {
        let got = velocity(model, &guides, &options, x, *t)?;
        *time = *t;
        for (a, b) in got.iter().zip(expected) {
            *off += f64::from(a - b).powi(2);
            *of += f64::from(*b).powi(2);
        }
    }
    let mut drawing = Drawing::new(&guides, &options)?;
    drawing.run(&mut |_| ControlFlow::Continue(()))?;
    measures
        .pictures
        .push(psnr(&drawing.picture()?, &of_source.picture));

    let mine = logits(model, scene, &of_source.picture, &of_source.answer)?;
    let vocabulary = model.config.language.vocabulary;
    let both = of_source
        .logits
        .chunks_exact(vocabulary)
        .zip(mine.chunks_exact(vocabulary));
    for (p, q) in both {
        measures.tokens += 1;
        measures.divergence += divergence(p, q);
        measures.agreement += f64::from(u8::from(likeliest(p) == likeliest(q)));
    }
    Ok(())
}

fn seeded(options: &DrawOptions, scene: &Scene) -> DrawOptions {
    DrawOptions {
        seed: scene.seed,
        ..options.clone()
    }
}

fn velocity<D: Device>(
    model: &Arc<Model<D>>,
    guides: &Guides<D>,
    options: &DrawOptions,
    x: &[f32],
    t: f32,
) -> Result<Vec<f32>> {
    let latent = &model.config.latent;
    let unit = latent.token_pixels();
    let grid = (options.size.1 / unit, options.size.0 / unit);
    let x = model.device.upload(x, latent.token_values())?;
    let v = guides.main.velocity(&x, t, grid, &mut None)?;
    Ok(model.device.download(&v)?)
}

/// The context of a scene's question about its picture, or about what was drawn.
fn question<D: Device>(
    model: &Arc<Model<D>>,
    scene: &Scene,
    drawn: &Picture,
) -> Result<kinglet_model::Context<D>> {
    let mut context = model.context();
    match &scene.picture {
        Some(path) => context.push_image(&scenes::open(path)?)?,
        None => context.push_image(drawn)?,
    }
    context.push_text(&scene.question)?;
    Ok(context)
}

/// The logits after each token of an answer.
fn logits<D: Device>(
    model: &Arc<Model<D>>,
    scene: &Scene,
    drawn: &Picture,
    answer: &[u32],
) -> Result<Vec<f32>> {
    let mut context = question(model, scene, drawn)?;
    let rows = context.push_ids(answer, &mut None)?;
    let logits = model.language.logits(&model.device, &rows)?;
    Ok(model.device.download(&logits)?)
}

/// `sum of p ln(p / q)` of the probabilities that two rows of logits give.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
        f64::from(largest) + sum.ln()
    };
    let (p_sum, q_sum) = (log_sum(p), log_sum(q));
    let terms = p.iter().zip(q).map(|(p, q)| {
        let (p, q) = (f64::from(*p) - p_sum, f64::from(*q) - q_sum);
        p.exp() * (p - q)
    });
    // Rounding may leave a hair below zero.
    terms.sum::<f64>().max(0.0)
}

fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best })
}

/// A time as a person reads it.
fn rounded(t: f32) -> f64 {
    (f64::from(t) * 1e6).round() / 1e6
}

/// The peak signal-to-noise ratio of two pictures of one size, in decibels.
pub fn psnr(a: &Picture, b: &Picture) -> f64 {
    let square = |(a, b): (&u8, &u8)| f64::from(i32::from(*a) - i32::from(*b)).powi(2);
    let sum: f64 = a.rgb().iter().zip(b.rgb()).map(square).sum();
    let mean = sum / a.rgb().len().max(1) as f64;
    if mean == 0.0 {
        return EQUAL;
    }
    (10.0 * (255.0f64.powi(2) / mean).log10()).min(EQUAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_do_not_diverge_and_others_do() {
        assert!(divergence(&[1.0, 2.0], &[3.0, 4.0]) < 1e-12);
        // p = (1/2, 1/2), q = (3/4, 1/4): ln(4/3) / 2 + ... = ln 2 - ln(3) / 2.
        let got = divergence(&[0.0, 0.0], &[3.0f32.ln(), 0.0]);
        assert!(
            (got - (2.0f64.ln() - 0.5 * 3.0f64.ln())).abs() < 1e-6,
            "{got}"
        );
        assert_eq!(likeliest(&[1.0, 3.0, 3.0]), Some(1));
    }

    #[test]
    fn pictures_are_compared_in_decibels() {
        let picture = |v: u8| Picture::from_rgb(1, 1, vec![v; 3]).unwrap();
        assert_eq!(psnr(&picture(9), &picture(9)), EQUAL);
        assert!(psnr(&picture(0), &picture(255)).abs() < 1e-9);
    }
}
