//! Parts of a model that something else runs (an NPU): the vision encoder and the decoder of pictures, as
//! `compress --export-onnx` writes them.
//!
//! A graph has one size of picture. What has another size the model's own device computes, and everything once the
//! graph has failed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kinglet_kernels::{Device, FixedGraph};

use crate::error::{ModelError, Result};
use crate::model::Model;
use crate::observe::Observer;
use crate::picture::Picture;

/// The part of a model that a graph computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// A picture to the tokens that enter the language half.
    Vision,
    /// Latents to a picture.
    Decoder,
}

impl Part {
    /// Its name, as `--export-onnx` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Part::Vision => "vision",
            Part::Decoder => "vae-decoder",
        }
    }
}

/// The least likeness (cosine) of a graph's values to the model's own. Eight bits on an NPU stay well above it; another
/// model's graph does not come near.
const LEAST_LIKENESS: f64 = 0.97;

/// What a graph has done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Use {
    /// Runs.
    pub runs: u64,
    /// What had another size, and the device computed.
    pub other_sizes: u64,
    /// Why it is not used any more.
    pub failed: Option<String>,
}

struct Held {
    graph: Box<dyn FixedGraph>,
    /// Height and width of its pictures.
    size: (usize, usize),
    used: Use,
    /// What has been told: that it failed, that a picture had another size.
    told: [bool; 2],
}

impl Held {
    /// What has not been told yet, as a sentence.
    fn news(&mut self, part: Part) -> Option<String> {
        let part = part.name();
        if let Some(reason) = &self.used.failed
            && !std::mem::replace(&mut self.told[0], true)
        {
            return Some(format!(
                "the graph for {part} failed and is not used any more, the cores compute it: {reason}"
            ));
        }
        if self.used.other_sizes > 0 && !std::mem::replace(&mut self.told[1], true) {
            let (height, width) = self.size;
            return Some(format!(
                "the graph for {part} is for pictures of {width} x {height}; the cores compute those of other sizes"
            ));
        }
        None
    }
}

/// Where the graphs of a model wait.
#[derive(Default)]
pub(crate) struct Elsewhere {
    vision: Mutex<Option<Held>>,
    decoder: Mutex<Option<Held>>,
}

