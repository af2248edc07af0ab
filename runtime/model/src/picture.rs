//! Pictures: decoding what comes from outside, resizing exactly as the reference does.

use std::io::Cursor;

use image::{ImageReader, Limits};

use crate::config::PictureRule;
use crate::error::{ModelError, Result};

/// The longest side of a picture that is decoded, in pixels.
pub const LONGEST_SIDE: usize = 16_384;
/// The most memory that decoding may take, in bytes.
pub const DECODE_BYTES: u64 = 512 << 20;

/// An RGB picture, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// `[height, width, 3]`.
    rgb: Vec<u8>,
}

impl Picture {
    /// A picture of raw RGB bytes `[height, width, 3]`.
    ///
    /// # Errors
    /// [`ModelError::Picture`] if a side is zero or too long, or the bytes are too few or too many.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        if width == 0 || height == 0 || width > LONGEST_SIDE || height > LONGEST_SIDE {
            return Err(ModelError::Picture(format!(
                "a picture of {width} x {height} pixels; sides from 1 to {LONGEST_SIDE} are accepted"
            )));
        }
        if rgb.len() != width * height * 3 {
            return Err(ModelError::Picture(format!(
                "{} bytes for a picture of {width} x {height} pixels, which has {}",
                rgb.len(),
                width * height * 3
            )));
        }
        Ok(Picture { width, height, rgb })
    }

    /// Decodes a PNG, JPEG or WebP file. Transparent pictures are laid on white.
    ///
    /// # Errors
    /// [`ModelError::Picture`] if the bytes are none of these, damaged, or larger than
    /// [`LONGEST_SIDE`] and [`DECODE_BYTES`] allow.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let refuse = |e: &dyn std::fmt::Display| {
            ModelError::Picture(format!(
                "the picture ({} bytes) cannot be decoded: {e}",
                bytes.len()
            ))
        };
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| refuse(&e))?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(LONGEST_SIDE as u32);
        limits.max_image_height = Some(LONGEST_SIDE as u32);
        limits.max_alloc = Some(DECODE_BYTES);
        reader.limits(limits);
        let decoded = reader.decode().map_err(|e| refuse(&e))?;
        let (width, height) = (decoded.width() as usize, decoded.height() as usize);
        let rgb = if decoded.color().has_alpha() {
            let on_white = |c: u8, a: u8| {
                let (c, a) = (u32::from(c), u32::from(a));
                ((c * a + 255 * (255 - a) + 127) / 255) as u8
            };
            let rgba = decoded.into_rgba8();
            rgba.pixels()
                .flat_map(|p| [0, 1, 2].map(|c| on_white(p.0[c], p.0[3])))
                .collect()
        } else {
            decoded.into_rgb8().into_raw()
        };
        Picture::from_rgb(width, height, rgb)
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// [`ModelError::Picture`] if it cannot be encoded.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut out = Cursor::new(Vec::new());
        image::write_buffer_with_format(
            &mut out,
            &self.rgb,
            self.width as u32,
            self.height as u32,
            image::ExtendedColorType::Rgb8,
            image::ImageFormat::Png,
        )
        .map_err(|e| ModelError::Picture(format!("the picture cannot be encoded: {e}")))?;
        Ok(out.into_inner())
    }

    /// A part of the picture: left, top, width and height in pixels.
    ///
    /// # Errors
    /// [`ModelError::Request`] if the part does not lie inside the picture or is empty.
    pub fn crop(&self, [left, top, width, height]: [usize; 4]) -> Result<Picture> {
        let inside = |start: usize, len: usize, side| {
            len > 0 && start.checked_add(len).is_some_and(|end| end <= side)
        };
        if !inside(left, width, self.width) || !inside(top, height, self.height) {
            return Err(ModelError::Request {
                what: "the region",
                got: format!("{left},{top},{width},{height}"),
                expected: format!("it must lie inside {} x {} pixels", self.width, self.height),
            });
        }
        let rows = self.rgb.chunks_exact(self.width * 3).skip(top).take(height);
        let rgb = rows.flat_map(|row| &row[left * 3..(left + width) * 3]);
        Picture::from_rgb(width, height, rgb.copied().collect())
    }

    /// The width and height that a rule gives this picture.
    pub fn size_by(&self, rule: &PictureRule) -> (usize, usize) {
        size_by_rule(self.width, self.height, rule)
    }

    /// The picture resized by a rule.
    ///
    /// # Errors
    /// [`ModelError::Picture`] if the rule gives a size that no picture can have.
    pub fn resized(&self, rule: &PictureRule) -> Result<Picture> {
        let (width, height) = self.size_by(rule);
        resize_bicubic(self, width, height)
    }

    /// The values in -1..1, `[height * width, 3]`.
    pub fn normalised(&self) -> Vec<f32> {
        let scale = |v: &u8| (f32::from(*v) / 255.0 - 0.5) / 0.5;
        self.rgb.iter().map(scale).collect()
    }

    /// The values in -1..1 cut into square patches in raster order; in a patch (row, column,
    /// channel): `[patches, side * side * 3]`. Also the grid's height and width.
    ///
    /// # Errors
    /// [`ModelError::Picture`] if `side` does not divide the picture.
    pub fn patches(&self, side: usize) -> Result<(Vec<f32>, usize, usize)> {
        if side == 0 || !self.width.is_multiple_of(side) || !self.height.is_multiple_of(side) {
            return Err(ModelError::Picture(format!(
                "a picture of {} x {} pixels cannot be cut into patches of {side}",
                self.width, self.height
            )));
        }
        let values = self.normalised();
        let (rows, columns) = (self.height / side, self.width / side);
        let mut out = Vec::with_capacity(values.len());
        for patch in 0..rows * columns {
            let (top, left) = (patch / columns * side, patch % columns * side);
            for y in top..top + side {
                let start = (y * self.width + left) * 3;
                out.extend_from_slice(&values[start..start + side * 3]);
            }
        }
        Ok((out, rows, columns))
    }
}

