//! A context that only grows.

use std::ops::ControlFlow;
use std::sync::Arc;

use kinglet_kernels::Device;

use crate::answer::Constraint;
use crate::error::{ModelError, Result};
use crate::language::{Block, Caches, KeysValues, Rows};
use crate::model::Model;
use crate::observe::Observer;
use crate::picture::Picture;
use crate::sampling::{Sampler, normal};
use crate::taylor::Taylor;

pub use crate::sampling::Sampling;

/// Keys and values of everything pushed so far, and the next position. Forks share what they have
/// in common.
pub struct Context<D: Device> {
    model: Arc<Model<D>>,
    caches: Caches<D>,
    tokens: usize,
    position: u32,
}

/// How a text is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteOptions {
    /// The most tokens.
    pub max_tokens: usize,
    /// How tokens are drawn; none takes the likeliest.
    pub sampling: Option<Sampling>,
}

impl WriteOptions {
    /// Always the likeliest token, at most so many.
    pub fn greedy(max_tokens: usize) -> Self {
        WriteOptions {
            max_tokens,
            sampling: None,
        }
    }
}

/// A decoded text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text, without the tokens around it.
    pub text: String,
    /// Tokens that were decoded.
    pub tokens: usize,
    /// Whether the model ended it; false if the bound on tokens did.
    pub complete: bool,
}

impl<D: Device> Context<D> {
    pub(crate) fn new(model: Arc<Model<D>>) -> Self {
        Context {
            caches: vec![Vec::new(); model.config.language.blocks],
            model,
            tokens: 0,
            position: 0,
        }
    }

    /// The model it belongs to.
    pub fn model(&self) -> &Arc<Model<D>> {
        &self.model
    }

    /// Tokens in the last layer's cache.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The position of the next token.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Keys and values, layer by layer.
    pub fn caches(&self) -> &Caches<D> {
        &self.caches
    }

    /// A second context with the same past. Nothing is copied.
    pub fn fork(&self) -> Self {
        Context {
            model: Arc::clone(&self.model),
            caches: self.caches.clone(),
            tokens: self.tokens,
            position: self.position,
        }
    }

    /// Appends a text from outside as a block: special tokens in it stay plain text.
    ///
    /// # Errors
    /// [`ModelError::Request`] if it is too long.
    pub fn push_text(&mut self, text: &str) -> Result<()> {
        let ids = self.model.tokenizer.encode_data(text)?;
        let block = self.model.tokenizer.block(&ids);
        self.push_ids(&block, &mut None).map(drop)
    }

    /// Appends token ids, each seeing those before it. Returns the rows after the last norm.
    ///
    /// # Errors
    /// [`ModelError::Request`] if the context is full.
    pub fn push_ids(&mut self, ids: &[u32], observer: &mut Observer<'_, D>) -> Result<D::Buffer> {
        let positions = self.next_positions(ids.len())?;
        let model = Arc::clone(&self.model);
        let rows = Rows {
            understanding: model.language.embed(&model.device, ids)?,
            generation: None,
        };
        let (rows, new) = self.run(rows, Block::Text, &positions, observer)?;
        self.append(new, ids.len(), ids.len() as u32)?;
        Ok(rows.understanding)
    }

    /// Appends a picture to understand. It is resized by the vision encoder's rule.
    ///
    /// # Errors
    /// [`ModelError::Picture`] or [`ModelError::Request`].
    pub fn push_image(&mut self, picture: &Picture) -> Result<()> {
        let resized = picture.resized(&self.model.config.vision.rule)?;
        self.push_resized_image(&resized, &mut None).map(drop)
    }

    /// Appends a picture to understand as it is; its sides must be multiples of the patch.
    ///
    /// # Errors
    /// [`ModelError::Picture`] or [`ModelError::Request`].
    pub fn push_resized_image(
        &mut self,
        picture: &Picture,
        observer: &mut Observer<'_, D>,
    ) -> Result<D::Buffer> {
        let model = Arc::clone(&self.model);
        let (d, t) = (&model.device, &model.tokenizer);
        let patches = model.see(picture, observer)?;
        let (count, hidden) = d.shape(&patches);
        let tokens = count + 2;
        let markers = model.language.embed(d, &[t.picture_start, t.picture_end])?;
        let mut block = d.zeros(tokens, hidden)?;
        d.scatter_rows(&mut block, &markers, &[0, tokens as u32 - 1])?;
        let places: Vec<u32> = (1..=count as u32).collect();
        d.scatter_rows(&mut block, &patches, &places)?;

        let positions = self.picture_positions(tokens)?;
        let rows = Rows {
            understanding: block,
            generation: None,
        };
        let (rows, new) = self.run(rows, Block::Picture, &positions, observer)?;
        // As many as went in, unless they have become fewer.
        self.append(new, d.shape(&rows.understanding).0, 1)?;
        Ok(rows.understanding)
    }

