//! The language half: a decoder in which every token belongs to the understanding or to the
//! generation branch. All weights are a branch's own; only attention mixes them.

use std::sync::Arc;

use kinglet_kernels::{AttentionShape, Device, HeadNorms, Mask, Role};

use crate::config::{Config, LanguageConfig, LayerConfig, Part};
use crate::error::{ModelError, Result};
use crate::feed_forward::FeedForward;
use crate::linear::{Linear, Loader};
use crate::names::GENERATION_SUFFIX;
use crate::observe::{Observer, Stage, show};
use crate::resampler::Resampler;

/// A branch's attention and the norm before it.
struct Attention<D: Device> {
    norm: D::Weight,
    q: Linear<D>,
    k: Linear<D>,
    v: Linear<D>,
    q_norm: D::Weight,
    k_norm: D::Weight,
    out: Linear<D>,
}

impl<D: Device> Attention<D> {
    fn load(
        loader: Loader<'_, D>,
        name: impl Fn(&str) -> String,
        c: &LanguageConfig,
    ) -> Result<Self> {
        let (hidden, kv, head) = (c.hidden, c.kv_width(), c.head_dim());
        Ok(Attention {
            norm: loader.vector(&name("attn_norm"), hidden)?,
            q: loader.linear(&name("attn_q"), hidden, hidden)?,
            k: loader.linear(&name("attn_k"), kv, hidden)?,
            v: loader.linear(&name("attn_v"), kv, hidden)?,
            q_norm: loader.vector(&name("attn_q_norm"), head)?,
            k_norm: loader.vector(&name("attn_k_norm"), head)?,
            out: loader.linear_without_bias(&name("attn_output"), hidden, hidden)?,
        })
    }
}

/// One branch's weights of a layer. A part that the branch's own mode leaves out need not be stored.
struct Branch<D: Device> {
    attention: Option<Attention<D>>,
    feed_forward: Option<FeedForward<D>>,
}

impl<D: Device> Branch<D> {
    /// `left_out` says which parts the branch's own mode leaves out.
    fn load(
        loader: Loader<'_, D>,
        layer: usize,
        suffix: &str,
        c: &LanguageConfig,
        width: usize,
        left_out: impl Fn(Part) -> bool,
    ) -> Result<Self> {
        let name = |part: &str| format!("blk.{layer}.{part}{suffix}");
        let expected = |part: Part, norm: &str| {
            !left_out(part) || loader.has(&format!("{}.weight", name(norm)))
        };
        let attention = if expected(Part::Attention, "attn_norm") {
            Some(Attention::load(loader, name, c)?)
        } else {
            None
        };
        let feed_forward = if expected(Part::FeedForward, "ffn_norm") {
            let experts = c.layers[layer].experts;
            Some(FeedForward::load(loader, name, c, experts, width)?)
        } else {
            None
        };
        Ok(Branch {
            attention,
            feed_forward,
        })
    }
}

struct Layer<D: Device> {
    number: usize,
    understanding: Branch<D>,
    generation: Branch<D>,
    config: LayerConfig,
}

/// The markers of a picture in latents are the only rows that need understanding weights which the
/// understanding mode leaves out. Where these are not stored, the generation weights take their
/// place: an approximation that whoever made the container chose (docs/model.md, 4.1).
fn or<'a, T>(understanding: &'a Option<T>, generation: &'a Option<T>) -> Option<&'a T> {
    understanding.as_ref().or(generation.as_ref())
}

/// What kind of block runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// A text, or a token of one.
    Text,
    /// A picture to understand.
    Picture,
    /// A picture in latents: the only one with rows of the generation branch.
    Latents,
}

impl Block {
    fn mask(self) -> Mask {
        match self {
            Block::Text => Mask::Causal,
            Block::Picture | Block::Latents => Mask::Full,
        }
    }
}

