//! The judges of places, trained by tools/train/train_judge.py: what lies where in a picture, or that it is junk.
//!
//! A judge says for every cell of 8 pixels what covers it, how large that is and where its middle lies; of several judges
//! the mean counts. Cells that agree about a middle are one thing.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kinglet_container::tensors::SafeTensors;
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::{ConvShape, Cpu, Device, Format, Role, WeightData};

use serde::Deserialize;

use crate::error::{EvalError, Result, data_error};

type Weight = <Cpu as Device>::Weight;

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
/// By how much of a thing's size a cell may differ about its middle, if what it names may be the thing's kind or not: if
/// that kind is at most e^DOUBT times less likely than the likeliest. As in train_judge.py.
const SAME: f32 = 0.45;
const OTHER: f32 = 0.15;
const DOUBT: f32 = 6.0;
/// Fewer cells are nothing.
const LEAST: usize = 3;
/// Values beside the kinds: nothing, junk, the middle's two coordinates and the size.
const MORE: usize = 5;

/// Something in a picture.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Thing {
    /// Its name; none if it is junk.
    pub name: Option<String>,
    /// Its middle in pixels.
    pub x: f32,
    /// Its middle in pixels.
    pub y: f32,
    /// Its longest side in pixels.
    pub size: f32,
}

/// The names of all kinds, in the order of the outputs.
pub fn names() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("../../train/objects.txt").lines();
    let rows = lines.filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.split_whitespace().next())
}

/// Judges.
pub struct Places(Vec<Net>);

impl Places {
    /// The judges in safetensors files.
    ///
    /// # Errors
    /// [`crate::EvalError`] if a file is not sound.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let nets = paths.iter().map(|path| Net::open(path));
        Ok(Places(nets.collect::<Result<_>>()?))
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
        let names: Vec<&str> = names().collect();
        let mut mean = Vec::new();
        for net in &self.0 {
            let outputs = net.outputs(rgb, names.len() + MORE)?;
            mean.resize(outputs.len(), 0.0);
            for (sum, value) in mean.iter_mut().zip(outputs) {
                *sum += value / self.0.len() as f32;
            }
        }
        let cells: Vec<Cell> = mean
            .chunks_exact(names.len() + MORE)
            .map(Cell::of)
            .collect();
        Ok(grouped(&cells, SIDE / CELL, &names))
    }
}

/// A judge.
struct Net {
    device: Cpu,
    convolutions: Vec<(Weight, Weight)>,
    head: (Weight, Weight),
}

impl Net {
    fn open(path: &Path) -> Result<Self> {
        let file = SafeTensors::open(path)?;
        let device = Cpu::best();
        let weight = |name: String| load(&device, file.get(&name)?);
        let pair = |name: &str| {
            let (w, b) = (format!("{name}.weight"), format!("{name}.bias"));
            Ok::<_, crate::EvalError>((weight(w)?, weight(b)?))
        };
        let convolutions = (0..LAYERS.iter().flatten().count()).map(|i| pair(&format!("conv.{i}")));
        Ok(Net {
            convolutions: convolutions.collect::<Result<_>>()?,
            head: pair("head")?,
            device,
        })
    }

    /// `expected` values a cell.
    fn outputs(&self, rgb: &[u8], expected: usize) -> Result<Vec<f32>> {
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
        if outputs != expected {
            let reason = format!("it has {outputs} outputs, {expected} are expected");
            return Err(data_error(Path::new("a judge"), reason));
        }
        Ok(device.download(&scores)?)
    }
}

/// What is said of a cell.
#[derive(Debug, Clone)]
struct Cell {
    /// Logarithms of the shares of all kinds and of junk.
    shares: Vec<f32>,
    /// Whether nothing has the largest share.
    nothing: bool,
    /// From the cell's middle to the thing's, in pixels.
    middle: (f32, f32),
    /// The thing's longest side in pixels.
    size: f32,
}

