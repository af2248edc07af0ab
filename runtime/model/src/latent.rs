//! Latent tokens: how a picture being drawn enters and leaves the language half.

use kinglet_kernels::{Device, Role};

use crate::config::{Config, LatentConfig};
use crate::error::Result;
use crate::linear::{Linear, Loader};
use crate::observe::{Observer, Stage, show};
use crate::vision::grid;

/// Features of a timestep before its two linear layers.
const TIME_FEATURES: usize = 256;

/// Projections of latents and timesteps.
pub struct Latents<D: Device> {
    into: Linear<D>,
    out: Linear<D>,
    time: (Linear<D>, Linear<D>),
    positions: D::Weight,
    config: LatentConfig,
}

impl<D: Device> Latents<D> {
    /// Loads the projections.
    ///
    /// # Errors
    /// [`crate::ModelError`] naming the tensor that does not fit.
    pub fn load(loader: Loader<'_, D>, config: &Config) -> Result<Self> {
        let (c, hidden) = (&config.latent, config.language.hidden);
        let values = c.token_values();
        let places = c.position_side * c.position_side;
        Ok(Latents {
            into: loader.linear("lat.in", hidden, values)?,
            out: loader.linear("lat.out", values, hidden)?,
            time: (
                loader.linear("time.0", hidden, TIME_FEATURES)?,
                loader.linear("time.2", hidden, hidden)?,
            ),
            positions: loader.weight("lat.position_embd.weight", &[places, hidden], Role::Table)?,
            config: c.clone(),
        })
    }

    /// Indexes into the position table for a picture of `rows` by `columns` tokens.
    ///
    /// # Errors
    /// [`crate::ModelError::Picture`] if the table is smaller.
    pub fn places(&self, rows: usize, columns: usize) -> Result<Vec<u32>> {
        grid(rows, columns, self.config.position_side)
    }

    /// What enters the language half for the latents `x` (`[tokens, values]`) at time `t`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn embed(
        &self,
        d: &D,
        x: &D::Buffer,
        t: f32,
        places: &[u32],
        observer: &mut Observer<'_, D>,
    ) -> Result<D::Buffer> {
        let mut rows = self.into.apply(d, x)?;
        let features = d.upload(&time_features(t), TIME_FEATURES)?;
        let mut time = self.time.0.apply(d, &features)?;
        d.silu(&mut time)?;
        let time = self.time.1.apply(d, &time)?;
        show::<D>(observer, Stage::Time, &time);
        d.add(&mut rows, &time)?;
        d.add(&mut rows, &d.embed(&self.positions, places)?)?;
        Ok(rows)
    }

    /// The velocity that the language half's rows stand for: `[tokens, values]`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn velocity(&self, d: &D, rows: &D::Buffer) -> Result<D::Buffer> {
        self.out.apply(d, rows)
    }

    /// Tokens to a latent picture: `[rows * columns, values] -> [pixels, channels]`, a token being
    /// a square of latent pixels in the order (row, column, channel).
    ///
    /// # Errors
    /// What the device refuses.
    pub fn unpack(
        &self,
        d: &D,
        tokens: &D::Buffer,
        rows: usize,
        columns: usize,
    ) -> Result<D::Buffer> {
        let order = self.pixel_order(rows, columns);
        let pixels = d.reshape(d.copy(tokens)?, self.config.channels)?;
        let mut picture = d.zeros(order.len(), self.config.channels)?;
        d.scatter_rows(&mut picture, &pixels, &order)?;
        Ok(picture)
    }

    /// A latent picture to tokens: the inverse of [`Latents::unpack`].
    ///
    /// # Errors
    /// What the device refuses.
    pub fn pack(
        &self,
        d: &D,
        picture: &D::Buffer,
        rows: usize,
        columns: usize,
    ) -> Result<D::Buffer> {
        let order = self.pixel_order(rows, columns);
        let pixels = d.gather_rows(picture, &order)?;
        Ok(d.reshape(pixels, self.config.token_values())?)
    }

    /// For every latent pixel in token order, where it stands in the picture.
    fn pixel_order(&self, rows: usize, columns: usize) -> Vec<u32> {
        let side = self.config.patch;
        let mut order = Vec::with_capacity(rows * columns * side * side);
        for token in 0..rows * columns {
            let (top, left) = (token / columns * side, token % columns * side);
            for y in top..top + side {
                for x in left..left + side {
                    order.push((y * columns * side + x) as u32);
                }
            }
        }
        order
    }
}

/// `[cos(t f_k), sin(t f_k)]` with `f_k = 10000^(-k / half)`; `t` is not scaled (docs/model.md, 3.8).
fn time_features(t: f32) -> Vec<f32> {
    let half = TIME_FEATURES / 2;
    let angle = |k: usize| t * (-(10_000f32.ln()) * k as f32 / half as f32).exp();
    let cosines = (0..half).map(|k| angle(k).cos());
    let sines = (0..half).map(|k| angle(k).sin());
    cosines.chain(sines).collect()
}