/// The rows of a block, branch by branch. In a picture of latents the first and the last token (its
/// markers) belong to the understanding branch and those between to the generation branch; in every
/// other block all tokens belong to the understanding branch.
pub struct Rows<D: Device> {
    /// Rows of the understanding branch.
    pub understanding: D::Buffer,
    /// Rows of the generation branch, where the block has any.
    pub generation: Option<D::Buffer>,
}

/// Keys and values of every layer: runs of tokens, shared between forks of a context.
pub type Caches<D> = Vec<Vec<Arc<<D as Device>::Cache>>>;

/// New keys and values of one layer; none where its attention was left out.
pub type KeysValues<D> = Option<(<D as Device>::Buffer, <D as Device>::Buffer)>;

/// All layers and what is before and after them.
pub struct Language<D: Device> {
    embeddings: D::Weight,
    layers: Vec<Layer<D>>,
    norm: D::Weight,
    /// None if the model understands only.
    norm_generation: Option<D::Weight>,
    head: Linear<D>,
    /// Makes patches fewer; none if they stay.
    resampler: Option<Resampler<D>>,
    config: LanguageConfig,
}

impl<D: Device> Language<D> {
    /// Loads the language half.
    ///
    /// # Errors
    /// [`crate::ModelError`] naming the tensor that does not fit.
    pub fn load(loader: Loader<'_, D>, config: &Config) -> Result<Self> {
        let c = &config.language;
        let (understand, generate) = (c.widths_understand(), c.widths_generate());
        let layer = |i: usize| {
            let l = c.layers[i];
            Ok(Layer {
                number: i,
                config: l,
                understanding: Branch::load(loader, i, "", c, understand[i], |part| {
                    l.understands_without(part)
                })?,
                generation: Branch::load(loader, i, GENERATION_SUFFIX, c, generate[i], |part| {
                    !config.draws || l.generates_without(part)
                })?,
            })
        };
        Ok(Language {
            embeddings: loader.weight(
                "token_embd.weight",
                &[c.vocabulary, c.hidden],
                Role::Table,
            )?,
            layers: (0..c.blocks).map(layer).collect::<Result<_>>()?,
            norm: loader.vector("output_norm", c.hidden)?,
            norm_generation: match config.draws {
                true => Some(loader.vector("output_norm_gen", c.hidden)?),
                false => None,
            },
            head: loader.linear_without_bias("output", c.vocabulary, c.hidden)?,
            resampler: match config.vision.tokens {
                Some(tokens) => Some(Resampler::load(loader, tokens, c)?),
                None => None,
            },
            config: c.clone(),
        })
    }