    /// Appends a picture to edit: resized by the latents' rule, first in latents, then to
    /// understand. `seed` gives the noise of its encoding. Returns the resized picture, whose size
    /// is the result's.
    ///
    /// # Errors
    /// [`ModelError::Picture`] or [`ModelError::Request`].
    pub fn push_reference(&mut self, picture: &Picture, seed: u64) -> Result<Picture> {
        let latent = &self.model.config.latent;
        let resized = picture.resized(&latent.rule)?;
        let pixels = resized.width() / latent.downsample * (resized.height() / latent.downsample);
        let noise = normal(seed, pixels * latent.channels);
        self.push_latents(&resized, &noise, &mut None)?;
        self.push_image(&resized)?;
        Ok(resized)
    }

    /// Appends a picture in latents, at time 0. Its sides must be multiples of a token's; `noise`
    /// is `[latent pixels, channels]`.
    ///
    /// # Errors
    /// [`ModelError::Picture`] or [`ModelError::Request`]; what the device refuses.
    pub fn push_latents(
        &mut self,
        picture: &Picture,
        noise: &[f32],
        observer: &mut Observer<'_, D>,
    ) -> Result<()> {
        let model = Arc::clone(&self.model);
        let (d, latent) = (&model.device, &model.config.latent);
        let unit = latent.token_pixels();
        let (height, width) = (picture.height(), picture.width());
        if !height.is_multiple_of(unit) || !width.is_multiple_of(unit) {
            return Err(ModelError::Picture(format!(
                "a picture of {width} x {height} pixels cannot be cut into tokens of {unit}"
            )));
        }
        let (rows, columns) = (height / unit, width / unit);
        let pixels = d.upload(&picture.normalised(), 3)?;
        let moments = model.autoencoder()?.moments(d, &pixels, height, width)?;
        let noise = d.upload(noise, latent.channels)?;
        let latents = model.autoencoder()?.latents(d, &moments, Some(&noise))?;
        let tokens = model.latents()?.pack(d, &latents, rows, columns)?;
        let (rows_out, new) = self.latents_block(&tokens, 0.0, (rows, columns), observer)?;
        if observer.is_some() {
            model.language.norm(d, &rows_out, observer)?;
        }
        self.append(new, rows * columns + 2, 1)
    }

