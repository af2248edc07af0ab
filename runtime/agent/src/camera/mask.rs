//! Parts of a picture that nobody may see: blackened before anything else has the frame.

use crate::area::Area;

impl Area {
    /// Blackens its part of `rgb` `[height, width, 3]`; a pixel that it touches is black.
    pub(super) fn blacken(&self, rgb: &mut [u8], width: u32) {
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
    use crate::area::read;

    fn black(mask: [f64; 4], width: u32, height: u32) -> Vec<(u32, u32)> {
        let mut rgb = vec![255; (width * height * 3) as usize];
        read("camera.mask", &[mask]).unwrap()[0].blacken(&mut rgb, width);
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
}
