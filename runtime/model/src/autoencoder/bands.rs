//! Decoding large pictures in bands of rows.
//!
//! A plane is kept as bands in half precision. Convolutions read a band and the rows around it;
//! group norms need the moments of the whole plane, which are gathered while its bands are made. So
//! nothing is cut: the picture is the same as from whole planes, up to rounding to half precision.
//! What is held at once: one plane and its block's inner one, and a few bands in f32.

use std::collections::VecDeque;
use std::ops::Range;

use kinglet_kernels::{Device, GroupMoments};

use super::blocks::{Conv, GroupNorm, Plane, ResnetBlock};
use crate::error::Result;

/// A band holds this part of the largest plane that is held in one piece.
pub(super) const SHARE: usize = 8;
/// Fewer rows would mean that most work is spent on rows around the bands.
const LEAST_ROWS: usize = 8;

/// A plane in bands.
pub(super) struct Bands<D: Device> {
    bands: VecDeque<D::Half>,
    /// Bands from above that are not needed any more and were given back.
    gone: usize,
    /// Rows of every band but the last, which may have fewer.
    rows: usize,
    height: usize,
    width: usize,
    groups: usize,
    moments: GroupMoments,
    /// The most values of a band.
    most: usize,
}

impl<D: Device> Bands<D> {
    /// Cuts a plane into bands of about `most` values.
    pub(super) fn new(d: &D, x: Plane<D>, groups: usize, most: usize) -> Result<Self> {
        let (height, width) = (x.height, x.width);
        let channels = d.shape(&x.values).1;
        let shape = Shape {
            height,
            width,
            groups,
            most,
        };
        shape.make(d, channels, |rows| slice(d, &x.values, rows, width))
    }

    fn shape(&self) -> Shape {
        Shape {
            height: self.height,
            width: self.width,
            groups: self.groups,
            most: self.most,
        }
    }

    /// These rows in f32.
    fn read(&self, d: &D, rows: Range<usize>) -> Result<D::Buffer> {
        let (first, last) = (rows.start / self.rows, (rows.end - 1) / self.rows);
        let start = |band: usize| band * self.rows;
        if first == last {
            let band = d.restore(&self.bands[first - self.gone])?;
            let inner = rows.start - start(first)..rows.end - start(first);
            return slice(d, &band, inner, self.width);
        }
        let mut out: Option<D::Buffer> = None;
        for band in first..=last {
            let part = rows.start.max(start(band))..rows.end.min(start(band + 1));
            let values = d.restore(&self.bands[band - self.gone])?;
            let inner = part.start - start(band)..part.end - start(band);
            let values = slice(d, &values, inner, self.width)?;
            let out = match &mut out {
                Some(out) => out,
                None => out.insert(d.zeros(rows.len() * self.width, d.shape(&values).1)?),
            };
            let places = places(part.start - rows.start..part.end - rows.start, self.width);
            d.scatter_rows(out, &values, &places)?;
        }
        match out {
            Some(out) => Ok(out),
            None => Ok(d.zeros(0, 1)?),
        }
    }

    /// Gives back the bands above `row`, which is then the first that can be read.
    fn forget_above(&mut self, row: usize) {
        while self.gone < row / self.rows && self.bands.pop_front().is_some() {
            self.gone += 1;
        }
    }

    /// A residual block.
    pub(super) fn resnet(&mut self, d: &D, block: &ResnetBlock<D>) -> Result<()> {
        let mut inner = self.shape().make(d, block.conv1.outputs, |rows| {
            around(d, &block.conv1, rows, (self.height, self.width), |rows| {
                let x = self.read(d, rows)?;
                block.norm1.apply(d, &x, &self.moments, true)
            })
        })?;
        *self = self.shape().make(d, block.conv2.outputs, |rows| {
            let (height, width) = (self.height, self.width);
            let mut y = around(d, &block.conv2, rows.clone(), (height, width), |rows| {
                let first = rows.start;
                let x = inner.read(d, rows)?;
                inner.forget_above(first);
                block.norm2.apply(d, &x, &inner.moments, true)
            })?;
            let mut x = self.read(d, rows.clone())?;
            self.forget_above(rows.end);
            if let Some(shortcut) = &block.shortcut {
                x = shortcut.same(d, &x, rows.len(), width)?;
            }
            d.add(&mut y, &x)?;
            Ok(y)
        })?;
        Ok(())
    }

