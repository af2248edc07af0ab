//! The autoencoder between pixels and latents (FLUX's layout). Pictures are `[pixels, channels]`.

mod bands;
mod blocks;

use kinglet_kernels::{ConvShape, Device};

use crate::config::{Config, LatentConfig};
use crate::error::{ModelError, Result};
use crate::linear::Loader;
use bands::Bands;
use blocks::{Conv, GroupNorm, Level, Middle, Plane};

/// The most values of a plane, of all channels, that the decoder holds in one piece. Above this it
/// works in bands of rows.
pub const LARGEST_PLANE: usize = 8 << 20;

/// First convolution, last norm and last convolution of a half.
struct Ends<D: Device> {
    conv_in: Conv<D>,
    norm_out: GroupNorm<D>,
    conv_out: Conv<D>,
}

/// Encoder and decoder.
pub struct Autoencoder<D: Device> {
    down: Vec<Level<D>>,
    encoder_middle: Middle<D>,
    encoder: Ends<D>,
    /// In the order in which they run: the smallest resolution first.
    up: Vec<Level<D>>,
    decoder_middle: Middle<D>,
    decoder: Ends<D>,
    config: LatentConfig,
}

impl<D: Device> Autoencoder<D> {
    /// Loads both halves. Channels and the number of blocks are those that are stored.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor that does not fit.
    pub fn load(loader: Loader<'_, D>, config: &Config) -> Result<Self> {
        let c = config.latent.clone();
        let levels = (0..)
            .take_while(|i| {
                let name = format!("vae.encoder.down.{i}.block.0.conv1.weight");
                loader.source.tensors.contains_key(&name)
            })
            .count();
        if levels == 0 || 1usize.checked_shl(levels as u32 - 1) != Some(c.downsample) {
            return Err(ModelError::Config {
                source_name: loader.source.name.clone(),
                field: "latent downsampling".to_owned(),
                value: c.downsample.to_string(),
                expected: format!("the autoencoder has {levels} resolutions"),
            });
        }

        let conv_in = Conv::load(loader, "vae.encoder.conv_in", 3, 3)?;
        let mut channels = conv_in.outputs;
        let down = (0..levels)
            .map(|i| {
                let name = format!("vae.encoder.down.{i}");
                Level::load(loader, &name, "downsample", &mut channels, c.groups)
            })
            .collect::<Result<Vec<_>>>()?;
        let encoder_middle = Middle::load(loader, "vae.encoder.mid", channels, c.groups)?;
        let encoder = Ends {
            conv_in,
            norm_out: GroupNorm::load(loader, "vae.encoder.norm_out", channels, c.groups)?,
            conv_out: Conv::load(loader, "vae.encoder.conv_out", channels, 3)?,
        };

        let conv_in = Conv::load(loader, "vae.decoder.conv_in", c.channels, 3)?;
        let mut channels = conv_in.outputs;
        let decoder_middle = Middle::load(loader, "vae.decoder.mid", channels, c.groups)?;
        let up = (0..levels)
            .rev()
            .map(|i| {
                let name = format!("vae.decoder.up.{i}");
                Level::load(loader, &name, "upsample", &mut channels, c.groups)
            })
            .collect::<Result<Vec<_>>>()?;
        let decoder = Ends {
            conv_in,
            norm_out: GroupNorm::load(loader, "vae.decoder.norm_out", channels, c.groups)?,
            conv_out: Conv::load(loader, "vae.decoder.conv_out", channels, 3)?,
        };
        for (what, got, expected) in [
            ("encoder", encoder.conv_out.outputs, 2 * c.channels),
            ("decoder", decoder.conv_out.outputs, 3),
        ] {
            if got != expected {
                return Err(ModelError::TensorShape {
                    source_name: loader.source.name.clone(),
                    tensor: format!("vae.{what}.conv_out.weight"),
                    got: vec![got],
                    expected: vec![expected],
                });
            }
        }
        Ok(Autoencoder {
            down,
            encoder_middle,
            encoder,
            up,
            decoder_middle,
            decoder,
            config: c,
        })
    }

