//! What both halves of the autoencoder are built of.

use kinglet_kernels::{AttentionShape, ConvShape, Device, GroupMoments, Mask, Role};

use crate::error::Result;
use crate::linear::{Loader, Norm};
use crate::source::Source;

/// Epsilon of every group norm.
const EPSILON: f32 = 1e-6;

/// A picture on the device and its size.
pub(super) struct Plane<D: Device> {
    pub(super) values: D::Buffer,
    pub(super) height: usize,
    pub(super) width: usize,
}

/// Norm of groups of channels.
pub(super) struct GroupNorm<D: Device> {
    norm: Norm<D>,
    groups: usize,
}

impl<D: Device> GroupNorm<D> {
    pub(super) fn load(
        loader: Loader<'_, D>,
        name: &str,
        channels: usize,
        groups: usize,
    ) -> Result<Self> {
        Ok(GroupNorm {
            norm: loader.norm(name, channels)?,
            groups,
        })
    }

    pub(super) fn moments(&self, d: &D, x: &D::Buffer) -> Result<GroupMoments> {
        Ok(d.group_moments(x, self.groups)?)
    }

    /// The norm of `x`, which may be a part of the picture whose moments are given.
    pub(super) fn apply(
        &self,
        d: &D,
        x: &D::Buffer,
        moments: &GroupMoments,
        swish: bool,
    ) -> Result<D::Buffer> {
        let Norm { weight, bias } = &self.norm;
        Ok(d.group_norm(x, moments, weight, bias, EPSILON, swish)?)
    }

    /// The norm of a whole picture, and `x * sigmoid(x)`.
    fn whole(&self, d: &D, x: &D::Buffer) -> Result<D::Buffer> {
        self.apply(d, x, &self.moments(d, x)?, true)
    }
}

pub(super) struct Conv<D: Device> {
    pub(super) weight: D::Weight,
    pub(super) bias: D::Weight,
    pub(super) kernel: usize,
    pub(super) outputs: usize,
}

impl<D: Device> Conv<D> {
    /// Loads a convolution; its sizes are those that are stored, which must continue `inputs`.
    pub(super) fn load(
        loader: Loader<'_, D>,
        name: &str,
        inputs: usize,
        kernel: usize,
    ) -> Result<Self> {
        let weight = format!("{name}.weight");
        let outputs = outputs(loader.source, &weight)?;
        Ok(Conv {
            weight: loader.weight(
                &weight,
                &[outputs, inputs, kernel, kernel],
                Role::Kernel { side: kernel },
            )?,
            bias: loader.weight(&format!("{name}.bias"), &[outputs], Role::Vector)?,
            kernel,
            outputs,
        })
    }

    pub(super) fn same(
        &self,
        d: &D,
        x: &D::Buffer,
        height: usize,
        width: usize,
    ) -> Result<D::Buffer> {
        let shape = ConvShape::same(height, width, self.kernel);
        Ok(d.conv2d(x, &self.weight, &self.bias, shape)?)
    }
}

fn outputs(source: &Source, tensor: &str) -> Result<usize> {
    Ok(source.stored(tensor)?.shape.first().copied().unwrap_or(0))
}

pub(super) struct ResnetBlock<D: Device> {
    pub(super) norm1: GroupNorm<D>,
    pub(super) conv1: Conv<D>,
    pub(super) norm2: GroupNorm<D>,
    pub(super) conv2: Conv<D>,
    pub(super) shortcut: Option<Conv<D>>,
}

impl<D: Device> ResnetBlock<D> {
    fn load(loader: Loader<'_, D>, name: &str, inputs: usize, groups: usize) -> Result<Self> {
        let conv1 = Conv::load(loader, &format!("{name}.conv1"), inputs, 3)?;
        let outputs = conv1.outputs;
        let norm = |part: &str, channels| {
            GroupNorm::load(loader, &format!("{name}.{part}"), channels, groups)
        };
        Ok(ResnetBlock {
            norm1: norm("norm1", inputs)?,
            norm2: norm("norm2", outputs)?,
            conv2: Conv::load(loader, &format!("{name}.conv2"), outputs, 3)?,
            shortcut: if outputs == inputs {
                None
            } else {
                let name = format!("{name}.nin_shortcut");
                Some(Conv::load(loader, &name, inputs, 1)?)
            },
            conv1,
        })
    }

    fn apply(&self, d: &D, x: &mut Plane<D>) -> Result<()> {
        let (h, w) = (x.height, x.width);
        let inner = self.conv1.same(d, &self.norm1.whole(d, &x.values)?, h, w)?;
        let inner = self.conv2.same(d, &self.norm2.whole(d, &inner)?, h, w)?;
        if let Some(shortcut) = &self.shortcut {
            x.values = shortcut.same(d, &x.values, h, w)?;
        }
        d.add(&mut x.values, &inner)?;
        Ok(())
    }
}

/// Single-head attention over all positions.
struct AttentionBlock<D: Device> {
    norm: GroupNorm<D>,
    q: Conv<D>,
    k: Conv<D>,
    v: Conv<D>,
    out: Conv<D>,
}

impl<D: Device> AttentionBlock<D> {
    fn load(loader: Loader<'_, D>, name: &str, channels: usize, groups: usize) -> Result<Self> {
        let conv = |part: &str| Conv::load(loader, &format!("{name}.{part}"), channels, 1);
        Ok(AttentionBlock {
            norm: GroupNorm::load(loader, &format!("{name}.norm"), channels, groups)?,
            q: conv("q")?,
            k: conv("k")?,
            v: conv("v")?,
            out: conv("proj_out")?,
        })
    }

    fn apply(&self, d: &D, x: &mut Plane<D>) -> Result<()> {
        let (h, w) = (x.height, x.width);
        let moments = self.norm.moments(d, &x.values)?;
        let n = self.norm.apply(d, &x.values, &moments, false)?;
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

pub(super) struct Middle<D: Device> {
    first: ResnetBlock<D>,
    attention: AttentionBlock<D>,
    second: ResnetBlock<D>,
}

impl<D: Device> Middle<D> {
    pub(super) fn load(
        loader: Loader<'_, D>,
        name: &str,
        channels: usize,
        groups: usize,
    ) -> Result<Self> {
        let block = |part| ResnetBlock::load(loader, &format!("{name}.{part}"), channels, groups);
        Ok(Middle {
            first: block("block_1")?,
            attention: AttentionBlock::load(loader, &format!("{name}.attn_1"), channels, groups)?,
            second: block("block_2")?,
        })
    }

    pub(super) fn apply(&self, d: &D, x: &mut Plane<D>) -> Result<()> {
        self.first.apply(d, x)?;
        self.attention.apply(d, x)?;
        self.second.apply(d, x)
    }
}

/// Blocks at one resolution, and the convolution that leads to the next.
pub(super) struct Level<D: Device> {
    pub(super) blocks: Vec<ResnetBlock<D>>,
    pub(super) resample: Option<Conv<D>>,
}

impl<D: Device> Level<D> {
    /// Loads `name.block.*` and, if it is there, `name.{resample}.conv`. `channels` are those that
    /// come in, and afterwards those that go out.
    pub(super) fn load(
        loader: Loader<'_, D>,
        name: &str,
        resample: &str,
        channels: &mut usize,
        groups: usize,
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
            let block = ResnetBlock::load(loader, &block, *channels, groups)?;
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

    pub(super) fn apply(&self, d: &D, x: &mut Plane<D>) -> Result<()> {
        self.blocks.iter().try_for_each(|b| b.apply(d, x))
    }
}
