//! H.264 pictures, decoded.
//!
//! The decoder is `rusty_h264-decoder`: Rust without `unsafe` of its own, because the streams come from the
//! network, and without a C++ compiler for every board. It is young; what it does not decode (interlaced
//! pictures, other colours than 4:2:0 in 8 bits) it refuses.

use rusty_h264_decoder::Decoder;

use super::yuyv::pixel;
use crate::frame::Picture;

/// The most pixels of a picture: those of level 5.1. A decoder keeps up to 16 pictures.
pub(super) const LARGEST: u64 = 4096 * 2304;

/// Decodes the pictures of one stream, in their order.
#[derive(Default)]
pub(super) struct H264 {
    decoder: Decoder,
}

impl H264 {
    /// Takes an access unit in Annex B form, and gives its picture if it is `wanted`. Every unit since the
    /// last key picture must be given, wanted or not.
    pub(super) fn decode(&mut self, unit: &[u8], wanted: bool) -> Result<Option<Picture>, String> {
        let decoded = self
            .decoder
            .decode(unit)
            .map_err(|e| format!("a picture of {} bytes cannot be decoded: {e}", unit.len()))?;
        match decoded {
            Some(f) if wanted => rgb(f.width, f.height, [&f.y, &f.u, &f.v]).map(Some),
            _ => Ok(None),
        }
    }
}

/// Planes of brightness and of both colours as RGB, by ITU-R BT.601, limited range, as everywhere here.
fn rgb(width: usize, height: usize, [y, u, v]: [&[u8]; 3]) -> Result<Picture, String> {
    let refuse = || format!("a picture of {width}x{height} has other planes than it should");
    if width == 0 || height == 0 || (width * height) as u64 > LARGEST {
        return Err(refuse());
    }
    let chroma = width.div_ceil(2);
    let rows = height.div_ceil(2);
    if y.len() != width * height || u.len() != chroma * rows || v.len() != chroma * rows {
        return Err(refuse());
    }
    let mut rgb = Vec::with_capacity(width * height * 3);
    // Two lines share a line of each colour, and two pixels a pixel of it.
    let colours = u.chunks_exact(chroma).zip(v.chunks_exact(chroma));
    for (lines, (u, v)) in y.chunks(2 * width).zip(colours) {
        for line in lines.chunks_exact(width) {
            for (pair, (u, v)) in line.chunks(2).zip(u.iter().zip(v)) {
                for y in pair {
                    rgb.extend_from_slice(&pixel(*y, *u, *v));
                }
            }
        }
    }
    Ok(Picture {
        width: width as u32,
        height: height as u32,
        rgb: rgb.into(),
    })
}
