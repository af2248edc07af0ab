//! The referees: small CNNs trained by tools/scenes/judge.py, from safetensors.

use bytes::Bytes;
use kinglet_container::tensors::SafeTensors;
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::{ConvShape, Cpu, Device, Format, Role, WeightData};

use crate::program::{EvalError, Result};

/// The names of what the referees know, in the order of their outputs.
pub const NAMES: &str = "cat dog horse pig cow frog panda lion tiger fox koala monkey chicken \
penguin owl fish whale octopus crab turtle snail butterfly bee elephant snake apple banana grape \
watermelon strawberry pineapple carrot corn tomato broccoli cheese pizza burger egg cake donut car \
bus truck bicycle train plane helicopter rocket ship tractor house tree cactus sunflower mushroom \
umbrella chair clock book key hammer guitar ball gift crown lamp camera";

/// Side of what a referee looks at, in pixels.
const SIDE: usize = 48;
const CONVOLUTIONS: usize = 8;

pub(crate) type Weight = <Cpu as Device>::Weight;

/// A referee.
pub struct Judge {
    device: Cpu,
    convolutions: Vec<(Weight, Weight)>,
    head: (Weight, Weight),
}

impl Judge {
    /// The referee of this name in `judges/`.
    ///
    /// # Errors
    /// [`EvalError`] if its file is not sound.
    pub fn open(name: &str) -> Result<Self> {
        let path = crate::data(&format!("judges/{name}.safetensors"));
        let file = SafeTensors::open(&path)?;
        let device = Cpu::best();
        let weight = |name: String| -> Result<Weight> { load(&device, file.get(&name)?) };
        let convolutions = (0..CONVOLUTIONS).map(|i| {
            let (w, b) = (format!("conv.{i}.weight"), format!("conv.{i}.bias"));
            Ok((weight(w)?, weight(b)?))
        });
        Ok(Judge {
            convolutions: convolutions.collect::<Result<_>>()?,
            head: (
                weight("head.weight".to_owned())?,
                weight("head.bias".to_owned())?,
            ),
            device,
        })
    }

    /// What is in a picture of RGB bytes; none where it is junk, to a referee that knows junk.
    ///
    /// # Errors
    /// [`EvalError`] if the picture has not `width * height * 3` bytes.
    pub fn name(&self, rgb: &[u8], width: usize, height: usize) -> Result<Option<&'static str>> {
        let device = &self.device;
        let mut side = SIDE;
        let mut x = device.upload(&reduced(rgb, width, height), 3)?;
        for (i, (weight, bias)) in self.convolutions.iter().enumerate() {
            x = device.conv2d(&x, weight, bias, ConvShape::same(side, side, 3))?;
            let (_, channels) = device.shape(&x);
            let mut values = device.download(&x)?;
            values.iter_mut().for_each(|v| *v = v.max(0.0));
            if i % 2 == 1 {
                values = pooled(&values, side, channels);
                side /= 2;
            }
            x = device.upload(&values, channels)?;
        }
        let (_, channels) = device.shape(&x);
        let values = device.download(&x)?;
        let largest = (0..channels).map(|c| {
            let column = values.iter().skip(c).step_by(channels);
            column.copied().fold(f32::NEG_INFINITY, f32::max)
        });
        let features = device.upload(&largest.collect::<Vec<_>>(), channels)?;
        let scores = device.matmul(&features, &self.head.0, Some(&self.head.1))?;
        let scores = device.download(&scores)?;
        let best = (0..scores.len()).fold(0, |b, i| if scores[i] > scores[b] { i } else { b });
        Ok(NAMES.split_whitespace().nth(best))
    }
}

pub(crate) fn load(device: &Cpu, tensor: &Tensor) -> Result<Weight> {
    if tensor.kind != TensorType::F16 {
        let reason = format!("its tensors are {}, F16 is expected", tensor.kind);
        return Err(EvalError::Data {
            path: "a referee".to_owned(),
            reason,
        });
    }
    let (role, rows) = match tensor.shape[..] {
        [rows, _, side, _] => (Role::Kernel { side }, rows),
        [rows, _] => (Role::Matrix, rows),
        _ => (Role::Vector, 1),
    };
    Ok(device.weight(WeightData {
        role,
        format: Format::F16,
        rows,
        cols: tensor.values() / rows.max(1),
        bytes: Bytes::copy_from_slice(&tensor.bytes),
    })?)
}

/// The picture as means over areas, in -1..1: `[SIDE * SIDE, 3]`.
fn reduced(rgb: &[u8], width: usize, height: usize) -> Vec<f32> {
    let range = |i: usize, n: usize| i * n / SIDE..((i + 1) * n).div_ceil(SIDE);
    let mut out = Vec::with_capacity(SIDE * SIDE * 3);
    for row in 0..SIDE {
        for column in 0..SIDE {
            for c in 0..3 {
                let (mut sum, mut count) = (0.0, 0);
                for y in range(row, height) {
                    for x in range(column, width) {
                        sum += f32::from(rgb[(y * width + x) * 3 + c]);
                        count += 1;
                    }
                }
                out.push(sum / count as f32 / 127.5 - 1.0);
            }
        }
    }
    out
}

/// The largest of each 2x2 square.
pub(crate) fn pooled(values: &[f32], side: usize, channels: usize) -> Vec<f32> {
    let at = |y: usize, x: usize, c: usize| values[(y * side + x) * channels + c];
    let mut out = Vec::with_capacity(values.len() / 4);
    for y in (0..side).step_by(2) {
        for x in (0..side).step_by(2) {
            for c in 0..channels {
                let upper = at(y, x, c).max(at(y, x + 1, c));
                out.push(upper.max(at(y + 1, x, c)).max(at(y + 1, x + 1, c)));
            }
        }
    }
    out
}
