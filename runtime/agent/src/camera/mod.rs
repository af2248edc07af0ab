//! Sources of frames, one file a kind.
//!
//! # Layout
//! - `folder`, `snapshot`, `mjpeg`, `rtsp`, `v4l2`: the kinds, listed in `KINDS`.
//! - `source`: what a kind is; `retry`: one connection after another; `feed`: the way of a frame from a
//!   kind to the slot: rate, masks, counters; `mask`; `report`: the counters.
//! - `http`: fetching from a camera; `address`: its URL, whose secrets are never shown; [`multipart`]:
//!   frames in a stream of bytes.
//! - `h264`: pictures of a stream, decoded; [`yuyv`]: pixels of a sensor as RGB; `jpeg`: what webcams
//!   leave out of their frames.

mod address;
#[cfg(test)]
mod configured;
mod feed;
mod folder;
mod h264;
mod http;
mod jpeg;
mod mask;
mod mjpeg;
pub mod multipart;
mod report;
mod retry;
mod rtsp;
#[cfg(test)]
mod rtsp_tests;
mod snapshot;
mod source;
#[cfg(test)]
mod tests;
mod v4l2;
pub mod yuyv;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::area::{self, Area};
use crate::config::{CameraConfig, error};
use crate::error::{AgentError, Result};
use crate::frame::Picture;
use crate::slot::Slot;
use feed::Feed;
pub(crate) use report::Report;
pub use report::{CameraReport, CameraState};
use source::Source;
pub use v4l2::formats;

/// Every kind of camera: what its source begins with, and who reads the rest.
const KINDS: &[(&str, source::Parse)] = &[
    ("folder:", folder::parse),
    ("v4l2:", v4l2::parse),
    ("mjpeg:", mjpeg::parse),
    ("snapshot:", snapshot::parse),
    ("rtsp:", rtsp::parse),
];

/// Frames a second that may be asked for.
const FRAME_RATES: RangeInclusive<f64> = 0.001..=120.0;
/// The most memory that decoding a camera's picture may take, in bytes: 21 megapixels of RGB.
const DECODE_BYTES: u64 = 64 << 20;

/// A camera's picture, a PNG, JPEG or WebP file, decoded within what a camera may cost.
///
/// # Errors
/// The reason, if it is none of these, damaged or too large.
pub fn decode(bytes: &[u8]) -> std::result::Result<Picture, String> {
    Picture::decode_within(&jpeg::with_tables(bytes), DECODE_BYTES)
}

/// A camera that can be started.
pub(crate) struct Camera {
    name: String,
    source: Box<dyn Source>,
    rate: f64,
    masks: Vec<Area>,
}

impl Camera {
    /// Reads a camera's configuration without looking at any file.
    ///
    /// # Errors
    /// [`AgentError::Config`].
    pub(crate) fn read(config: &CameraConfig) -> Result<Self> {
        let found = KINDS
            .iter()
            .find_map(|(kind, parse)| Some((config.source.strip_prefix(kind)?, parse)));
        let Some((rest, parse)) = found else {
            let kinds: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
            // The source may be an address with a password behind a misspelt kind: it is not shown.
            let expected = format!(
                "has a source that is not understood; it begins with one of {}",
                kinds.join(", ")
            );
            return Err(error("camera", &config.name, &expected));
        };
        let parsed = parse(rest, config)?;
        let rate = config.fps.unwrap_or(parsed.rate);
        if !FRAME_RATES.contains(&rate) {
            let expected = "is no rate: 0.001 to 120 frames a second are accepted";
            return Err(error("camera.fps", &rate.to_string(), expected));
        }
        Ok(Camera {
            name: config.name.clone(),
            source: parsed.source,
            rate,
            masks: area::read("camera.mask", &config.mask)?,
        })
    }

    /// Frames a second that are asked of it.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    /// Starts the camera's thread. It ends when the slot is closed. Relative paths are relative to
    /// `folder`.
    ///
    /// # Errors
    /// [`AgentError::Config`] if a file that it needs cannot be read, [`AgentError::Start`] if the
    /// system gives no thread.
    pub(crate) fn start(
        self,
        folder: &Path,
        slot: Arc<Slot>,
        report: Arc<Report>,
    ) -> Result<JoinHandle<()>> {
        let mut source = self.source;
        source.prepare(folder)?;
        let name = format!("camera-{}", self.name);
        let mut feed = Feed::new(self.name, self.rate, self.masks, slot, report);
        std::thread::Builder::new()
            .name(name)
            .spawn(move || retry::run(source.as_mut(), &mut feed))
            .map_err(|e| AgentError::Start {
                what: "a camera",
                reason: e.to_string(),
            })
    }
}
