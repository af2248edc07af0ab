//! A context that only grows.

use std::ops::ControlFlow;
use std::sync::Arc;

use kinglet_kernels::{Device, Mask};

use crate::error::{ModelError, Result};
use crate::language::{Caches, KeysValues, Rows};
use crate::model::Model;
use crate::observe::Observer;
use crate::picture::Picture;

/// Keys and values of everything pushed so far, and the next position. Forks share what they have
/// in common.
pub struct Context<D: Device> {
    model: Arc<Model<D>>,
    caches: Caches<D>,
    tokens: usize,
    position: u32,
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

    /// Tokens in the cache.
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
        let (rows, new) = self.run(rows, &positions, Mask::Causal, observer)?;
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
        let patches = model.vision.see(d, picture, observer)?;
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
        let (rows, new) = self.run(rows, &positions, Mask::Full, observer)?;
        self.append(new, tokens, 1)?;
        Ok(rows.understanding)
    }

    /// Decodes a text, always taking the likeliest token, and appends it. `on_text` gets each new
    /// piece and may stop.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`] if `on_text` stopped it, [`ModelError::Request`] if the context is
    /// full.
    pub fn write(
        &mut self,
        max_tokens: usize,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Written> {
        let model = Arc::clone(&self.model);
        let tokenizer = &model.tokenizer;
        let mut fed = Vec::new();
        let mut shown = String::new();
        let mut token = tokenizer.text_start;
        let complete = loop {
            let rows = self.push_ids(&[token], &mut None)?;
            fed.push(token);
            let logits = model.language.logits(&model.device, &rows)?;
            token = likeliest(&model.device.download(&logits)?);
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
        let (rows, columns) = size;
        let model = &self.model;
        let (d, tokenizer) = (&model.device, &model.tokenizer);
        let places = model.latents.places(rows, columns)?;
        let latents = model.latents.embed(d, x, t, &places, observer)?;
        let markers = [tokenizer.picture_start, tokenizer.picture_end];
        let positions = self.picture_positions(places.len() + 2)?;
        let rows = Rows {
            understanding: model.language.embed(d, &markers)?,
            generation: Some(latents),
        };
        let (rows, _) = self.run(rows, &positions, Mask::Full, observer)?;
        match rows.generation {
            Some(rows) => model.latents.velocity(d, &rows),
            None => Ok(d.zeros(0, model.config.latent.token_values())?),
        }
    }

    fn run(
        &self,
        rows: Rows<D>,
        positions: &[u32],
        mask: Mask,
        observer: &mut Observer<'_, D>,
    ) -> Result<(Rows<D>, Vec<KeysValues<D>>)> {
        let model = &self.model;
        let language = &model.language;
        language.forward(&model.device, rows, positions, mask, &self.caches, observer)
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
        for (runs, (k, v)) in self.caches.iter_mut().zip(new) {
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

/// The index of the largest logit; the first of equals.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}