impl Cell {
    fn of(outputs: &[f32]) -> Self {
        let (scores, places) = outputs.split_at(outputs.len() - 3);
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = scores.iter().map(|s| (s - most).exp()).sum();
        let mut shares: Vec<f32> = scores.iter().map(|s| s - most - sum.ln()).collect();
        // The last one is junk, which moves to nothing's place.
        let nothing = shares.swap_remove(scores.len() - 2);
        let half = SIDE as f32 / 2.0;
        Cell {
            nothing: shares.iter().all(|share| *share <= nothing),
            shares,
            middle: (places[0] * half, places[1] * half),
            size: places[2] * half,
        }
    }

    /// Whether it may be of this kind.
    fn may_be(&self, kind: usize) -> bool {
        self.shares[largest(&self.shares)] - self.shares[kind] < DOUBT
    }
}

fn largest(values: &[f32]) -> usize {
    let best = (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]));
    best.unwrap_or_default()
}

/// Cells of one thing.
struct Group {
    x: f32,
    y: f32,
    size: f32,
    count: f32,
    shares: Vec<f32>,
}

impl Group {
    /// How far off a cell's word of the middle is, in what is allowed.
    fn off(&self, cell: &Cell, x: f32, y: f32) -> f32 {
        let far = (self.x / self.count - x).abs();
        let far = far.max((self.y / self.count - y).abs());
        let size = (self.size + cell.size) / (self.count + 1.0);
        let reach = match cell.may_be(largest(&self.shares)) {
            true => SAME,
            false => OTHER,
        };
        far / (size * reach)
    }

    fn add(&mut self, cell: &Cell, x: f32, y: f32) {
        self.x += x;
        self.y += y;
        self.size += cell.size;
        self.count += 1.0;
        for (sum, share) in self.shares.iter_mut().zip(&cell.shares) {
            *sum += share;
        }
    }
}

fn grouped(cells: &[Cell], side: usize, names: &[&str]) -> Vec<Thing> {
    let mut groups: Vec<Group> = Vec::new();
    for (i, cell) in cells.iter().enumerate() {
        if cell.nothing {
            continue;
        }
        let own = |at: usize| ((at * CELL) as f32) + CELL as f32 / 2.0;
        let (x, y) = (own(i % side) + cell.middle.0, own(i / side) + cell.middle.1);
        let near = groups
            .iter_mut()
            .map(|group| (group.off(cell, x, y), group));
        match near.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((off, group)) if off < 1.0 => group.add(cell, x, y),
            _ => {
                let mut group = Group {
                    x: 0.0,
                    y: 0.0,
                    size: 0.0,
                    count: 0.0,
                    shares: vec![0.0; cell.shares.len()],
                };
                group.add(cell, x, y);
                groups.push(group);
            }
        }
    }
    let thing = |group: Group| Thing {
        name: names
            .get(largest(&group.shares))
            .map(|&name| name.to_owned()),
        x: group.x / group.count,
        y: group.y / group.count,
        size: group.size / group.count,
    };
    let kept = groups
        .into_iter()
        .filter(|group| group.count >= LEAST as f32);
    kept.map(thing).collect()
}

fn load(device: &Cpu, tensor: &Tensor) -> Result<Weight> {
    if tensor.kind != TensorType::F16 {
        let reason = format!("its tensors are {}, F16 is expected", tensor.kind);
        return Err(EvalError::Data {
            path: "a judge".to_owned(),
            reason,
        });
    }
    let (role, rows) = match tensor.shape[..] {
        [rows, _, side, _] => (Role::Kernel { side }, rows),
        [rows, _] => (Role::Matrix, rows),
        _ => (Role::Vector, 1),
    };
    Ok(device.weight(WeightData {
        role,
        format: Format::F16,
        rows,
        cols: tensor.values() / rows.max(1),
        bytes: Bytes::copy_from_slice(&tensor.bytes),
    })?)
}