    /// Decodes a text and appends it. `on_text` gets each new piece and may stop.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`] if `on_text` stopped it, [`ModelError::Request`] if the context is
    /// full.
    pub fn write(
        &mut self,
        options: &WriteOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Written> {
        let choose = |sampler: &mut Sampler, logits: Vec<f32>| Ok(sampler.choose(&logits));
        self.write_with(
            options.max_tokens,
            options.sampling.as_ref(),
            choose,
            on_text,
        )
    }

    /// As [`Context::write`], with a constraint on the tokens, which bounds their number too. The
    /// text is always complete.
    ///
    /// # Errors
    /// As [`Context::write`]; what the constraint refuses.
    pub fn write_within(
        &mut self,
        constraint: &mut dyn Constraint,
        sampling: Option<&Sampling>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Written> {
        let longest = constraint.longest();
        // The start marker is fed too.
        self.next_positions(longest.saturating_add(1))?;
        let end = self.model.tokenizer.text_end;
        let choose = |sampler: &mut Sampler, mut logits: Vec<f32>| {
            constraint.mask(&mut logits)?;
            let token = sampler.choose(&logits);
            if token != end {
                constraint.accept(token)?;
            }
            Ok(token)
        };
        let written = self.write_with(longest, sampling, choose, on_text)?;
        if written.complete {
            Ok(written)
        } else {
            let text = format!("an answer passed {longest} tokens; this is a bug of Kinglet");
            Err(ModelError::Schema(text))
        }
    }

    fn write_with(
        &mut self,
        max_tokens: usize,
        sampling: Option<&Sampling>,
        mut choose: impl FnMut(&mut Sampler, Vec<f32>) -> Result<u32>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Written> {
        let mut sampler = Sampler::new(sampling)?;
        let model = Arc::clone(&self.model);
        let tokenizer = &model.tokenizer;
        let mut fed = Vec::new();
        let mut shown = String::new();
        let mut token = tokenizer.text_start;
        let complete = loop {
            let rows = self.push_ids(&[token], &mut None)?;
            fed.push(token);
            let logits = model.language.logits(&model.device, &rows)?;
            token = choose(&mut sampler, model.device.download(&logits)?)?;
            if token == tokenizer.text_end {
                break true;
            }
            if fed.len() > max_tokens {
                break false;
            }
            // A token may end inside a character: decode all, show what has become certain.
            let mut pending = fed[1..].to_vec();
            pending.push(token);
            let text = tokenizer.decode(&pending)?;
            if let Some(new) = text.strip_prefix(&shown)
                && !new.ends_with(char::REPLACEMENT_CHARACTER)
            {
                if on_text(new).is_break() {
                    return Err(ModelError::Cancelled);
                }
                shown = text;
            }
        };
        Ok(Written {
            text: tokenizer.decode(&fed[1..])?,
            tokens: fed.len() - 1,
            complete,
        })
    }

    /// The velocity of latent tokens `x` at time `t` in this context, `[tokens, values]`. The
    /// context does not change.
    ///
    /// # Errors
    /// [`ModelError::Picture`] if the picture does not fit the position table.
    pub fn velocity(
        &self,
        x: &D::Buffer,
        t: f32,
        size: (usize, usize),
        observer: &mut Observer<'_, D>,
    ) -> Result<D::Buffer> {
        let (rows, _) = self.latents_block(x, t, size, observer)?;
        let rows = self
            .model
            .language
            .norm(&self.model.device, &rows, observer)?;
        self.velocity_of(rows.generation)
    }

    /// As [`Context::velocity`], with passes replaced by predictions.
    pub(crate) fn predicted_velocity(
        &self,
        x: &D::Buffer,
        t: f32,
        size: (usize, usize),
        taylor: &mut Taylor<D>,
    ) -> Result<D::Buffer> {
        let d = &self.model.device;
        let output = taylor.next(d, || {
            let (rows, _) = self.latents_block(x, t, size, &mut None)?;
            Ok(rows.generation.unwrap_or(rows.understanding))
        })?;
        let rows = self.model.language.norm_generation(d, &output)?;
        self.velocity_of(Some(rows))
    }

    fn velocity_of(&self, rows: Option<D::Buffer>) -> Result<D::Buffer> {
        let model = &self.model;
        match rows {
            Some(rows) => model.latents()?.velocity(&model.device, &rows),
            None => Ok(model.device.zeros(0, model.config.latent.token_values())?),
        }
    }

    /// Runs latent tokens between their markers: rows before the last norm, keys and values.
    #[allow(clippy::type_complexity)] // The pair that `Language::layers` returns.
    fn latents_block(
        &self,
        x: &D::Buffer,
        t: f32,
        (rows, columns): (usize, usize),
        observer: &mut Observer<'_, D>,
    ) -> Result<(Rows<D>, Vec<KeysValues<D>>)> {
        let model = &self.model;
        let (d, tokenizer) = (&model.device, &model.tokenizer);
        let places = model.latents()?.places(rows, columns)?;
        let latents = model.latents()?.embed(d, x, t, &places, observer)?;
        let markers = [tokenizer.picture_start, tokenizer.picture_end];
        let positions = self.picture_positions(places.len() + 2)?;
        let rows = Rows {
            understanding: model.language.embed(d, &markers)?,
            generation: Some(latents),
        };
        let language = &model.language;
        let (rows, new) =
            language.layers(d, rows, Block::Latents, &positions, &self.caches, observer)?;
        Ok((rows, new))
    }

    #[allow(clippy::type_complexity)] // The pair that `Language::layers` returns.
    fn run(
        &self,
        rows: Rows<D>,
        block: Block,
        positions: &[u32],
        observer: &mut Observer<'_, D>,
    ) -> Result<(Rows<D>, Vec<KeysValues<D>>)> {
        let (language, d) = (&self.model.language, &self.model.device);
        let (rows, new) = language.layers(d, rows, block, positions, &self.caches, observer)?;
        Ok((language.norm(d, &rows, observer)?, new))
    }

    fn next_positions(&self, tokens: usize) -> Result<Vec<u32>> {
        let end = self.position as usize + tokens;
        let limit = self.model.config.language.context_length;
        if end > limit {
            return Err(ModelError::Request {
                what: "the context",
                got: format!("{end} positions long"),
                expected: format!("this model has {limit}"),
            });
        }
        Ok((self.position..end as u32).collect())
    }

    /// All tokens of a picture, its markers too, stand at one position.
    fn picture_positions(&self, tokens: usize) -> Result<Vec<u32>> {
        self.next_positions(1).map(|p| vec![p[0]; tokens])
    }

    /// Keeps a block's keys and values: in the last run of a layer if nobody shares it, else in a
    /// new one.
    fn append(&mut self, new: Vec<KeysValues<D>>, tokens: usize, positions: u32) -> Result<()> {
        let d = &self.model.device;
        let width = self.model.config.language.kv_width();
        for (runs, new) in self.caches.iter_mut().zip(new) {
            // A layer whose attention was left out keeps nothing.
            let Some((k, v)) = new else { continue };
            match runs.last_mut().and_then(Arc::get_mut) {
                Some(run) => d.cache_append(run, &k, &v)?,
                None => {
                    let mut run = d.cache(width);
                    d.cache_append(&mut run, &k, &v)?;
                    runs.push(Arc::new(run));
                }
            }
        }
        self.tokens += tokens;
        self.position += positions;
        Ok(())
    }
}
