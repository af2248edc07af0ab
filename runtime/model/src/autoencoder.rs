//! The autoencoder between pixels and latents (FLUX's layout). Pictures are `[pixels, channels]`.

use kinglet_kernels::{AttentionShape, ConvShape, Device, Mask};

use crate::config::{Config, LatentConfig};
use crate::error::{ModelError, Result};
use crate::linear::{Loader, Norm};
use crate::source::Source;

/// Epsilon of every group norm.
const EPSILON: f32 = 1e-6;

/// A picture on the device and its size.
struct Plane<D: Device> {
    values: D::Buffer,
    height: usize,
    width: usize,
}

struct Conv<D: Device> {
    weight: D::Weight,
    bias: D::Weight,
    kernel: usize,
    outputs: usize,
}

impl<D: Device> Conv<D> {
    /// Loads a convolution; its sizes are those that are stored, which must continue `inputs`.
    fn load(loader: Loader<'_, D>, name: &str, inputs: usize, kernel: usize) -> Result<Self> {
        let weight = format!("{name}.weight");
        let outputs = outputs(loader.source, &weight)?;
        Ok(Conv {
            weight: loader.weight(&weight, &[outputs, inputs, kernel, kernel])?,
            bias: loader.weight(&format!("{name}.bias"), &[outputs])?,
            kernel,
            outputs,
        })
    }

    fn same(&self, d: &D, x: &D::Buffer, height: usize, width: usize) -> Result<D::Buffer> {
        let shape = ConvShape::same(height, width, self.kernel);
        Ok(d.conv2d(x, &self.weight, &self.bias, shape)?)
    }
}

fn outputs(source: &Source, tensor: &str) -> Result<usize> {
    Ok(source.tensor(tensor)?.shape.first().copied().unwrap_or(0))
}

struct ResnetBlock<D: Device> {
    norm1: Norm<D>,
    conv1: Conv<D>,
    norm2: Norm<D>,
    conv2: Conv<D>,
    shortcut: Option<Conv<D>>,
}

impl<D: Device> ResnetBlock<D> {
    fn load(loader: Loader<'_, D>, name: &str, inputs: usize) -> Result<Self> {
        let conv1 = Conv::load(loader, &format!("{name}.conv1"), inputs, 3)?;
        let outputs = conv1.outputs;
        Ok(ResnetBlock {
            norm1: loader.norm(&format!("{name}.norm1"), inputs)?,
            norm2: loader.norm(&format!("{name}.norm2"), outputs)?,
            conv2: Conv::load(loader, &format!("{name}.conv2"), outputs, 3)?,
            shortcut: if outputs == inputs {
                None
            } else {
                Some(Conv::load(
                    loader,
                    &format!("{name}.nin_shortcut"),
                    inputs,
                    1,
                )?)
            },
            conv1,
        })
    }

    fn apply(&self, d: &D, x: &mut Plane<D>, groups: usize) -> Result<()> {
        let (h, w) = (x.height, x.width);
        let norm =
            |x: &D::Buffer, n: &Norm<D>| d.group_norm(x, &n.weight, &n.bias, groups, EPSILON, true);
        let inner = self.conv1.same(d, &norm(&x.values, &self.norm1)?, h, w)?;
        let inner = self.conv2.same(d, &norm(&inner, &self.norm2)?, h, w)?;
        if let Some(shortcut) = &self.shortcut {
            x.values = shortcut.same(d, &x.values, h, w)?;
        }
        d.add(&mut x.values, &inner)?;
        Ok(())
    }
}

/// Single-head attention over all positions.
struct AttentionBlock<D: Device> {
    norm: Norm<D>,
    q: Conv<D>,
    k: Conv<D>,
    v: Conv<D>,
    out: Conv<D>,
}

impl<D: Device> AttentionBlock<D> {
    fn load(loader: Loader<'_, D>, name: &str, channels: usize) -> Result<Self> {
        let conv = |part: &str| Conv::load(loader, &format!("{name}.{part}"), channels, 1);
        Ok(AttentionBlock {
            norm: loader.norm(&format!("{name}.norm"), channels)?,
            q: conv("q")?,
            k: conv("k")?,
            v: conv("v")?,
            out: conv("proj_out")?,
        })
    }

    fn apply(&self, d: &D, x: &mut Plane<D>, groups: usize) -> Result<()> {
        let (h, w) = (x.height, x.width);
        let norm = &self.norm;
        let n = d.group_norm(&x.values, &norm.weight, &norm.bias, groups, EPSILON, false)?;
        let (q, k, v) = (
            self.q.same(d, &n, h, w)?,
            self.k.same(d, &n, h, w)?,
            self.v.same(d, &n, h, w)?,
        );
        let shape = AttentionShape {
            heads: 1,
            kv_heads: 1,
            head_dim: self.q.outputs,
            mask: Mask::Full,
        };
        let mixed = d.attention(&q, &[], &k, &v, shape)?;
        d.add(&mut x.values, &self.out.same(d, &mixed, h, w)?)?;
        Ok(())
    }
}

