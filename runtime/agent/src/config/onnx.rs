//! What a network takes, and what its outputs mean.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error;
use crate::error::Result;
use crate::period::Period;

/// The longest side of a network's picture, in pixels.
pub const LONGEST_INPUT: u32 = 1280;
/// The most classes.
pub const MOST_CLASSES: usize = 10_000;
/// The longest name of a class, in bytes.
pub const LONGEST_CLASS: usize = 128;

/// `[watch.onnx]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OnnxConfig {
    /// The names of the classes, in the network's order, or the file of them, one a line.
    pub classes: ClassesConfig,
    /// Which of them count; left out: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub find: Vec<String>,
    /// The least score that counts, 0 to 1.
    #[serde(default = "half")]
    pub score: f64,
    /// How often the network looks.
    #[serde(default = "second")]
    pub every: Period,
    /// What its outputs are.
    #[serde(default)]
    pub output: OutputLayout,
    /// What makes scores of its outputs.
    #[serde(default)]
    pub activation: Activation,
    /// How far two boxes of a class may overlap (intersection over union) before the lower one is left out.
    #[serde(default = "near_half")]
    pub overlap: f64,
    /// Width and height of its picture; left out: as the graph has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[u32; 2]>,
    /// How a frame becomes a picture of that size; left out: `pad` for YOLO, `stretch` for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// What the values 0 to 255 are multiplied with; left out: 1/255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// What is then subtracted, a channel.
    #[serde(default)]
    pub mean: [f64; 3],
    /// What it is then divided by, a channel.
    #[serde(default = "ones")]
    pub std: [f64; 3],
    /// The order of the channels.
    #[serde(default)]
    pub channels: Channels,
    /// The order of the axes.
    #[serde(default)]
    pub layout: Layout,
}

/// The names of classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum ClassesConfig {
    /// The names themselves.
    List(Vec<String>),
    /// A file of them.
    File(PathBuf),
}

/// What the outputs of a network are. `N` classes, `A` boxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OutputLayout {
    /// A classifier: `[1, N]`.
    #[default]
    Classes,
    /// `[1, 4 + N, A]` or `[1, A, 4 + N]`: centre, width and height in pixels, scores.
    Yolo,
    /// `[1, A, 5 + N]`: the same with an objectness, by which scores are multiplied.
    Yolov5,
    /// Boxes `[1, A, 4]` (left, top, right, bottom in fractions) and scores `[1, A, N]`, in either order.
    Ssd,
    /// Heat map `[1, N, H, W]`, logarithms of height and width `[1, 2, H, W]`, offsets down and right
    /// `[1, 2, H, W]`.
    Centerface,
}

/// What makes scores of outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// They are scores.
    #[default]
    None,
    /// Softmax over the classes.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
}

/// How a frame becomes a picture of another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Its proportions change.
    Stretch,
    /// Grey bars are added.
    Pad,
}

/// The order of channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first.
    Bgr,
}

/// The order of axes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[1, 3, height, width]`.
    #[default]
    Nchw,
    /// `[1, height, width, 3]`.
    Nhwc,
}

fn half() -> f64 {
    0.5
}

fn near_half() -> f64 {
    0.45
}

fn second() -> Period {
    Period(Duration::from_secs(1))
}

fn ones() -> [f64; 3] {
    [1.0; 3]
}

impl OnnxConfig {
    /// Whether boxes come out, and not a class of the whole picture.
    #[must_use]
    pub fn finds_boxes(&self) -> bool {
        self.output != OutputLayout::Classes
    }

    /// How a frame becomes a picture of the network's size.
    #[must_use]
    pub fn fit(&self) -> Fit {
        self.fit.unwrap_or(match self.output {
            OutputLayout::Yolo | OutputLayout::Yolov5 => Fit::Pad,
            _ => Fit::Stretch,
        })
    }

    /// Checks what cannot be said in types. Names in a file are checked when it is read.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`] naming the key.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |key: &str, value: String, expected: &str| {
            Err(error(&format!("watch.onnx.{key}"), &value, expected))
        };
        if let ClassesConfig::List(names) = &self.classes {
            self.check_classes(names)?;
        }
        for (key, value) in [("score", self.score), ("overlap", self.overlap)] {
            if !(0.0..=1.0).contains(&value) {
                return wrong(key, value.to_string(), "is not accepted; 0 to 1 are");
            }
        }
        if let Some(size) = self.size
            && !size.iter().all(|side| (1..=LONGEST_INPUT).contains(side))
        {
            let expected = format!("is not accepted; sides of 1 to {LONGEST_INPUT} are");
            return wrong("size", format!("{size:?}"), &expected);
        }
        let finite = |values: &[f64]| values.iter().all(|v| v.is_finite() && v.abs() < 1e6);
        if !finite(&[self.scale.unwrap_or(1.0)]) || !finite(&self.mean) {
            return wrong(
                "scale",
                String::new(),
                "or mean is no number below a million",
            );
        }
        if !finite(&self.std) || self.std.iter().any(|v| v.abs() < 1e-6) {
            return wrong("std", format!("{:?}", self.std), "is nothing to divide by");
        }
        Ok(())
    }

    /// Checks the names of the classes, and those that count.
    pub(crate) fn check_classes(&self, names: &[String]) -> Result<()> {
        if !(1..=MOST_CLASSES).contains(&names.len()) {
            let expected = format!("are not accepted; 1 to {MOST_CLASSES} classes are");
            return Err(error(
                "watch.onnx.classes",
                &names.len().to_string(),
                &expected,
            ));
        }
        if let Some(long) = names.iter().find(|name| name.len() > LONGEST_CLASS) {
            let expected = format!("is longer than {LONGEST_CLASS} bytes");
            let start: String = long.chars().take(32).collect();
            return Err(error("watch.onnx.classes", &start, &expected));
        }
        match self.find.iter().find(|name| !names.contains(name)) {
            Some(name) => Err(error("watch.onnx.find", name, "is none of the classes")),
            None => Ok(()),
        }
    }
}
