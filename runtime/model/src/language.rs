//! The language half: a decoder in which every token belongs to the understanding or to the
//! generation branch. All weights are a branch's own; only attention mixes them.

use std::sync::Arc;

use kinglet_kernels::{AttentionShape, Device, Mask};

use crate::config::{Config, LanguageConfig};
use crate::error::Result;
use crate::linear::{Linear, Loader};
use crate::names::GENERATION_SUFFIX;
use crate::observe::{Observer, Stage, show};

/// A feed-forward network: `down(silu(gate x) * up x)`.
struct FeedForward<D: Device> {
    gate: Linear<D>,
    up: Linear<D>,
    down: Linear<D>,
}

impl<D: Device> FeedForward<D> {
    fn load(
        loader: Loader<'_, D>,
        name: impl Fn(&str) -> String,
        c: &LanguageConfig,
    ) -> Result<Self> {
        let (inner, hidden) = (c.feed_forward, c.hidden);
        Ok(FeedForward {
            gate: loader.linear_without_bias(&name("ffn_gate"), inner, hidden)?,
            up: loader.linear_without_bias(&name("ffn_up"), inner, hidden)?,
            down: loader.linear_without_bias(&name("ffn_down"), hidden, inner)?,
        })
    }

    fn apply(&self, d: &D, x: &D::Buffer) -> Result<D::Buffer> {
        let mut inner = self.gate.apply(d, x)?;
        d.swiglu(&mut inner, &self.up.apply(d, x)?)?;
        self.down.apply(d, &inner)
    }
}

/// One branch's weights of a layer.
struct Branch<D: Device> {
    attention_norm: D::Weight,
    q: Linear<D>,
    k: Linear<D>,
    v: Linear<D>,
    q_norm: D::Weight,
    k_norm: D::Weight,
    out: Linear<D>,
    feed_forward_norm: D::Weight,
    feed_forward: FeedForward<D>,
}

impl<D: Device> Branch<D> {
    fn load(loader: Loader<'_, D>, layer: usize, suffix: &str, c: &LanguageConfig) -> Result<Self> {
        let name = |part: &str| format!("blk.{layer}.{part}{suffix}");
        let (hidden, kv, head) = (c.hidden, c.kv_width(), c.head_dim());
        Ok(Branch {
            attention_norm: loader.vector(&name("attn_norm"), hidden)?,
            q: loader.linear(&name("attn_q"), hidden, hidden)?,
            k: loader.linear(&name("attn_k"), kv, hidden)?,
            v: loader.linear(&name("attn_v"), kv, hidden)?,
            q_norm: loader.vector(&name("attn_q_norm"), head)?,
            k_norm: loader.vector(&name("attn_k_norm"), head)?,
            out: loader.linear_without_bias(&name("attn_output"), hidden, hidden)?,
            feed_forward_norm: loader.vector(&name("ffn_norm"), hidden)?,
            feed_forward: FeedForward::load(loader, name, c)?,
        })
    }
}

