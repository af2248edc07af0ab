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

    /// Whether a point is within.
    #[cfg(feature = "onnx")]
    pub(crate) fn holds(&self, x: f64, y: f64) -> bool {
        (self.left..=self.right).contains(&x) && (self.top..=self.bottom).contains(&y)
    }
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