    /// The embeddings of token ids: `[ids, hidden]`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn embed(&self, d: &D, ids: &[u32]) -> Result<D::Buffer> {
        Ok(d.embed(&self.embeddings, ids)?)
    }

    /// The logits of rows: `[rows, vocabulary]`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn logits(&self, d: &D, rows: &D::Buffer) -> Result<D::Buffer> {
        self.head.apply(d, rows)
    }

    /// Runs a block through all layers, after what is in `past`. Returns the rows before the last
    /// norm, and every layer's keys and values of this block. A picture that is to have fewer tokens gets them on the
    /// way.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn layers(
        &self,
        d: &D,
        mut rows: Rows<D>,
        block: Block,
        positions: &[u32],
        past: &Caches<D>,
        observer: &mut Observer<'_, D>,
    ) -> Result<(Rows<D>, Vec<KeysValues<D>>)> {
        let mut pass = Pass::new(positions, rows.generation.is_some(), block);
        self.show(d, &pass.order, Stage::LanguageInput, &rows, observer)?;
        let mut new = Vec::with_capacity(self.layers.len());
        for (i, (layer, past)) in self.layers.iter().zip(past).enumerate() {
            let resampler = self.resampler.as_ref().filter(|r| r.config.from == i);
            if let (Block::Picture, Some(resampler), [position, ..]) = (block, resampler, positions)
            {
                rows.understanding = resampler.apply(d, &rows.understanding)?;
                pass = Pass::new(&vec![*position; resampler.config.count + 2], false, block);
                self.show(d, &pass.order, Stage::PictureTokens, &rows, observer)?;
            }
            new.push(self.layer(d, layer, &pass, &mut rows, past, observer)?);
            self.show(d, &pass.order, Stage::LanguageLayer(i), &rows, observer)?;
        }
        Ok((rows, new))
    }

    /// The last norm, each branch with its own.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn norm(&self, d: &D, rows: &Rows<D>, observer: &mut Observer<'_, D>) -> Result<Rows<D>> {
        let generation = match &rows.generation {
            Some(x) => Some(self.norm_generation(d, x)?),
            None => None,
        };
        let rows = Rows {
            understanding: d.rms_norm(&rows.understanding, &self.norm, self.config.rms_epsilon)?,
            generation,
        };
        let (understanding, _) = d.shape(&rows.understanding);
        let generation = rows.generation.as_ref().map_or(0, |x| d.shape(x).0);
        let order = Order::new(understanding + generation, rows.generation.is_some());
        self.show(d, &order, Stage::LanguageOutput, &rows, observer)?;
        Ok(rows)
    }

    /// The last norm of rows of the generation branch.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn norm_generation(&self, d: &D, x: &D::Buffer) -> Result<D::Buffer> {
        let norm = self.norm_generation.as_ref();
        let norm = norm.ok_or_else(|| ModelError::cannot_draw("the model"))?;
        Ok(d.rms_norm(x, norm, self.config.rms_epsilon)?)
    }

    fn layer(
        &self,
        d: &D,
        layer: &Layer<D>,
        pass: &Pass,
        rows: &mut Rows<D>,
        past: &[Arc<D::Cache>],
        observer: &mut Observer<'_, D>,
    ) -> Result<KeysValues<D>> {
        let skip = match pass.block {
            Block::Text | Block::Picture => layer.config.skip_understand,
            Block::Latents => layer.config.skip_generate,
        };
        if skip == Some(Part::Block) {
            return Ok(None);
        }
        let new = if skip == Some(Part::Attention) {
            None
        } else {
            self.attention(d, layer, pass, rows, past)?
        };
        let stage = Stage::LanguageAttention(layer.number);
        self.show(d, &pass.order, stage, rows, observer)?;
        if skip != Some(Part::FeedForward) {
            let (mine, generation) = (&layer.understanding, &layer.generation.feed_forward);
            let epsilon = self.config.rms_epsilon;
            // Loading made sure that there is what a pass needs.
            if let Some(network) = or(&mine.feed_forward, generation) {
                let x = &mut rows.understanding;
                network.add_to(d, layer.number, epsilon, pass.block, x, observer)?;
            }
            if let (Some(x), Some(network)) = (&mut rows.generation, generation) {
                network.add_to(d, layer.number, epsilon, pass.block, x, observer)?;
            }
        }
        Ok(new)
    }

    /// Attention with its residual. Returns the keys and values of the block; none if there are no
    /// weights, which loading allows only where no pass needs them.
    fn attention(
        &self,
        d: &D,
        layer: &Layer<D>,
        pass: &Pass,
        rows: &mut Rows<D>,
        past: &[Arc<D::Cache>],
    ) -> Result<KeysValues<D>> {
        let generation = &layer.generation.attention;
        let Some(understanding) = or(&layer.understanding.attention, generation) else {
            return Ok(None);
        };
        let generation = generation.as_ref().unwrap_or(understanding);
        let c = &self.config;
        let order = &pass.order;
        let project =
            |a: &Attention<D>, x: &D::Buffer, positions: &[u32]| -> Result<[D::Buffer; 3]> {
                let n = d.rms_norm(x, &a.norm, c.rms_epsilon)?;
                let [q, k, v] = Linear::apply_all([&a.q, &a.k, &a.v], d, &n)?;
                let norms = HeadNorms {
                    q: &a.q_norm,
                    k: &a.k_norm,
                    eps: c.rms_epsilon,
                    head_dim: c.head_dim(),
                    theta: c.rope_base,
                };
                let (q, k) = d.turn_heads(&q, &k, norms, positions)?;
                Ok([q, k, v])
            };
        let Positions {
            understanding: ours,
            generation: theirs,
        } = &pass.positions;
        let [q, k, v] = match &rows.generation {
            None => project(understanding, &rows.understanding, ours)?,
            Some(latents) => {
                let [q, k, v] = project(understanding, &rows.understanding, ours)?;
                let [q2, k2, v2] = project(generation, latents, theirs)?;
                [
                    order.merge(d, &q, &q2)?,
                    order.merge(d, &k, &k2)?,
                    order.merge(d, &v, &v2)?,
                ]
            }
        };
        let shape = AttentionShape {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim(),
            mask: pass.block.mask(),
        };
        let past: Vec<&D::Cache> = past.iter().map(|c| &**c).collect();
        let mixed = d.attention(&q, &past, &k, &v, shape)?;
        match &mut rows.generation {
            None => {
                let out = understanding.out.apply(d, &mixed)?;
                d.add(&mut rows.understanding, &out)?;
            }
            Some(latents) => {
                let mine = d.gather_rows(&mixed, &order.understanding)?;
                let out = understanding.out.apply(d, &mine)?;
                d.add(&mut rows.understanding, &out)?;
                let mine = d.gather_rows(&mixed, &order.generation)?;
                d.add(latents, &generation.out.apply(d, &mine)?)?;
            }
        }
        Ok(Some((k, v)))
    }

    /// Shows the rows in the block's order.
    fn show(
        &self,
        d: &D,
        order: &Order,
        stage: Stage,
        rows: &Rows<D>,
        observer: &mut Observer<'_, D>,
    ) -> Result<()> {
        if observer.is_none() {
            return Ok(());
        }
        match &rows.generation {
            None => show::<D>(observer, stage, &rows.understanding),
            Some(generation) => {
                let merged = order.merge(d, &rows.understanding, generation)?;
                show::<D>(observer, stage, &merged);
            }
        }
        Ok(())
    }
}

