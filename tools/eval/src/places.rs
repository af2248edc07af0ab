//! The judges of places, trained by tools/train/train_judge.py: what lies where in a picture, or that it is junk.
//!
//! A judge says for every cell of 8 pixels what covers it and where that thing's middle is. Cells that agree about a middle
//! are one thing.

use std::path::Path;

use kinglet_container::tensors::SafeTensors;
use kinglet_kernels::{ConvShape, Cpu, Device};

use crate::judge::{Weight, load, pooled};
use crate::program::{Result, data_error};

/// Side of the pictures that are judged.
pub const SIDE: usize = 112;
/// Side of a cell.
const CELL: usize = 8;
/// Channels of 3x3 convolutions; none halves the picture. As in train_judge.py.
const LAYERS: [Option<usize>; 11] = [
    Some(24),
    None,
    Some(48),
    Some(48),
    None,
    Some(64),
    Some(64),
    None,
    Some(128),
    Some(128),
    Some(128),
];
/// Cells that are further from each other's middle, in pixels, belong to different things.
const NEAR: f32 = 10.0;
/// Fewer cells are nothing.
const LEAST: usize = 3;

/// Something in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Thing {
    /// Its name; none if it is junk.
    pub name: Option<&'static str>,
    /// Its middle in pixels.
    pub x: f32,
    /// Its middle in pixels.
    pub y: f32,
    /// Cells that it covers.
    pub cells: usize,
}

/// The names of all kinds, in the order of the outputs.
pub fn names() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("../../train/objects.txt").lines();
    let rows = lines.filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.split_whitespace().next())
}

/// A judge.
pub struct Places {
    device: Cpu,
    convolutions: Vec<(Weight, Weight)>,
    head: (Weight, Weight),
}

impl Places {
    /// The judge in a safetensors file.
    ///
    /// # Errors
    /// [`crate::EvalError`] if the file is not sound.
    pub fn open(path: &Path) -> Result<Self> {
        let file = SafeTensors::open(path)?;
        let device = Cpu::best();
        let weight = |name: String| load(&device, file.get(&name)?);
        let pair = |name: &str| {
            let (w, b) = (format!("{name}.weight"), format!("{name}.bias"));
            Ok::<_, crate::EvalError>((weight(w)?, weight(b)?))
        };
        let convolutions = (0..LAYERS.iter().flatten().count()).map(|i| pair(&format!("conv.{i}")));
        Ok(Places {
            convolutions: convolutions.collect::<Result<_>>()?,
            head: pair("head")?,
            device,
        })
    }

    /// What is in a picture of `SIDE * SIDE` RGB pixels.
    ///
    /// # Errors
    /// [`crate::EvalError`] if the picture has another size.
    pub fn things(&self, rgb: &[u8]) -> Result<Vec<Thing>> {
        if rgb.len() != SIDE * SIDE * 3 {
            let reason = format!("{SIDE} x {SIDE} pixels are judged");
            return Err(data_error(Path::new("a picture"), reason));
        }
        let device = &self.device;
        let pixels: Vec<f32> = rgb.iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
        let (mut side, mut x) = (SIDE, device.upload(&pixels, 3)?);
        let mut convolutions = self.convolutions.iter();
        for layer in LAYERS {
            let (_, channels) = device.shape(&x);
            let values = match (layer, convolutions.as_slice()) {
                (Some(_), [(weight, bias), ..]) => {
                    convolutions.next();
                    let y = device.conv2d(&x, weight, bias, ConvShape::same(side, side, 3))?;
                    let channels = device.shape(&y).1;
                    let mut values = device.download(&y)?;
                    values.iter_mut().for_each(|v| *v = v.max(0.0));
                    (values, channels)
                }
                _ => {
                    side /= 2;
                    (pooled(&device.download(&x)?, 2 * side, channels), channels)
                }
            };
            x = device.upload(&values.0, values.1)?;
        }
        let scores = device.matmul(&x, &self.head.0, Some(&self.head.1))?;
        let outputs = device.shape(&scores).1;
        let scores = device.download(&scores)?;
        let names: Vec<&str> = names().collect();
        if outputs != names.len() + 4 {
            let reason = format!("it has {outputs} outputs for {} kinds", names.len());
            return Err(data_error(Path::new("a judge"), reason));
        }
        let cells: Vec<Cell> = scores.chunks_exact(outputs).map(Cell::of).collect();
        Ok(grouped(&cells, side, &names))
    }
}

/// What a judge says of a cell.
#[derive(Debug, Clone)]
struct Cell {
    /// Logarithms of the shares of all kinds, of nothing and of junk.
    shares: Vec<f32>,
    /// From the cell's middle to the thing's, in pixels.
    middle: (f32, f32),
}

