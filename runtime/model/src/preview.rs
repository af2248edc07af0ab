//! A small picture of a drawing that is not done: a linear map from latents to colours.
//!
//! The autoencoder's decoder costs as much as several steps; a linear map of each latent pixel costs
//! nothing and shows what is going to be where. It is fitted once, when a container is made, and
//! stored with it.

use kinglet_kernels::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::autoencoder::{Autoencoder, to_bytes};
use crate::config::{Config, LatentConfig};
use crate::error::{ModelError, Result};
use crate::picture::Picture;

/// Colours of a pixel.
const COLOURS: usize = 3;
/// Made-up pictures that a map is fitted on.
const PICTURES: usize = 12;
/// Their side in tokens. Small: an autoencoder of the release's size encodes on a desk's processor.
const SIDE: usize = 8;
/// Added to the diagonal, as a share of it, so that channels that say the same can be solved.
const RIDGE: f64 = 1e-4;

/// The number of values of a map: for each colour one weight a channel and one constant.
pub const fn values(latent: &LatentConfig) -> usize {
    COLOURS * (latent.channels + 1)
}

/// Fits the map `[colour, channels + 1]` by least squares: the autoencoder encodes pictures of
/// coloured shapes, and each latent pixel shall give the mean colour (-1..1) of the pixels under it.
///
/// # Errors
/// What the device refuses.
pub fn fit<D: Device>(d: &D, autoencoder: &Autoencoder<D>, config: &Config) -> Result<Vec<f32>> {
    let latent = &config.latent;
    let unknowns = latent.channels + 1;
    let mut squares = vec![0.0; unknowns * unknowns];
    let mut products = vec![vec![0.0; unknowns]; COLOURS];
    let side = SIDE * latent.patch;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for _ in 0..PICTURES {
        let pixels = shapes(&mut rng, side * latent.downsample);
        let size = side * latent.downsample;
        let moments = autoencoder.moments(d, &d.upload(&pixels, COLOURS)?, size, size)?;
        let latents = d.download(&autoencoder.latents(d, &moments, None)?)?;
        for (at, channels) in latents.chunks_exact(latent.channels).enumerate() {
            let mean = mean_colour(&pixels, size, latent.downsample, at / side, at % side);
            let row = |i: usize| channels.get(i).map_or(1.0, |v| f64::from(*v));
            for i in 0..unknowns {
                for j in 0..unknowns {
                    squares[i * unknowns + j] += row(i) * row(j);
                }
                for (product, colour) in products.iter_mut().zip(mean) {
                    product[i] += row(i) * colour;
                }
            }
        }
    }
    for i in 0..unknowns {
        squares[i * (unknowns + 1)] *= 1.0 + RIDGE;
    }
    let mut map = Vec::with_capacity(values(latent));
    for product in products {
        let solution = solve(squares.clone(), product);
        map.extend(solution.iter().map(|v| *v as f32));
    }
    Ok(map)
}

/// The picture of scaled latents `[height * width, channels]` by a map of [`fit`]: one pixel each.
///
/// # Errors
/// [`ModelError::Picture`] if the sizes do not fit each other.
pub fn picture(map: &[f32], latents: &[f32], width: usize, height: usize) -> Result<Picture> {
    let unknowns = map.len() / COLOURS;
    let channels = unknowns.saturating_sub(1);
    if channels == 0 || latents.len() != width * height * channels {
        return Err(ModelError::Picture(format!(
            "{} latents are no {width}x{height} picture of {channels} channels",
            latents.len()
        )));
    }
    let mut rgb = Vec::with_capacity(width * height * COLOURS);
    for pixel in latents.chunks_exact(channels) {
        for row in map.chunks_exact(unknowns) {
            let sum: f32 = row.iter().zip(pixel).map(|(w, v)| w * v).sum();
            rgb.push(sum + row[channels]);
        }
    }
    Picture::from_rgb(width, height, to_bytes(&rgb))
}

/// A picture of values in -1..1, `[side * side, 3]`: a gradient, and ellipses and boxes upon it.
fn shapes(rng: &mut ChaCha8Rng, side: usize) -> Vec<f32> {
    let mut colour = || [(); COLOURS].map(|()| rng.random_range(-1.0..1.0f32));
    let (from, to) = (colour(), colour());
    let mut pixels = Vec::with_capacity(side * side * COLOURS);
    for at in 0..side * side {
        let share = (at / side + at % side) as f32 / (2 * side) as f32;
        pixels.extend((0..COLOURS).map(|c| from[c] + share * (to[c] - from[c])));
    }
    for shape in 0..6 {
        let colour = [(); COLOURS].map(|()| rng.random_range(-1.0..1.0f32));
        let mut place = || rng.random_range(0.0..side as f32);
        let (x, y) = (place(), place());
        let (wide, high) = (place() / 3.0 + 1.0, place() / 3.0 + 1.0);
        for (at, pixel) in pixels.chunks_exact_mut(COLOURS).enumerate() {
            let across = ((at % side) as f32 - x) / wide;
            let down = ((at / side) as f32 - y) / high;
            let inside = match shape % 2 {
                0 => across * across + down * down < 1.0,
                _ => across.abs() < 1.0 && down.abs() < 1.0,
            };
            if inside {
                pixel.copy_from_slice(&colour);
            }
        }
    }
    pixels
}

/// The mean colour of the pixels under a latent pixel.
fn mean_colour(pixels: &[f32], side: usize, cell: usize, row: usize, column: usize) -> [f64; 3] {
    let mut sum = [0.0; COLOURS];
    for y in row * cell..(row + 1) * cell {
        for x in column * cell..(column + 1) * cell {
            for (c, s) in sum.iter_mut().enumerate() {
                *s += f64::from(pixels[(y * side + x) * COLOURS + c]);
            }
        }
    }
    sum.map(|s| s / (cell * cell) as f64)
}

/// Solves `a x = b` for a symmetric positive `a` by elimination; a pivot of zero gives a zero.
fn solve(mut a: Vec<f64>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        let pivot = a[i * n + i];
        if pivot <= f64::EPSILON {
            continue;
        }
        for row in i + 1..n {
            let factor = a[row * n + i] / pivot;
            for column in i..n {
                a[row * n + column] -= factor * a[i * n + column];
            }
            b[row] -= factor * b[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i * n + j] * b[j]).sum();
        let pivot = a[i * n + i];
        b[i] = if pivot <= f64::EPSILON {
            0.0
        } else {
            (b[i] - known) / pivot
        };
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_of_three_is_solved() {
        let a = vec![4.0, 1.0, 0.0, 1.0, 3.0, 1.0, 0.0, 1.0, 2.0];
        let x = solve(a, vec![6.0, 10.0, 8.0]);
        for (got, expected) in x.iter().zip([1.0, 2.0, 3.0]) {
            assert!((got - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn latents_that_do_not_fit_are_refused() {
        assert!(picture(&[0.0; 6], &[0.0; 5], 2, 2).is_err());
        assert!(picture(&[], &[], 0, 0).is_err());
    }
}