struct Middle<D: Device> {
    first: ResnetBlock<D>,
    attention: AttentionBlock<D>,
    second: ResnetBlock<D>,
}

impl<D: Device> Middle<D> {
    fn load(loader: Loader<'_, D>, name: &str, channels: usize) -> Result<Self> {
        Ok(Middle {
            first: ResnetBlock::load(loader, &format!("{name}.block_1"), channels)?,
            attention: AttentionBlock::load(loader, &format!("{name}.attn_1"), channels)?,
            second: ResnetBlock::load(loader, &format!("{name}.block_2"), channels)?,
        })
    }

    fn apply(&self, d: &D, x: &mut Plane<D>, groups: usize) -> Result<()> {
        self.first.apply(d, x, groups)?;
        self.attention.apply(d, x, groups)?;
        self.second.apply(d, x, groups)
    }
}

/// Blocks at one resolution, and the convolution that leads to the next.
struct Level<D: Device> {
    blocks: Vec<ResnetBlock<D>>,
    resample: Option<Conv<D>>,
}

impl<D: Device> Level<D> {
    /// Loads `name.block.*` and, if it is there, `name.{resample}.conv`. `channels` are those that
    /// come in, and afterwards those that go out.
    fn load(
        loader: Loader<'_, D>,
        name: &str,
        resample: &str,
        channels: &mut usize,
    ) -> Result<Self> {
        let mut blocks = Vec::new();
        loop {
            let block = format!("{name}.block.{}", blocks.len());
            if !loader
                .source
                .tensors
                .contains_key(&format!("{block}.conv1.weight"))
            {
                break;
            }
            let block = ResnetBlock::load(loader, &block, *channels)?;
            *channels = block.conv1.outputs;
            blocks.push(block);
        }
        let resample = format!("{name}.{resample}.conv");
        let resample = if loader
            .source
            .tensors
            .contains_key(&format!("{resample}.weight"))
        {
            Some(Conv::load(loader, &resample, *channels, 3)?)
        } else {
            None
        };
        Ok(Level { blocks, resample })
    }

    fn apply(&self, d: &D, x: &mut Plane<D>, groups: usize) -> Result<()> {
        self.blocks.iter().try_for_each(|b| b.apply(d, x, groups))
    }
}

/// First convolution, last norm and last convolution of a half.
struct Ends<D: Device> {
    conv_in: Conv<D>,
    norm_out: Norm<D>,
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
                Level::load(loader, &name, "downsample", &mut channels)
            })
            .collect::<Result<Vec<_>>>()?;
        let encoder_middle = Middle::load(loader, "vae.encoder.mid", channels)?;
        let encoder = Ends {
            conv_in,
            norm_out: loader.norm("vae.encoder.norm_out", channels)?,
            conv_out: Conv::load(loader, "vae.encoder.conv_out", channels, 3)?,
        };

        let conv_in = Conv::load(loader, "vae.decoder.conv_in", c.channels, 3)?;
        let mut channels = conv_in.outputs;
        let decoder_middle = Middle::load(loader, "vae.decoder.mid", channels)?;
        let up = (0..levels)
            .rev()
            .map(|i| {
                let name = format!("vae.decoder.up.{i}");
                Level::load(loader, &name, "upsample", &mut channels)
            })
            .collect::<Result<Vec<_>>>()?;
        let decoder = Ends {
            conv_in,
            norm_out: loader.norm("vae.decoder.norm_out", channels)?,
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
        let groups = self.config.groups;
        let mut x = Plane {
            values: self.encoder.conv_in.same(d, picture, height, width)?,
            height,
            width,
        };
        for level in &self.down {
            level.apply(d, &mut x, groups)?;
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
        self.encoder_middle.apply(d, &mut x, groups)?;
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
    /// `[pixels, 3]`.
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
        let groups = self.config.groups;
        let mut z = d.copy(latents)?;
        d.affine(&mut z, 1.0 / self.config.scale, self.config.shift)?;
        let mut x = Plane {
            values: self.decoder.conv_in.same(d, &z, height, width)?,
            height,
            width,
        };
        self.decoder_middle.apply(d, &mut x, groups)?;
        for level in &self.up {
            level.apply(d, &mut x, groups)?;
            if let Some(conv) = &level.resample {
                let larger = d.upsample_nearest(&x.values, x.height, x.width)?;
                x.height *= 2;
                x.width *= 2;
                x.values = conv.same(d, &larger, x.height, x.width)?;
            }
        }
        self.finish(d, &self.decoder, &x)
    }

    fn finish(&self, d: &D, ends: &Ends<D>, x: &Plane<D>) -> Result<D::Buffer> {
        let norm = &ends.norm_out;
        let groups = self.config.groups;
        let n = d.group_norm(&x.values, &norm.weight, &norm.bias, groups, EPSILON, true)?;
        ends.conv_out.same(d, &n, x.height, x.width)
    }
}

/// Values about -1..1 to 8 bits, truncated as the reference does it.
pub fn to_bytes(values: &[f32]) -> Vec<u8> {
    let byte = |v: &f32| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0) as u8;
    values.iter().map(byte).collect()
}
