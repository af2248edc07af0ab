//! Fewer tokens for a picture: learnt queries look at its patches, and what they find goes on in their place.
//!
//! After LLaVA-Mini (Zhang and others, 2025), with one difference: where that has layers of its own in which words see
//! all patches before these are compressed ("pre-fusion"), here the language half's first layers are those. Before
//! layer `from` a picture has all its patches, and from there on `count` tokens between its markers. All tokens of a
//! picture stand at one position, so that nothing else changes.

use kinglet_kernels::{AttentionShape, Device, Mask, Role};

use crate::config::{LanguageConfig, VisionTokens};
use crate::error::Result;
use crate::linear::{Linear, Loader};

/// Compresses the rows of a picture.
pub(crate) struct Resampler<D: Device> {
    pub(crate) config: VisionTokens,
    norm: D::Weight,
    queries: D::Weight,
    k: Linear<D>,
    v: Linear<D>,
    out: Linear<D>,
    shape: AttentionShape,
    epsilon: f32,
}

impl<D: Device> Resampler<D> {
    /// Loads it.
    ///
    /// # Errors
    /// [`crate::ModelError`] naming the tensor that does not fit.
    pub(crate) fn load(
        loader: Loader<'_, D>,
        config: VisionTokens,
        c: &LanguageConfig,
    ) -> Result<Self> {
        let hidden = c.hidden;
        let square = |part: &str| loader.linear_without_bias(part, hidden, hidden);
        Ok(Resampler {
            config,
            norm: loader.vector("mm.tokens.norm", hidden)?,
            queries: loader.weight(
                "mm.tokens.query.weight",
                &[config.count, hidden],
                Role::Table,
            )?,
            k: square("mm.tokens.attn_k")?,
            v: square("mm.tokens.attn_v")?,
            out: square("mm.tokens.attn_output")?,
            shape: AttentionShape {
                heads: c.heads,
                kv_heads: c.heads,
                head_dim: c.head_dim(),
                mask: Mask::Full,
            },
            epsilon: c.rms_epsilon,
        })
    }

    /// The rows of a picture between its markers, `[patches + 2, hidden]`, to `[count + 2, hidden]`.
    ///
    /// `softmax(Q (K n)^T / sqrt(head_dim)) V n` in heads, then `O`, where `n` is the RMS norm of the patches.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn apply(&self, d: &D, rows: &D::Buffer) -> Result<D::Buffer> {
        let (last, hidden) = (d.shape(rows).0.saturating_sub(1) as u32, d.shape(rows).1);
        let patches: Vec<u32> = (1..last).collect();
        let n = d.rms_norm(&d.gather_rows(rows, &patches)?, &self.norm, self.epsilon)?;
        let [k, v] = Linear::apply_all([&self.k, &self.v], d, &n)?;
        let places: Vec<u32> = (0..self.config.count as u32).collect();
        let q = d.embed(&self.queries, &places)?;
        let found = self
            .out
            .apply(d, &d.attention(&q, &[], &k, &v, self.shape)?)?;

        let mut out = d.zeros(self.config.count + 2, hidden)?;
        let markers = d.gather_rows(rows, &[0, last])?;
        d.scatter_rows(&mut out, &markers, &[0, self.config.count as u32 + 1])?;
        let places: Vec<u32> = (1..=self.config.count as u32).collect();
        d.scatter_rows(&mut out, &found, &places)?;
        Ok(out)
    }
}