    /// Every pixel twice in both directions, and a convolution.
    pub(super) fn upsampled(mut self, d: &D, conv: &Conv<D>) -> Result<Self> {
        let size = (2 * self.height, 2 * self.width);
        let shape = Shape {
            height: size.0,
            width: size.1,
            ..self.shape()
        };
        shape.make(d, conv.outputs, |rows| {
            around(d, conv, rows, size, |rows| {
                let source = rows.start / 2..rows.end.div_ceil(2);
                let x = self.read(d, source.clone())?;
                self.forget_above(source.start);
                let larger = d.upsample_nearest(&x, source.len(), self.width)?;
                let first = 2 * source.start;
                slice(d, &larger, rows.start - first..rows.end - first, size.1)
            })
        })
    }

    /// The last norm and convolution: the picture.
    pub(super) fn last(self, d: &D, norm: &GroupNorm<D>, conv: &Conv<D>) -> Result<D::Buffer> {
        let (height, width) = (self.height, self.width);
        let mut out = d.zeros(height * width, conv.outputs)?;
        for start in (0..height).step_by(self.rows) {
            let rows = start..(start + self.rows).min(height);
            let y = around(d, conv, rows.clone(), (height, width), |rows| {
                norm.apply(d, &self.read(d, rows)?, &self.moments, true)
            })?;
            d.scatter_rows(&mut out, &y, &places(rows, width))?;
        }
        Ok(out)
    }
}

/// What all bands of a plane have in common.
struct Shape {
    height: usize,
    width: usize,
    groups: usize,
    most: usize,
}

impl Shape {
    /// A plane of `channels` whose rows `f` makes, band by band.
    fn make<D: Device>(
        &self,
        d: &D,
        channels: usize,
        mut f: impl FnMut(Range<usize>) -> Result<D::Buffer>,
    ) -> Result<Bands<D>> {
        let rows = (self.most / (self.width * channels).max(1)).max(LEAST_ROWS);
        let mut bands = VecDeque::new();
        let mut moments: Option<GroupMoments> = None;
        for start in (0..self.height).step_by(rows) {
            let band = f(start..(start + rows).min(self.height))?;
            let part = d.group_moments(&band, self.groups)?;
            moments = Some(moments.map_or(part.clone(), |m| m.join(&part)));
            bands.push_back(d.halve(&band)?);
        }
        Ok(Bands {
            bands,
            gone: 0,
            rows,
            height: self.height,
            width: self.width,
            groups: self.groups,
            moments: moments.unwrap_or(GroupMoments {
                count: 0.0,
                mean: Vec::new(),
                squares: Vec::new(),
            }),
            most: self.most,
        })
    }
}

/// The rows `rows` of a convolution of a plane of `size` (height, width), which `read` gives. The
/// zeros that the convolution adds above and below are right only at the picture's edge; elsewhere
/// more rows are read, and what saw zeros is left out.
fn around<D: Device>(
    d: &D,
    conv: &Conv<D>,
    rows: Range<usize>,
    size: (usize, usize),
    read: impl FnOnce(Range<usize>) -> Result<D::Buffer>,
) -> Result<D::Buffer> {
    let (height, width) = size;
    let reach = conv.kernel / 2;
    let wide = rows.start.saturating_sub(reach)..(rows.end + reach).min(height);
    let x = read(wide.clone())?;
    let y = conv.same(d, &x, wide.len(), width)?;
    slice(d, &y, rows.start - wide.start..rows.end - wide.start, width)
}

/// Some rows of a plane of this width.
fn slice<D: Device>(d: &D, x: &D::Buffer, rows: Range<usize>, width: usize) -> Result<D::Buffer> {
    Ok(d.gather_rows(x, &places(rows, width))?)
}

/// The places of these rows' pixels.
fn places(rows: Range<usize>, width: usize) -> Vec<u32> {
    (rows.start * width..rows.end * width)
        .map(|i| i as u32)
        .collect()
}