/// What is the same in every layer of a pass.
struct Pass {
    order: Order,
    block: Block,
    positions: Positions,
}

impl Pass {
    fn new(positions: &[u32], latents: bool, block: Block) -> Self {
        let order = Order::new(positions.len(), latents);
        Pass {
            positions: Positions::of(&order, positions),
            order,
            block,
        }
    }
}

/// Where the rows of each branch stand for rotary embedding.
struct Positions {
    understanding: Vec<u32>,
    generation: Vec<u32>,
}

impl Positions {
    /// From those of the block's rows, in its order.
    fn of(order: &Order, all: &[u32]) -> Self {
        let of = |rows: &[u32]| {
            let found = rows.iter().filter_map(|row| all.get(*row as usize));
            found.copied().collect()
        };
        Positions {
            understanding: of(&order.understanding),
            generation: of(&order.generation),
        }
    }
}

/// Where the rows of each branch stand in their block.
struct Order {
    understanding: Vec<u32>,
    generation: Vec<u32>,
}

impl Order {
    fn new(tokens: usize, latents: bool) -> Self {
        let tokens = tokens as u32;
        if latents {
            Order {
                understanding: vec![0, tokens.saturating_sub(1)],
                generation: (1..tokens.saturating_sub(1)).collect(),
            }
        } else {
            Order {
                understanding: (0..tokens).collect(),
                generation: Vec::new(),
            }
        }
    }

    /// One matrix of both branches' rows, in the block's order.
    fn merge<D: Device>(
        &self,
        d: &D,
        understanding: &D::Buffer,
        generation: &D::Buffer,
    ) -> Result<D::Buffer> {
        let (_, cols) = d.shape(understanding);
        let mut merged = d.zeros(self.understanding.len() + self.generation.len(), cols)?;
        d.scatter_rows(&mut merged, understanding, &self.understanding)?;
        d.scatter_rows(&mut merged, generation, &self.generation)?;
        Ok(merged)
    }
}