/// The largest of each 2x2 square.
fn pooled(values: &[f32], side: usize, channels: usize) -> Vec<f32> {
    let at = |y: usize, x: usize, c: usize| values[(y * side + x) * channels + c];
    let mut out = Vec::with_capacity(values.len() / 4);
    for y in (0..side).step_by(2) {
        for x in (0..side).step_by(2) {
            for c in 0..channels {
                let upper = at(y, x, c).max(at(y, x + 1, c));
                out.push(upper.max(at(y + 1, x, c)).max(at(y + 1, x + 1, c)));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs for the kinds "cat" and "dog", nothing and junk; things of 24 pixels.
    fn cell(kind: usize, middle: (f32, f32)) -> Cell {
        let mut outputs = vec![0.0; 7];
        outputs[kind] = 9.0;
        (outputs[4], outputs[5]) = (middle.0 / 56.0, middle.1 / 56.0);
        outputs[6] = 24.0 / 56.0;
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
            .map(|t| (t.name.as_deref(), t.x.round(), t.size.round()))
            .collect();
        assert_eq!(said, [(Some("cat"), 12.0, 24.0), (Some("dog"), 44.0, 24.0)]);
    }

    #[test]
    fn cells_of_one_kind_may_differ_more_about_its_middle() {
        // All point to 12 but the second one, to 20: 8 off, of 10.8 for a cell of the same kind and 3.6 for another.
        let row = |kind: usize| {
            let to = |i: usize| if i == 1 { 20.0 } else { 12.0 };
            let one = |i: usize| {
                cell(
                    if i == 1 { kind } else { 0 },
                    (to(i) - (8 * i + 4) as f32, 0.0),
                )
            };
            let cells: Vec<Cell> = (0..4).map(one).collect();
            let things = grouped(&cells, 4, &["cat", "dog"]);
            (things.len(), things[0].x.round())
        };
        assert_eq!((row(0), row(1)), ((1, 14.0), (1, 12.0)));
    }

    #[test]
    fn junk_has_no_name_and_specks_are_nothing() {
        let mut cells: Vec<Cell> = (0..3).map(|_| cell(3, (0.0, 0.0))).collect();
        cells[2].middle = (-16.0, 0.0);
        cells[1].middle = (-8.0, 0.0);
        cells.extend([cell(2, (0.0, 0.0)), cell(0, (0.0, 0.0))]);
        let things = grouped(&cells, 5, &["cat", "dog"]);
        assert_eq!(things.len(), 1);
        assert_eq!(things[0].name, None);
    }

    #[test]
    fn the_judges_of_this_crate_see_what_is_in_its_scenes() {
        let files = ["a", "b"].map(|name| crate::data(&format!("judges/{name}.safetensors")));
        let judges = Places::open(&files).unwrap();
        let folder = crate::data("scenes");
        let (mut right, mut all) = (0, 0);
        for scene in crate::questions::scenes(&folder).unwrap() {
            let answer = |asked: &str| {
                let ask = scene.asks.iter().find(|(ability, ..)| ability == asked);
                ask.map(|(.., answer)| answer.clone())
            };
            let Some(count) = answer("count") else {
                continue;
            };
            let bytes = std::fs::read(folder.join(&scene.pictures[0])).unwrap();
            let picture = kinglet_model::Picture::decode(&bytes).unwrap();
            let things = judges.things(picture.rgb()).unwrap();
            let name = things[0].name.clone().unwrap_or_default();
            right += usize::from(match answer("name") {
                Some(said) => things.len() == 1 && said.split_once(' ').unwrap().1 == name,
                None => ["zero", "one", "two", "three", "four"][things.len().min(4)] == count,
            });
            all += 1;
        }
        println!("{right} of {all}");
        assert!(all == 45 && right > 39, "{right} of {all}");
    }

    #[test]
    fn there_are_as_many_names_as_kinds() {
        let all: std::collections::BTreeSet<_> = names().collect();
        assert_eq!((all.len(), names().count()), (210, 210));
    }
}