impl Cell {
    fn of(outputs: &[f32]) -> Self {
        let (scores, middle) = outputs.split_at(outputs.len() - 2);
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = scores.iter().map(|s| (s - most).exp()).sum();
        let half = SIDE as f32 / 2.0;
        Cell {
            shares: scores.iter().map(|s| s - most - sum.ln()).collect(),
            middle: (middle[0] * half, middle[1] * half),
        }
    }

    fn is_nothing(&self, kinds: usize) -> bool {
        self.shares.iter().all(|share| *share <= self.shares[kinds])
    }
}

/// Cells with a common middle.
struct Group {
    x: f32,
    y: f32,
    count: usize,
    shares: Vec<f32>,
}

impl Group {
    fn distance(&self, x: f32, y: f32) -> (f32, f32) {
        let count = self.count as f32;
        ((self.x / count - x).abs(), (self.y / count - y).abs())
    }
}

fn grouped(cells: &[Cell], side: usize, names: &[&'static str]) -> Vec<Thing> {
    let mut groups: Vec<Group> = Vec::new();
    for (i, cell) in cells.iter().enumerate() {
        if cell.is_nothing(names.len()) {
            continue;
        }
        let own = |at: usize| ((at * CELL) as f32) + CELL as f32 / 2.0;
        let (x, y) = (own(i % side) + cell.middle.0, own(i / side) + cell.middle.1);
        let near = groups.iter_mut().filter(|g| {
            let (across, down) = g.distance(x, y);
            across < NEAR && down < NEAR
        });
        let far = |g: &&mut Group| {
            let (across, down) = g.distance(x, y);
            across + down
        };
        match near.min_by(|a, b| far(a).total_cmp(&far(b))) {
            Some(group) => {
                group.x += x;
                group.y += y;
                group.count += 1;
                for (sum, share) in group.shares.iter_mut().zip(&cell.shares) {
                    *sum += share;
                }
            }
            None => groups.push(Group {
                x,
                y,
                count: 1,
                shares: cell.shares.clone(),
            }),
        }
    }
    let thing = |group: Group| {
        // Nothing is no answer any more.
        let kinds = (0..group.shares.len()).filter(|kind| *kind != names.len());
        let best = kinds.max_by(|a, b| group.shares[*a].total_cmp(&group.shares[*b]));
        let count = group.count as f32;
        Thing {
            name: best.and_then(|kind| names.get(kind).copied()),
            x: group.x / count,
            y: group.y / count,
            cells: group.count,
        }
    };
    let kept = groups.into_iter().filter(|group| group.count >= LEAST);
    kept.map(thing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs for the kinds "cat" and "dog", nothing and junk.
    fn cell(kind: usize, middle: (f32, f32)) -> Cell {
        let mut outputs = vec![0.0; 6];
        outputs[kind] = 5.0;
        (outputs[4], outputs[5]) = (middle.0 / 56.0, middle.1 / 56.0);
        Cell::of(&outputs)
    }

    #[test]
    fn cells_that_agree_about_a_middle_are_one_thing() {
        // A row of cells: three of a cat, one of them taken for a dog, nothing, three of a dog that say where it is.
        let to = |i: usize, x: f32| (x - (8 * i + 4) as f32, 0.0);
        let mut cells: Vec<Cell> = (0..3)
            .map(|i| cell(usize::from(i == 1), to(i, 12.0)))
            .collect();
        cells.push(cell(2, (0.0, 0.0)));
        cells.extend((4..7).map(|i| cell(1, to(i, 44.0))));
        let things = grouped(&cells, 7, &["cat", "dog"]);
        let said: Vec<_> = things
            .iter()
            .map(|t| (t.name, t.x.round(), t.cells))
            .collect();
        assert_eq!(said, [(Some("cat"), 12.0, 3), (Some("dog"), 44.0, 3)]);
    }

    #[test]
    fn junk_has_no_name_and_specks_are_nothing() {
        let mut cells: Vec<Cell> = (0..3).map(|_| cell(3, (0.0, 0.0))).collect();
        cells[2].middle = (-16.0, 0.0);
        cells[1].middle = (-8.0, 0.0);
        cells.extend([cell(2, (0.0, 0.0)), cell(0, (0.0, 0.0))]);
        let things = grouped(&cells, 5, &["cat", "dog"]);
        assert_eq!(things.len(), 1);
        assert_eq!((things[0].name, things[0].cells), (None, 3));
    }

    #[test]
    fn there_are_as_many_names_as_kinds() {
        let all: std::collections::BTreeSet<_> = names().collect();
        assert_eq!((all.len(), names().count()), (210, 210));
    }
}
