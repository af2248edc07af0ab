//! Parts of a picture that nobody may see: blackened before anything else has the frame.

use crate::config::error;
use crate::error::Result;

/// Masks of one camera.
const MOST: usize = 64;
/// What rounding may add to 0.3 + 0.7.
const ROUNDING: f64 = 1e-6;

/// A rectangle in fractions of the picture, from its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mask {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

/// Checks `[[x, y, width, height], ...]`.
pub(super) fn read(rectangles: &[[f64; 4]]) -> Result<Vec<Mask>> {
    let refuse = |value: String, expected: &str| Err(error("camera.mask", &value, expected));
    if rectangles.len() > MOST {
        let expected = format!("are too many; {MOST} are accepted");
        return refuse(rectangles.len().to_string(), &expected);
    }
    let mut masks = Vec::new();
    for [x, y, width, height] in rectangles {
        let (right, bottom) = (x + width, y + height);
        let inside = |from: f64, size: f64, to: f64| {
            (0.0..=1.0).contains(&from) && size > 0.0 && to <= 1.0 + ROUNDING
        };
        if !inside(*x, *width, right) || !inside(*y, *height, bottom) {
            let expected = "is no part of the picture: x, y, width and height in fractions of it, 0 to 1, are expected";
            return refuse(format!("[{x}, {y}, {width}, {height}]"), expected);
        }
        masks.push(Mask {
            left: *x,
            top: *y,
            right,
            bottom,
        });
    }
    Ok(masks)
}

impl Mask {
    /// Blackens its part of `rgb` `[height, width, 3]`; a pixel that it touches is black.
    pub(super) fn apply(&self, rgb: &mut [u8], width: u32) {
        let width = width as usize;
        if width == 0 {
            return;
        }
        let rows = rgb.len() / (width * 3);
        let span = |from: f64, to: f64, size: usize| {
            let from = ((from * size as f64).floor() as usize).min(size);
            let to = ((to * size as f64).ceil() as usize).clamp(from, size);
            from..to
        };
        let columns = span(self.left, self.right, width);
        for row in span(self.top, self.bottom, rows) {
            let start = row * width * 3;
            if let Some(part) = rgb.get_mut(start + columns.start * 3..start + columns.end * 3) {
                part.fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn black(mask: [f64; 4], width: u32, height: u32) -> Vec<(u32, u32)> {
        let mut rgb = vec![255; (width * height * 3) as usize];
        read(&[mask]).unwrap()[0].apply(&mut rgb, width);
        let pixels = rgb.chunks_exact(3).enumerate();
        let black = pixels.filter(|(_, p)| p.iter().all(|c| *c == 0));
        black
            .map(|(i, _)| (i as u32 % width, i as u32 / width))
            .collect()
    }

    #[test]
    fn every_pixel_that_a_mask_touches_is_black_and_no_other() {
        assert_eq!(black([0.0, 0.0, 1.0, 1.0], 3, 2).len(), 6);
        assert_eq!(black([0.5, 0.5, 0.5, 0.5], 4, 2), [(2, 1), (3, 1)]);
        // Half a pixel more on each side.
        assert_eq!(
            black([0.375, 0.25, 0.25, 0.5], 4, 2),
            [(1, 0), (2, 0), (1, 1), (2, 1)]
        );
        assert_eq!(black([0.3, 0.0, 0.7, 0.01], 10, 1).len(), 7);
    }

    #[test]
    fn what_is_no_part_of_a_picture_is_refused() {
        for bad in [
            [-0.1, 0.0, 0.5, 0.5],
            [0.6, 0.0, 0.5, 0.5],
            [0.0, 0.0, 0.0, 0.5],
            [0.0, 0.0, 0.5, -0.5],
            [0.0, f64::NAN, 0.5, 0.5],
            [0.0, 0.0, f64::INFINITY, 0.5],
            [10.0, 20.0, 64.0, 64.0],
        ] {
            let refused = read(&[bad]).unwrap_err().to_string();
            assert!(refused.contains("fractions"), "{refused}");
        }
        assert!(read(&[[0.0, 0.0, 0.1, 0.1]; 65]).is_err());
    }
}
