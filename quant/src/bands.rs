//! Rows encoded on all threads, a band at a time, and handed out in order. Memory is that of some
//! bands, and the result does not depend on the number of threads.

use kinglet_kernels::Format;
use kinglet_kernels::blocks::{decode_row, encode_row_weighted};
use rayon::prelude::*;

use crate::error::{QuantError, Result};

/// Values of a band, about.
const VALUES: usize = 1 << 18;

/// Squared sums: of what encoding changed, and of all values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Squares {
    pub(crate) off: f64,
    pub(crate) all: f64,
}

impl Squares {
    pub(crate) fn add(&mut self, other: Squares) {
        self.off += other.off;
        self.all += other.all;
    }

    /// The relative L2 error.
    pub(crate) fn error(self) -> f64 {
        if self.all > 0.0 {
            (self.off / self.all).sqrt()
        } else {
            0.0
        }
    }
}

/// Reads row `i` of a matrix into a slice of its length.
pub(crate) type Read<'a> = dyn Fn(usize, &mut [f32]) -> Result<()> + Sync + 'a;

/// A matrix to be encoded.
pub(crate) struct Matrix<'a> {
    /// Its name, for refusals.
    pub(crate) name: &'a str,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) read: &'a Read<'a>,
    /// `[cols]`.
    pub(crate) importance: Option<&'a [f32]>,
}

impl Matrix<'_> {
    /// Encodes it; `sink` gets the bytes of its rows in order.
    ///
    /// # Errors
    /// [`QuantError::NotFinite`] for a value that the format cannot hold, and what `read` and `sink`
    /// refuse.
    pub(crate) fn encode(
        &self,
        to: Format,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Squares> {
        let band = (VALUES / self.cols.max(1)).max(1);
        let starts: Vec<usize> = (0..self.rows).step_by(band).collect();
        let mut squares = Squares::default();
        for starts in starts.chunks(2 * rayon::current_num_threads()) {
            let bands: Vec<(Vec<u8>, Squares)> = starts
                .par_iter()
                .map(|start| self.band(to, *start, (*start + band).min(self.rows)))
                .collect::<Result<_>>()?;
            for (bytes, of_band) in bands {
                sink(&bytes)?;
                squares.add(of_band);
            }
        }
        Ok(squares)
    }

    fn band(&self, to: Format, start: usize, end: usize) -> Result<(Vec<u8>, Squares)> {
        let mut bytes = Vec::new();
        let mut squares = Squares::default();
        let mut row = vec![0.0; self.cols];
        let mut back = vec![0.0; self.cols];
        for i in start..end {
            (self.read)(i, &mut row)?;
            let at = bytes.len();
            encode_row_weighted(to, &row, self.importance, &mut bytes)?;
            decode_row(to, &bytes[at..], &mut back)?;
            // A value may also be too large for the type that was chosen.
            let holds = |a: f32, b: f32| (a - b).is_finite() && a.abs() <= to.largest();
            let bad = row.iter().zip(&back).position(|(a, b)| !holds(*a, *b));
            if let Some(at) = bad {
                return Err(QuantError::NotFinite {
                    tensor: self.name.to_owned(),
                    row: i,
                    value: row[at],
                    format: to,
                });
            }
            for (a, b) in row.iter().zip(&back) {
                squares.off += f64::from(a - b).powi(2);
                squares.all += f64::from(*a).powi(2);
            }
        }
        Ok((bytes, squares))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_gives_the_same_bytes_and_error() {
        let value = |i: usize, j: usize| ((i * 7919 + j * 104_729) % 1000) as f32 / 500.0 - 1.0;
        let read = |i: usize, out: &mut [f32]| {
            for (j, v) in out.iter_mut().enumerate() {
                *v = value(i, j);
            }
            Ok(())
        };
        let matrix = Matrix {
            name: "w",
            rows: 1100,
            cols: 512,
            read: &read,
            importance: None,
        };
        let encode = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let mut out = Vec::new();
            let squares = pool.unwrap().install(|| {
                matrix.encode(Format::Q4_K, &mut |bytes| {
                    out.extend_from_slice(bytes);
                    Ok(())
                })
            });
            (out, squares.unwrap())
        };
        let (bytes, squares) = encode(1);
        assert_eq!(bytes.len(), 1100 * Format::Q4_K.row_bytes(512).unwrap());
        assert!(squares.error() > 0.0 && squares.error() < 0.1);
        assert_eq!(encode(3), (bytes, squares));
    }
}