    /// Mean and log variance of the latents of a picture with values in -1..1, `[height * width, 3]`:
    /// `[pixels, 2 * channels]`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn moments(
        &self,
        d: &D,
        picture: &D::Buffer,
        height: usize,
        width: usize,
    ) -> Result<D::Buffer> {
        let mut x = Plane {
            values: self.encoder.conv_in.same(d, picture, height, width)?,
            height,
            width,
        };
        for level in &self.down {
            level.apply(d, &mut x)?;
            if let Some(conv) = &level.resample {
                // The reference pads right and below only.
                let shape = ConvShape {
                    height: x.height,
                    width: x.width,
                    kernel: conv.kernel,
                    stride: 2,
                    pad_before: 0,
                    pad_after: 1,
                };
                x.values = d.conv2d(&x.values, &conv.weight, &conv.bias, shape)?;
                (x.height, x.width) = shape.output();
            }
        }
        self.encoder_middle.apply(d, &mut x)?;
        self.finish(d, &self.encoder, &x)
    }

    /// The scaled latents of moments, `[pixels, channels]`: a draw with `noise`, or the mean.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn latents(
        &self,
        d: &D,
        moments: &D::Buffer,
        noise: Option<&D::Buffer>,
    ) -> Result<D::Buffer> {
        let mut z = d.gaussian(moments, noise)?;
        let LatentConfig { scale, shift, .. } = self.config;
        d.affine(&mut z, scale, -scale * shift)?;
        Ok(z)
    }

    /// The picture of scaled latents `[height * width, channels]`, values about -1..1:
    /// `[pixels, 3]`. Planes of more than [`LARGEST_PLANE`] values are worked on in bands.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn decode(
        &self,
        d: &D,
        latents: &D::Buffer,
        height: usize,
        width: usize,
    ) -> Result<D::Buffer> {
        self.decode_within(d, latents, height, width, LARGEST_PLANE)
    }

    /// [`Autoencoder::decode`] with another bound than [`LARGEST_PLANE`].
    ///
    /// # Errors
    /// What the device refuses.
    pub fn decode_within(
        &self,
        d: &D,
        latents: &D::Buffer,
        height: usize,
        width: usize,
        largest: usize,
    ) -> Result<D::Buffer> {
        let mut z = d.copy(latents)?;
        d.affine(&mut z, 1.0 / self.config.scale, self.config.shift)?;
        let mut x = Plane {
            values: self.decoder.conv_in.same(d, &z, height, width)?,
            height,
            width,
        };
        // The middle, whose attention sees every position, works on the smallest plane.
        self.decoder_middle.apply(d, &mut x)?;
        for (i, level) in self.up.iter().enumerate() {
            level.apply(d, &mut x)?;
            if let Some(conv) = &level.resample {
                let (height, width) = (2 * x.height, 2 * x.width);
                if height * width * conv.outputs > largest {
                    return self.decode_in_bands(d, x, i, largest);
                }
                let larger = d.upsample_nearest(&x.values, x.height, x.width)?;
                x = Plane {
                    values: conv.same(d, &larger, height, width)?,
                    height,
                    width,
                };
            }
        }
        self.finish(d, &self.decoder, &x)
    }

    /// The rest of the decoder from the upsampling of level `from` on, in bands.
    fn decode_in_bands(
        &self,
        d: &D,
        x: Plane<D>,
        from: usize,
        largest: usize,
    ) -> Result<D::Buffer> {
        let mut x = Bands::new(d, x, self.config.groups, largest / bands::SHARE)?;
        for (i, level) in self.up.iter().enumerate().skip(from) {
            if i > from {
                for block in &level.blocks {
                    x.resnet(d, block)?;
                }
            }
            if let Some(conv) = &level.resample {
                x = x.upsampled(d, conv)?;
            }
        }
        x.last(d, &self.decoder.norm_out, &self.decoder.conv_out)
    }

    fn finish(&self, d: &D, ends: &Ends<D>, x: &Plane<D>) -> Result<D::Buffer> {
        let moments = ends.norm_out.moments(d, &x.values)?;
        let n = ends.norm_out.apply(d, &x.values, &moments, true)?;
        ends.conv_out.same(d, &n, x.height, x.width)
    }
}

/// Values about -1..1 to 8 bits, truncated as the reference does it.
pub fn to_bytes(values: &[f32]) -> Vec<u8> {
    let byte = |v: &f32| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0) as u8;
    values.iter().map(byte).collect()
}