struct Layer<D: Device> {
    understanding: Branch<D>,
    generation: Branch<D>,
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

/// New keys and values of one layer.
pub type KeysValues<D> = (<D as Device>::Buffer, <D as Device>::Buffer);

/// All layers and what is before and after them.
pub struct Language<D: Device> {
    embeddings: D::Weight,
    layers: Vec<Layer<D>>,
    norm: D::Weight,
    norm_generation: D::Weight,
    head: Linear<D>,
    config: LanguageConfig,
}

impl<D: Device> Language<D> {
    /// Loads the language half.
    ///
    /// # Errors
    /// [`crate::ModelError`] naming the tensor that does not fit.
    pub fn load(loader: Loader<'_, D>, config: &Config) -> Result<Self> {
        let c = &config.language;
        let layer = |i| {
            Ok(Layer {
                understanding: Branch::load(loader, i, "", c)?,
                generation: Branch::load(loader, i, GENERATION_SUFFIX, c)?,
            })
        };
        Ok(Language {
            embeddings: loader.weight("token_embd.weight", &[c.vocabulary, c.hidden])?,
            layers: (0..c.blocks).map(layer).collect::<Result<_>>()?,
            norm: loader.vector("output_norm", c.hidden)?,
            norm_generation: loader.vector("output_norm_gen", c.hidden)?,
            head: loader.linear_without_bias("output", c.vocabulary, c.hidden)?,
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

    /// Runs a block through all layers, after what is in `past`. Returns the rows after the last
    /// norm, and every layer's keys and values of this block.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn forward(
        &self,
        d: &D,
        mut rows: Rows<D>,
        positions: &[u32],
        mask: Mask,
        past: &Caches<D>,
        observer: &mut Observer<'_, D>,
    ) -> Result<(Rows<D>, Vec<KeysValues<D>>)> {
        let order = Order::new(positions.len(), rows.generation.is_some());
        self.show(d, &order, Stage::LanguageInput, &rows, observer)?;
        let mut new = Vec::with_capacity(self.layers.len());
        for (i, (layer, past)) in self.layers.iter().zip(past).enumerate() {
            new.push(self.layer(d, layer, &order, &mut rows, positions, mask, past)?);
            self.show(d, &order, Stage::LanguageLayer(i), &rows, observer)?;
        }
        let norm = |x, w| d.rms_norm(x, w, self.config.rms_epsilon);
        let rows = Rows {
            understanding: norm(&rows.understanding, &self.norm)?,
            generation: match &rows.generation {
                Some(x) => Some(norm(x, &self.norm_generation)?),
                None => None,
            },
        };
        self.show(d, &order, Stage::LanguageOutput, &rows, observer)?;
        Ok((rows, new))
    }

    #[allow(clippy::too_many_arguments)] // One layer of one pass: all of it is needed.
    fn layer(
        &self,
        d: &D,
        layer: &Layer<D>,
        order: &Order,
        rows: &mut Rows<D>,
        positions: &[u32],
        mask: Mask,
        past: &[Arc<D::Cache>],
    ) -> Result<KeysValues<D>> {
        let c = &self.config;
        let project = |branch: &Branch<D>, x: &D::Buffer| -> Result<[D::Buffer; 3]> {
            let n = d.rms_norm(x, &branch.attention_norm, c.rms_epsilon)?;
            let q = branch.q.apply(d, &n)?;
            let k = branch.k.apply(d, &n)?;
            Ok([
                d.rms_norm(&q, &branch.q_norm, c.rms_epsilon)?,
                d.rms_norm(&k, &branch.k_norm, c.rms_epsilon)?,
                branch.v.apply(d, &n)?,
            ])
        };
        let [mut q, mut k, v] = match &rows.generation {
            None => project(&layer.understanding, &rows.understanding)?,
            Some(generation) => {
                let [q, k, v] = project(&layer.understanding, &rows.understanding)?;
                let [q2, k2, v2] = project(&layer.generation, generation)?;
                [
                    order.merge(d, &q, &q2)?,
                    order.merge(d, &k, &k2)?,
                    order.merge(d, &v, &v2)?,
                ]
            }
        };
        d.rope(&mut q, positions, c.head_dim(), c.rope_base)?;
        d.rope(&mut k, positions, c.head_dim(), c.rope_base)?;

        let shape = AttentionShape {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim(),
            mask,
        };
        let past: Vec<&D::Cache> = past.iter().map(|c| &**c).collect();
        let mixed = d.attention(&q, &past, &k, &v, shape)?;

        let finish = |branch: &Branch<D>, x: &mut D::Buffer, mixed: &D::Buffer| -> Result<()> {
            d.add(x, &branch.out.apply(d, mixed)?)?;
            let n = d.rms_norm(x, &branch.feed_forward_norm, c.rms_epsilon)?;
            d.add(x, &branch.feed_forward.apply(d, &n)?)?;
            Ok(())
        };
        match &mut rows.generation {
            None => finish(&layer.understanding, &mut rows.understanding, &mixed)?,
            Some(generation) => {
                let mine = d.gather_rows(&mixed, &order.understanding)?;
                finish(&layer.understanding, &mut rows.understanding, &mine)?;
                let mine = d.gather_rows(&mixed, &order.generation)?;
                finish(&layer.generation, generation, &mine)?;
            }
        }
        Ok((k, v))
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
