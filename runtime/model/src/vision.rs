//! The vision encoder: SigLIP on patches of one picture (NaViT), and the connector.

use kinglet_kernels::{AttentionShape, Device, Mask, Role};

use crate::config::Config;
use crate::error::{ModelError, Result};
use crate::linear::{Linear, Loader, Norm};
use crate::observe::{Observer, Stage, show};
use crate::picture::Picture;

struct Layer<D: Device> {
    attention_norm: Norm<D>,
    q: Linear<D>,
    k: Linear<D>,
    v: Linear<D>,
    out: Linear<D>,
    feed_forward_norm: Norm<D>,
    up: Linear<D>,
    down: Linear<D>,
}

/// Vision encoder and connector: a picture becomes rows for the language half.
pub struct Vision<D: Device> {
    patch_embedding: Linear<D>,
    positions: D::Weight,
    layers: Vec<Layer<D>>,
    last_norm: Norm<D>,
    connector: (Linear<D>, Linear<D>),
    connector_positions: D::Weight,
    shape: AttentionShape,
    epsilon: f32,
    patch: usize,
    position_side: usize,
}

impl<D: Device> Vision<D> {
    /// Loads the encoder.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor that does not fit.
    pub fn load(loader: Loader<'_, D>, config: &Config) -> Result<Self> {
        let v = &config.vision;
        let (width, hidden) = (v.hidden, config.language.hidden);
        let layer = |i: usize| {
            let name = |part: &str| format!("v.blk.{i}.{part}");
            Ok(Layer {
                attention_norm: loader.norm(&name("ln1"), width)?,
                q: loader.linear(&name("attn_q"), width, width)?,
                k: loader.linear(&name("attn_k"), width, width)?,
                v: loader.linear(&name("attn_v"), width, width)?,
                out: loader.linear(&name("attn_out"), width, width)?,
                feed_forward_norm: loader.norm(&name("ln2"), width)?,
                up: loader.linear(&name("ffn_up"), v.feed_forward, width)?,
                down: loader.linear(&name("ffn_down"), width, v.feed_forward)?,
            })
        };
        let places = v.position_side * v.position_side;
        Ok(Vision {
            patch_embedding: loader.linear("v.patch_embd", width, v.patch * v.patch * 3)?,
            positions: loader.weight("v.position_embd.weight", &[places, width], Role::Table)?,
            layers: (0..v.blocks).map(layer).collect::<Result<_>>()?,
            last_norm: loader.norm("v.post_ln", width)?,
            connector: (
                loader.linear("mm.0", hidden, width)?,
                loader.linear("mm.2", hidden, hidden)?,
            ),
            connector_positions: loader.weight(
                "mm.position_embd.weight",
                &[places, hidden],
                Role::Table,
            )?,
            shape: AttentionShape {
                heads: v.heads,
                kv_heads: v.heads,
                head_dim: width / v.heads,
                mask: Mask::Full,
            },
            epsilon: v.epsilon,
            patch: v.patch,
            position_side: v.position_side,
        })
    }

    /// The rows of a picture that has already been resized: `[patches, hidden]`.
    ///
    /// # Errors
    /// [`ModelError::Picture`] if its patches do not fit the position table.
    pub fn see(
        &self,
        d: &D,
        picture: &Picture,
        observer: &mut Observer<'_, D>,
    ) -> Result<D::Buffer> {
        let (values, rows, columns) = picture.patches(self.patch)?;
        let places = grid(rows, columns, self.position_side)?;
        let patches = d.upload(&values, self.patch * self.patch * 3)?;

        let mut x = self.patch_embedding.apply(d, &patches)?;
        d.add(&mut x, &d.embed(&self.positions, &places)?)?;
        show::<D>(observer, Stage::VisionInput, &x);
        for (i, layer) in self.layers.iter().enumerate() {
            self.layer(d, layer, &mut x)?;
            show::<D>(observer, Stage::VisionLayer(i), &x);
        }
        let x = d.layer_norm(
            &x,
            &self.last_norm.weight,
            &self.last_norm.bias,
            self.epsilon,
        )?;
        show::<D>(observer, Stage::VisionOutput, &x);

        let mut x = self.connector.0.apply(d, &x)?;
        d.gelu_tanh(&mut x)?;
        let mut x = self.connector.1.apply(d, &x)?;
        show::<D>(observer, Stage::Connector, &x);
        d.add(&mut x, &d.embed(&self.connector_positions, &places)?)?;
        show::<D>(observer, Stage::ConnectorPlaced, &x);
        Ok(x)
    }

    fn layer(&self, d: &D, layer: &Layer<D>, x: &mut D::Buffer) -> Result<()> {
        let norm = &layer.attention_norm;
        let n = d.layer_norm(x, &norm.weight, &norm.bias, self.epsilon)?;
        let [q, k, v] = Linear::apply_all([&layer.q, &layer.k, &layer.v], d, &n)?;
        let mixed = d.attention(&q, &[], &k, &v, self.shape)?;
        d.add(x, &layer.out.apply(d, &mixed)?)?;

        let norm = &layer.feed_forward_norm;
        let n = d.layer_norm(x, &norm.weight, &norm.bias, self.epsilon)?;
        let mut inner = layer.up.apply(d, &n)?;
        d.gelu_tanh(&mut inner)?;
        d.add(x, &layer.down.apply(d, &inner)?)?;
        Ok(())
    }
}

/// Indexes into a square position table of this side: `row * side + column`, in raster order.
///
/// # Errors
/// [`ModelError::Picture`] if the grid does not fit the table.
pub fn grid(rows: usize, columns: usize, side: usize) -> Result<Vec<u32>> {
    if rows > side || columns > side || rows * columns == 0 {
        return Err(ModelError::Picture(format!(
            "a picture of {columns} x {rows} tokens; this model's tables hold {side} x {side}"
        )));
    }
    let places = (0..rows).flat_map(|r| (0..columns).map(move |c| (r * side + c) as u32));
    Ok(places.collect())
}