/// The size that a rule gives a picture (docs/model.md, 3.13). Rounding is half to even.
pub fn size_by_rule(width: usize, height: usize, rule: &PictureRule) -> (usize, usize) {
    let stride = rule.stride as f64;
    let multiple = |v: f64| ((v / stride).round_ties_even() * stride).max(stride);
    let apply = |w: f64, h: f64, s: f64| {
        (
            multiple((w * s).round_ties_even()),
            multiple((h * s).round_ties_even()),
        )
    };
    let (w, h) = (width as f64, height as f64);
    let (long, short) = (w.max(h), w.min(h));
    let scale = (rule.max as f64 / long)
        .min(1.0)
        .max(rule.min as f64 / short);
    let (mut w, mut h) = apply(w, h, scale);
    // The reference takes the ratio of areas here, not its root.
    if w * h > rule.max_pixels as f64 {
        (w, h) = apply(w, h, rule.max_pixels as f64 / (w * h));
    }
    if w.max(h) > rule.max as f64 {
        (w, h) = apply(w, h, rule.max as f64 / w.max(h));
    }
    (w as usize, h as usize)
}

/// Bicubic resizing with antialiasing, bit for bit as Pillow 10 does it: horizontal pass first,
/// rounded to 8 bits, then vertical; weights are integers of 22 fractional bits.
///
/// # Errors
/// [`ModelError::Picture`] if the new size is no picture's size.
pub fn resize_bicubic(picture: &Picture, width: usize, height: usize) -> Result<Picture> {
    let mut rgb = picture.rgb.clone();
    if width != picture.width {
        let taps = Taps::new(picture.width, width);
        let mut out = Vec::with_capacity(width * picture.height * 3);
        for row in rgb.chunks_exact(picture.width * 3) {
            for x in 0..width {
                for c in 0..3 {
                    out.push(taps.sum(x, |i| row[i * 3 + c]));
                }
            }
        }
        rgb = out;
    }
    if height != picture.height {
        let taps = Taps::new(picture.height, height);
        let mut out = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for column in 0..width * 3 {
                out.push(taps.sum(y, |i| rgb[i * width * 3 + column]));
            }
        }
        rgb = out;
    }
    Picture::from_rgb(width, height, rgb)
}

/// The input samples of every output sample along one axis, with their integer weights.
struct Taps {
    taps: Vec<(usize, Vec<i64>)>,
}

const FRACTION_BITS: u32 = 22;

impl Taps {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = 2.0 * filter_scale;
        let tap = |x: usize| {
            let center = (x as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let weights: Vec<f64> = (first..end)
                .map(|i| cubic((i as f64 - center + 0.5) / filter_scale))
                .collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: f64| (w / sum * f64::from(1 << FRACTION_BITS)).round() as i64;
            (first, weights.into_iter().map(fixed).collect())
        };
        Taps {
            taps: (0..output).map(tap).collect(),
        }
    }

    fn sum(&self, at: usize, sample: impl Fn(usize) -> u8) -> u8 {
        let (first, weights) = &self.taps[at];
        let half = 1i64 << (FRACTION_BITS - 1);
        let sum = weights
            .iter()
            .enumerate()
            .fold(half, |sum, (k, w)| sum + w * i64::from(sample(first + k)));
        (sum >> FRACTION_BITS).clamp(0, 255) as u8
    }
}

/// The cubic convolution kernel with a = -0.5 (Keys, 1981).
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
