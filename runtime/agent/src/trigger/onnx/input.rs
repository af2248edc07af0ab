//! A frame as a network takes it.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Rgb};

use crate::config::{Channels, Fit, Layout, OnnxConfig};
use crate::frame::Picture;

/// The grey of the bars beside a picture of other proportions, as YOLO is trained with.
const GREY: u8 = 114;

/// How a frame becomes numbers.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) width: u32,
    pub(super) height: u32,
    fit: Fit,
    channels: Channels,
    layout: Layout,
    scale: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

/// Where in the network's picture the frame lies, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Place {
    /// A point in fractions of the frame.
    pub(super) fn fraction(&self, x: f64, y: f64) -> (f64, f64) {
        ((x - self.left) / self.width, (y - self.top) / self.height)
    }
}

impl Input {
    pub(super) fn new(config: &OnnxConfig, width: u32, height: u32) -> Self {
        let floats = |values: [f64; 3]| values.map(|v| v as f32);
        Input {
            width,
            height,
            fit: config.fit(),
            channels: config.channels,
            layout: config.layout,
            scale: config.scale.unwrap_or(1.0 / 255.0) as f32,
            mean: floats(config.mean),
            std: floats(config.std),
        }
    }

    /// `[1, 3, height, width]` or `[1, height, width, 3]`.
    pub(super) fn shape(&self) -> [usize; 4] {
        let (width, height) = (self.width as usize, self.height as usize);
        match self.layout {
            Layout::Nchw => [1, 3, height, width],
            Layout::Nhwc => [1, height, width, 3],
        }
    }

    /// The values, and where the frame lies in the picture that they are.
    pub(super) fn values(&self, picture: &Picture) -> (Vec<f32>, Place) {
        let (width, height) = match self.fit {
            Fit::Stretch => (self.width, self.height),
            Fit::Pad => {
                let across = f64::from(self.width) / f64::from(picture.width);
                let down = f64::from(self.height) / f64::from(picture.height);
                let ratio = across.min(down);
                let side = |pixels: u32, most: u32| {
                    ((f64::from(pixels) * ratio).round() as u32).clamp(1, most)
                };
                (
                    side(picture.width, self.width),
                    side(picture.height, self.height),
                )
            }
        };
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let resized = resized(picture, width, height);
        let pixels = self.width as usize * self.height as usize;
        let table = self.table();
        let mut values = vec![0.0; pixels * 3];
        for (c, table) in table.iter().enumerate() {
            let from = match self.channels {
                Channels::Rgb => c,
                Channels::Bgr => 2 - c,
            };
            for (i, at) in (0..pixels).map(|i| (i, self.index(c, i, pixels))) {
                let (x, y) = (i % self.width as usize, i / self.width as usize);
                let inside = x
                    .checked_sub(left as usize)
                    .zip(y.checked_sub(top as usize));
                let value = inside
                    .filter(|(x, y)| *x < width as usize && *y < height as usize)
                    .map_or(GREY, |(x, y)| resized[(y * width as usize + x) * 3 + from]);
                values[at] = table[usize::from(value)];
            }
        }
        let place = Place {
            left: f64::from(left),
            top: f64::from(top),
            width: f64::from(width),
            height: f64::from(height),
        };
        (values, place)
    }

    fn index(&self, channel: usize, pixel: usize, pixels: usize) -> usize {
        match self.layout {
            Layout::Nchw => channel * pixels + pixel,
            Layout::Nhwc => pixel * 3 + channel,
        }
    }

    /// What each of the 256 values becomes, a channel.
    fn table(&self) -> [[f32; 256]; 3] {
        let mut table = [[0.0; 256]; 3];
        for (c, row) in table.iter_mut().enumerate() {
            for (value, out) in row.iter_mut().enumerate() {
                *out = (value as f32 * self.scale - self.mean[c]) / self.std[c];
            }
        }
        table
    }
}

/// The picture at another size.
fn resized(picture: &Picture, width: u32, height: u32) -> Vec<u8> {
    let same = (picture.width, picture.height) == (width, height);
    let whole =
        ImageBuffer::<Rgb<u8>, &[u8]>::from_raw(picture.width, picture.height, &picture.rgb);
    match whole.filter(|_| !same) {
        Some(whole) => imageops::resize(&whole, width, height, FilterType::Triangle).into_raw(),
        None => picture.rgb.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lines: &str) -> OnnxConfig {
        toml::from_str(&format!("classes = ['a']\n{lines}")).unwrap()
    }

    #[test]
    fn channels_axes_and_bars_are_where_the_network_wants_them() {
        // Two pixels beside each other.
        let picture = Picture {
            width: 2,
            height: 1,
            rgb: vec![0, 51, 102, 153, 204, 255].into(),
        };
        let values = |lines: &str, w, h| Input::new(&config(lines), w, h).values(&picture);
        let (plain, _) = values("", 2, 1);
        let near = |got: &[f32], expected: &[f32]| {
            let off = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert_eq!(got.len(), expected.len());
            assert!(off.fold(0.0, f32::max) < 1e-6, "{got:?} {expected:?}");
        };
        near(&plain, &[0.0, 0.6, 0.2, 0.8, 0.4, 1.0]);
        let (other, _) = values("channels = 'bgr'\nlayout = 'nhwc'\nscale = 1", 2, 1);
        near(&other, &[102.0, 51.0, 0.0, 255.0, 204.0, 153.0]);
        let lines = "mean = [0, 0.2, 0.4]\nstd = [1, 2, 0.5]";
        near(&values(lines, 2, 1).0, &[0.0, 0.6, 0.0, 0.3, 0.0, 1.2]);
        let (padded, place) = values("fit = 'pad'\nscale = 1", 2, 3);
        near(&padded[..6], &[114.0, 114.0, 0.0, 153.0, 114.0, 114.0]);
        assert_eq!(place.fraction(1.0, 1.5), (0.5, 0.5));
        let (stretched, place) = values("", 4, 2);
        assert_eq!(stretched.len(), 24);
        assert_eq!(place.fraction(1.0, 1.0), (0.25, 0.5));
    }
}