impl Elsewhere {
    fn of(&self, part: Part) -> MutexGuard<'_, Option<Held>> {
        let held = match part {
            Part::Vision => &self.vision,
            Part::Decoder => &self.decoder,
        };
        // A panic in a run leaves nothing half done: the graph is only asked.
        held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a part's graph if there is one for this size that still works.
    fn run(
        &self,
        part: Part,
        size: (usize, usize),
        input: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Option<Vec<f32>>> {
        let mut held = self.of(part);
        let Some(held) = held.as_mut().filter(|held| held.used.failed.is_none()) else {
            return Ok(None);
        };
        if held.size != size {
            held.used.other_sizes += 1;
            return Ok(None);
        }
        match checked_run(held.graph.as_mut(), &input()?) {
            Ok(values) => {
                held.used.runs += 1;
                Ok(Some(values))
            }
            Err(reason) => {
                held.used.failed = Some(reason);
                Ok(None)
            }
        }
    }
}

/// A run whose values are as many as there should be, and numbers.
fn checked_run(graph: &mut dyn FixedGraph, input: &[f32]) -> std::result::Result<Vec<f32>, String> {
    let values = graph.run(input).map_err(|e| e.to_string())?;
    let expected = graph.output().values();
    if values.len() != expected {
        return Err(format!("it gave {} values, not {expected}", values.len()));
    }
    if values.iter().any(|v| !v.is_finite()) {
        return Err("it gave values that are no numbers".to_owned());
    }
    Ok(values)
}

fn likeness(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// Pixel by pixel to channel by channel.
fn planes(values: &[f32], channels: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for channel in 0..channels {
        out.extend(values.iter().skip(channel).step_by(channels));
    }
    out
}

/// Channel by channel to pixel by pixel.
fn interleaved(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    let mut out = Vec::with_capacity(values.len());
    for pixel in 0..pixels {
        out.extend((0..channels).map(|channel| values[channel * pixels + pixel]));
    }
    out
}

impl<D: Device> Model<D> {
    /// Lets a graph compute a part of this model from now on. It is run once beside the model's own device first.
    ///
    /// # Errors
    /// [`ModelError::Graph`] if its shapes are not those of this part, if it fails, or if its values are not those of
    /// this model; [`ModelError::CannotDraw`] for the decoder of a model without one.
    pub fn hand_over(&self, part: Part, mut graph: Box<dyn FixedGraph>) -> Result<()> {
        let refuse = |reason: String| ModelError::Graph {
            part: part.name(),
            reason,
        };
        let size = match part {
            Part::Vision => self.vision_size(graph.as_ref()),
            Part::Decoder => self.decoder_size(graph.as_ref())?,
        };
        let size = size.map_err(refuse)?;
        let (input, expected) = match part {
            Part::Vision => {
                let picture = sample(size)?;
                let expected = self.vision.see(&self.device, &picture, &mut None)?;
                let input = planes(&picture.normalised(), 3);
                (input, self.device.download(&expected)?)
            }
            Part::Decoder => {
                let c = &self.config.latent;
                let (height, width) = (size.0 / c.downsample, size.1 / c.downsample);
                let values: Vec<f32> = (0..height * width * c.channels).map(wave).collect();
                let latents = self.device.upload(&values, c.channels)?;
                let pixels = self.autoencoder()?;
                let pixels = pixels.decode(&self.device, &latents, height, width)?;
                let expected = planes(&self.device.download(&pixels)?, 3);
                (planes(&values, c.channels), expected)
            }
        };
        let values = checked_run(graph.as_mut(), &input).map_err(refuse)?;
        let alike = likeness(&values, &expected);
        // A likeness that is no number is refused, too.
        if !matches!(alike.partial_cmp(&LEAST_LIKENESS), Some(order) if order.is_ge()) {
            return Err(refuse(format!(
                "its values are not those of this model (likeness {alike:.3}; {LEAST_LIKENESS} are needed): is it another model's graph?"
            )));
        }
        *self.elsewhere.of(part) = Some(Held {
            graph,
            size,
            used: Use::default(),
            told: [false; 2],
        });
        Ok(())
    }

    /// What the graph of a part has done; none if there is none.
    #[must_use]
    pub fn handed_over(&self, part: Part) -> Option<Use> {
        self.elsewhere
            .of(part)
            .as_ref()
            .map(|held| held.used.clone())
    }

    /// What has become of the graphs, in sentences, each told once: one that failed, pictures of other sizes.
    pub fn graph_news(&self) -> Vec<String> {
        let news = |part| self.elsewhere.of(part).as_mut()?.news(part);
        [Part::Vision, Part::Decoder]
            .into_iter()
            .filter_map(news)
            .collect()
    }

    /// The rows of a picture that has already been resized: `[patches, hidden]`.
    pub(crate) fn see(
        &self,
        picture: &Picture,
        observer: &mut Observer<'_, D>,
    ) -> Result<D::Buffer> {
        let size = (picture.height(), picture.width());
        let input = || Ok(planes(&picture.normalised(), 3));
        match self.elsewhere.run(Part::Vision, size, input)? {
            Some(tokens) => Ok(self.device.upload(&tokens, self.config.language.hidden)?),
            None => self.vision.see(&self.device, picture, observer),
        }
    }

    /// The values of a picture of latents `[height * width, channels]`: `[pixels, 3]`, about -1..1.
    pub(crate) fn paint(
        &self,
        latents: &D::Buffer,
        height: usize,
        width: usize,
    ) -> Result<Vec<f32>> {
        let c = &self.config.latent;
        let size = (height * c.downsample, width * c.downsample);
        let input = || Ok(planes(&self.device.download(latents)?, c.channels));
        if let Some(picture) = self.elsewhere.run(Part::Decoder, size, input)? {
            return Ok(interleaved(&picture, 3));
        }
        let pixels = self
            .autoencoder()?
            .decode(&self.device, latents, height, width)?;
        Ok(self.device.download(&pixels)?)
    }

    fn vision_size(&self, graph: &dyn FixedGraph) -> std::result::Result<(usize, usize), String> {
        let c = &self.config.vision;
        let [1, 3, height, width] = graph.input().shape[..] else {
            return Err(format!(
                "it takes {:?}, not [1, 3, height, width]",
                graph.input().shape
            ));
        };
        let side = |pixels: usize| {
            let most = c.position_side * c.patch;
            pixels > 0 && pixels.is_multiple_of(c.patch) && pixels <= most
        };
        if !side(height) || !side(width) {
            return Err(format!(
                "it takes pictures of {width} x {height}; this model sees multiples of {} up to {}",
                c.patch,
                c.position_side * c.patch
            ));
        }
        let tokens = height / c.patch * (width / c.patch);
        let expected = [1, tokens, self.config.language.hidden];
        if graph.output().shape != expected {
            return Err(format!(
                "it gives {:?}, not {expected:?}",
                graph.output().shape
            ));
        }
        Ok((height, width))
    }

    fn decoder_size(
        &self,
        graph: &dyn FixedGraph,
    ) -> Result<std::result::Result<(usize, usize), String>> {
        self.autoencoder()?;
        let c = &self.config.latent;
        let (input, output) = (&graph.input().shape, &graph.output().shape);
        let [1, channels, height, width] = input[..] else {
            return Ok(Err(format!(
                "it takes {input:?}, not [1, {}, height, width]",
                c.channels
            )));
        };
        let most = c.position_side * c.patch;
        if channels != c.channels || !(1..=most).contains(&height) || !(1..=most).contains(&width) {
            return Ok(Err(format!(
                "it takes {input:?}; this model has {} channels and sides up to {most}",
                c.channels
            )));
        }
        let size = (height * c.downsample, width * c.downsample);
        let expected = [1, 3, size.0, size.1];
        if output[..] != expected {
            return Ok(Err(format!("it gives {output:?}, not {expected:?}")));
        }
        Ok(Ok(size))
    }
}

/// Values between -1 and 1 that look like no pattern of a network.
fn wave(i: usize) -> f32 {
    (i as f32 * 0.37).sin() * (i as f32 * 0.011).cos()
}

/// A picture of such values.
fn sample((height, width): (usize, usize)) -> Result<Picture> {
    let values = (0..height * width * 3).map(|i| (wave(i) * 127.0 + 128.0) as u8);
    Picture::from_rgb(width, height, values.collect())
}
