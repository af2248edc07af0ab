//! Pictures of a camera.

use std::io::Cursor;
use std::sync::Arc;

use image::{ImageReader, Limits};
use time::OffsetDateTime;

/// The longest side of a picture from outside, in pixels.
pub const LONGEST_SIDE: u32 = 16_384;
/// The most memory that decoding a picture may take, in bytes.
pub const DECODE_BYTES: u64 = 512 << 20;
const JPEG_QUALITY: u8 = 90;

/// An RGB picture, 8 bits a channel, shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `[height, width, 3]`.
    pub rgb: Arc<[u8]>,
}

impl Picture {
    /// Decodes a PNG, JPEG or WebP file; what is wrong with it is said in words.
    ///
    /// # Errors
    /// The reason, if it is none of these, damaged or too large.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        Self::decode_within(bytes, DECODE_BYTES)
    }

    /// The same, with at most this many bytes of memory for the pixels.
    ///
    /// # Errors
    /// The reason, if it is none of these, damaged or too large.
    pub fn decode_within(bytes: &[u8], most: u64) -> Result<Self, String> {
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| e.to_string())?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(LONGEST_SIDE);
        limits.max_image_height = Some(LONGEST_SIDE);
        limits.max_alloc = Some(most);
        reader.limits(limits);
        let decoded = reader
            .decode()
            .map_err(|e| format!("a picture of {} bytes cannot be decoded: {e}", bytes.len()))?;
        Ok(Picture {
            width: decoded.width(),
            height: decoded.height(),
            rgb: decoded.into_rgb8().into_raw().into(),
        })
    }

    /// A part of it: left, top, width, height in pixels; what is outside of the picture is left out.
    #[must_use]
    pub fn crop(&self, [left, top, width, height]: [usize; 4]) -> Self {
        let (across, down) = (self.width as usize, self.height as usize);
        let (left, top) = (left.min(across), top.min(down));
        let (width, height) = (width.min(across - left), height.min(down - top));
        let rows = self.rgb.chunks_exact((across * 3).max(1));
        let rows = rows.skip(top).take(height);
        let rgb = rows.flat_map(|row| &row[left * 3..(left + width) * 3]);
        Picture {
            width: width as u32,
            height: height as u32,
            rgb: rgb.copied().collect(),
        }
    }

    /// The picture as a JPEG file.
    ///
    /// # Errors
    /// The reason, if it cannot be encoded.
    pub fn to_jpeg(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY)
            .encode(
                &self.rgb,
                self.width,
                self.height,
                image::ExtendedColorType::Rgb8,
            )
            .map_err(|e| e.to_string())?;
        Ok(out)
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// The reason, if it cannot be encoded.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        let mut out = Cursor::new(Vec::new());
        image::write_buffer_with_format(
            &mut out,
            &self.rgb,
            self.width,
            self.height,
            image::ExtendedColorType::Rgb8,
            image::ImageFormat::Png,
        )
        .map_err(|e| e.to_string())?;
        Ok(out.into_inner())
    }
}

/// A picture of a camera.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Grows by one with every frame of its camera, from 1.
    pub number: u64,
    /// When it was taken.
    pub at: OffsetDateTime,
    /// What is in it.
    pub picture: Picture,
}
