//! Rectangles of a picture, in fractions of it, as users write them: they hold at any resolution.

use crate::config::error;
use crate::error::Result;

/// Rectangles of one key.
const MOST: usize = 64;
/// What rounding may add to 0.3 + 0.7.
const ROUNDING: f64 = 1e-6;

/// A rectangle in fractions of the picture, from its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Area {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) right: f64,
    pub(crate) bottom: f64,
}

impl Area {
    /// Whether it shares more than an edge with another one.
    pub(crate) fn meets(&self, other: &Area) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    /// `[x, y, width, height]`, as far as it is within the picture.
    pub(crate) fn of([x, y, width, height]: [f64; 4]) -> Self {
        let (left, top) = (x.clamp(0.0, 1.0), y.clamp(0.0, 1.0));
        Area {
            left,
            top,
            right: (x + width).clamp(left, 1.0),
            bottom: (y + height).clamp(top, 1.0),
        }
    }

    /// As pixels of a picture: left, top, width, height; at least one pixel each way.
    pub(crate) fn pixels(&self, width: u32, height: u32) -> [usize; 4] {
        let span = |from: f64, to: f64, size: u32| {
            let last = (size as usize).saturating_sub(1);
            let start = ((from * f64::from(size)) as usize).min(last);
            let end = ((to * f64::from(size)).ceil() as usize).clamp(start + 1, last + 1);
            (start, end - start)
        };
        let (left, width) = span(self.left, self.right, width);
        let (top, height) = span(self.top, self.bottom, height);
        [left, top, width, height]
    }

    /// `[x, y, width, height]`, as users write it.
    pub(crate) fn fractions(&self) -> [f64; 4] {
        let (width, height) = (self.right - self.left, self.bottom - self.top);
        // Thousandths are as fine as anybody needs.
        [self.left, self.top, width, height].map(|x| (x * 1000.0).round() / 1000.0)
    }

    /// Whether a point is within.
    #[cfg(feature = "onnx")]
    pub(crate) fn holds(&self, x: f64, y: f64) -> bool {
        (self.left..=self.right).contains(&x) && (self.top..=self.bottom).contains(&y)
    }
}

/// Checks one rectangle.
pub(crate) fn read_one(field: &str, rectangle: [f64; 4]) -> Result<Area> {
    read(field, &[rectangle]).map(|areas| areas[0])
}

/// Checks `[[x, y, width, height], ...]`, the value of the key `field`.
pub(crate) fn read(field: &str, rectangles: &[[f64; 4]]) -> Result<Vec<Area>> {
    let refuse = |value: String, expected: &str| Err(error(field, &value, expected));
    if rectangles.len() > MOST {
        let expected = format!("are too many; {MOST} are accepted");
        return refuse(rectangles.len().to_string(), &expected);
    }
    let mut areas = Vec::new();
    for [x, y, width, height] in rectangles {
        let (right, bottom) = (x + width, y + height);
        let inside = |from: f64, size: f64, to: f64| {
            (0.0..=1.0).contains(&from) && size > 0.0 && to <= 1.0 + ROUNDING
        };
        if !inside(*x, *width, right) || !inside(*y, *height, bottom) {
            let expected = "is no part of the picture: x, y, width and height in fractions of it, 0 to 1, are expected";
            return refuse(format!("[{x}, {y}, {width}, {height}]"), expected);
        }
        areas.push(Area {
            left: *x,
            top: *y,
            right,
            bottom,
        });
    }
    Ok(areas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_within_the_picture() {
        let area = |rectangle| read_one("x", rectangle).unwrap();
        assert_eq!(area([0.0, 0.0, 1.0, 1.0]).pixels(7, 5), [0, 0, 7, 5]);
        assert_eq!(area([0.5, 0.25, 0.5, 0.5]).pixels(8, 4), [4, 1, 4, 2]);
        assert_eq!(
            area([1.0 - 1e-9, 0.3, 1e-9, 0.7]).pixels(1, 1),
            [0, 0, 1, 1]
        );
        assert_eq!(area([0.3, 0.3, 0.4, 0.4]).fractions(), [0.3, 0.3, 0.4, 0.4]);
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
            let refused = read("camera.mask", &[bad]).unwrap_err().to_string();
            assert!(refused.contains("camera.mask"), "{refused}");
            assert!(refused.contains("fractions"), "{refused}");
        }
        assert!(read("camera.mask", &[[0.0, 0.0, 0.1, 0.1]; 65]).is_err());
    }
}
