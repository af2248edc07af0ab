//! YUYV, what most sensors and webcams give, as RGB.

use crate::frame::Picture;

/// A frame in YUYV: two pixels in four bytes, each with a brightness and both with the same colour.
#[derive(Debug, Clone, Copy)]
pub struct Yuyv<'a> {
    /// The bytes of all lines.
    pub bytes: &'a [u8],
    /// Width in pixels, even.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from one line to the next.
    pub stride: usize,
}

impl Yuyv<'_> {
    /// The frame as RGB by ITU-R BT.601, limited range (brightness 16 to 235), which is what a camera
    /// that says nothing else means.
    ///
    /// # Errors
    /// The reason, if the width is odd or bytes are missing.
    pub fn to_rgb(self) -> Result<Picture, String> {
        let Yuyv {
            bytes,
            width,
            height,
            stride,
        } = self;
        let line = width as usize * 2;
        let (lines, pixels) = (height as usize, width as usize * height as usize);
        if width == 0 || height == 0 || width % 2 == 1 || stride < line {
            return Err(format!(
                "a YUYV frame of {width}x{height} with lines of {stride} bytes cannot be"
            ));
        }
        let needed = stride
            .checked_mul(lines - 1)
            .and_then(|n| n.checked_add(line));
        if needed.is_none_or(|needed| bytes.len() < needed) {
            return Err(format!(
                "a YUYV frame of {width}x{height} is cut off after {} bytes",
                bytes.len()
            ));
        }
        let mut rgb = Vec::with_capacity(pixels * 3);
        for line in bytes
            .chunks(stride)
            .take(lines)
            .filter_map(|l| l.get(..line))
        {
            for four in line.as_chunks().0 {
                let [y0, u, y1, v] = *four;
                rgb.extend_from_slice(&pixel(y0, u, v));
                rgb.extend_from_slice(&pixel(y1, u, v));
            }
        }
        Ok(Picture {
            width,
            height,
            rgb: rgb.into(),
        })
    }
}

/// One pixel. ITU-R BT.601-7, 2.5: Y = 16 + 219 E'Y, C = 128 + 224 E'C with luma coefficients 0.299,
/// 0.587, 0.114, solved for 8-bit R, G, B; factors in 1/256, rounded.
pub(crate) fn pixel(y: u8, u: u8, v: u8) -> [u8; 3] {
    let y = 298 * (i32::from(y) - 16) + 128;
    let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
    [y + 409 * v, y - 100 * u - 208 * v, y + 516 * u].map(|c| (c >> 8).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_the_standard() {
        let unit = |c: f64| c.clamp(0.0, 255.0);
        for y in (0..=255u8).step_by(3) {
            for u in (0..=255u8).step_by(5) {
                for v in (0..=255u8).step_by(5) {
                    let luma = (f64::from(y) - 16.0) / 219.0;
                    let (cb, cr) = (
                        (f64::from(u) - 128.0) / 224.0,
                        (f64::from(v) - 128.0) / 224.0,
                    );
                    let (r, b) = (luma + 1.402 * cr, luma + 1.772 * cb);
                    let g = (luma - 0.299 * r - 0.114 * b) / 0.587;
                    let rgb = pixel(y, u, v);
                    for (ours, exact) in rgb.into_iter().zip([r, g, b]) {
                        let exact = unit(exact * 255.0);
                        assert!(
                            (f64::from(ours) - exact).abs() <= 1.0,
                            "{y} {u} {v}: {ours} instead of {exact}"
                        );
                    }
                }
            }
        }
        assert_eq!(pixel(16, 128, 128), [0; 3]);
        assert_eq!(pixel(235, 128, 128), [255; 3]);
    }

    #[test]
    fn lines_may_be_padded_and_the_last_one_need_not_be() {
        let bytes = [16, 128, 235, 128, 9, 9, 235, 128, 16, 128];
        let frame = Yuyv {
            bytes: &bytes,
            width: 2,
            height: 2,
            stride: 6,
        };
        let picture = frame.to_rgb().unwrap();
        assert_eq!(
            *picture.rgb,
            [0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0, 0]
        );
        for (width, height, stride, len) in [
            (2, 2, 6, 9),
            (3, 1, 6, 10),
            (2, 2, 3, 10),
            (0, 2, 6, 10),
            (2, 0, 6, 10),
            (u32::MAX - 1, u32::MAX, usize::MAX, 10),
        ] {
            let frame = Yuyv {
                bytes: &bytes[..len],
                width,
                height,
                stride,
            };
            assert!(frame.to_rgb().is_err(), "{frame:?}");
        }
    }
}
