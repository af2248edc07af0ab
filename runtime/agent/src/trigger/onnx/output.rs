//! What a network's outputs say.

use super::input::Place;
use crate::area::Area;
use crate::config::{Activation, OnnxConfig, OutputLayout};

/// The most boxes that are compared with each other: those of the highest scores.
const MOST_BOXES: usize = 500;

/// An output: its shape and its values.
pub(super) type Output = (Vec<usize>, Vec<f32>);

/// Something that a network has found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its class.
    pub class: String,
    /// How sure the network is, 0 to 1.
    pub score: f64,
    /// Left, top, width and height in fractions of the frame, if the network finds boxes.
    pub area: Option<[f64; 4]>,
}

/// How outputs are read.
#[derive(Debug)]
pub(super) struct Reading {
    layout: OutputLayout,
    activation: Activation,
    classes: Vec<String>,
    /// Which of them count.
    counts: Vec<bool>,
    least: f64,
    overlap: f64,
}

/// A box: left, top, right and bottom in pixels of the network's picture.
#[derive(Debug, Clone, Copy)]
struct Boxed {
    class: usize,
    score: f64,
    sides: [f64; 4],
}

impl Reading {
    pub(super) fn new(config: &OnnxConfig, classes: Vec<String>) -> Self {
        let counts = |name| config.find.is_empty() || config.find.contains(name);
        Reading {
            layout: config.output,
            activation: config.activation,
            counts: classes.iter().map(counts).collect(),
            classes,
            least: config.score,
            overlap: config.overlap,
        }
    }

    /// The best of what counts, if anything does; boxes count if their centre is within a zone.
    ///
    /// # Errors
    /// The reason in words, if the outputs are not as they should be.
    pub(super) fn best(
        &self,
        outputs: &[Output],
        (width, height): (u32, u32),
        place: Place,
        zones: &[Area],
    ) -> Result<Option<Found>, String> {
        let name = |class: usize| self.classes[class].clone();
        let size = (f64::from(width), f64::from(height));
        let boxes = match self.layout {
            OutputLayout::Classes => {
                let scores = self.whole(outputs)?;
                let best = scores.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
                return Ok(best.map(|(class, score)| Found {
                    class: name(class),
                    score: rounded(score),
                    area: None,
                }));
            }
            OutputLayout::Yolo => self.yolo(outputs)?,
            OutputLayout::Yolov5 => self.yolov5(outputs)?,
            OutputLayout::Ssd => self.ssd(outputs, size)?,
            OutputLayout::Centerface => self.centerface(outputs, size)?,
        };
        let kept = distinct(boxes, self.overlap);
        let found = |b: &Boxed| {
            let [left, top, right, bottom] = b.sides;
            let (left, top) = place.fraction(left.max(0.0), top.max(0.0));
            let (right, bottom) = place.fraction(right.min(size.0), bottom.min(size.1));
            let (x, y) = ((left + right) / 2.0, (top + bottom) / 2.0);
            let counts = zones.is_empty() || zones.iter().any(|zone| zone.holds(x, y));
            let area = [left, top, right - left, bottom - top];
            counts.then(|| Found {
                class: name(b.class),
                score: rounded(b.score),
                area: Some(area.map(|v| rounded(v.clamp(0.0, 1.0)))),
            })
        };
        // The highest score comes first.
        Ok(kept.iter().find_map(found))
    }

    /// Makes scores of raw values and keeps those that count: (class, score).
    fn scores(&self, raw: impl Iterator<Item = f32> + Clone) -> Result<Vec<(usize, f64)>, String> {
        let most = raw.clone().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = match self.activation {
            Activation::Softmax => raw.clone().map(|v| f64::from(v - most).exp()).sum(),
            _ => 1.0,
        };
        let mut kept = Vec::new();
        for (class, value) in raw.enumerate() {
            let score = match self.activation {
                Activation::None => f64::from(value),
                Activation::Softmax => f64::from(value - most).exp() / sum,
                Activation::Sigmoid => 1.0 / (1.0 + (-f64::from(value)).exp()),
            };
            if !score.is_finite() {
                return Err("a score is no number".to_owned());
            }
            if self.counts[class] && score >= self.least {
                kept.push((class, score));
            }
        }
        Ok(kept)
    }

    fn whole(&self, outputs: &[Output]) -> Result<Vec<(usize, f64)>, String> {
        let (shape, values) = &outputs[0];
        let classes = self.classes.len();
        if values.len() != classes || shape.first() != Some(&1) {
            return Err(wrong(0, shape, &format!("[1, {classes}], a score a class")));
        }
        self.scores(values.iter().copied())
    }

    fn yolo(&self, outputs: &[Output]) -> Result<Vec<Boxed>, String> {
        let (shape, values) = &outputs[0];
        let rows = 4 + self.classes.len();
        let (count, by_box, by_row) = match shape[..] {
            [1, r, boxes] if r == rows => (boxes, 1, boxes),
            [1, boxes, r] if r == rows => (boxes, rows, 1),
            _ => {
                let expected = format!("[1, {rows}, A] or [1, A, {rows}], 4 and a score a class");
                return Err(wrong(0, shape, &expected));
            }
        };
        let at = |i: usize, row: usize| values[i * by_box + row * by_row];
        let scores = |i| self.scores((4..rows).map(|row| at(i, row)));
        collect(count, scores, |i| {
            centred([0, 1, 2, 3].map(|row| at(i, row)))
        })
    }

    fn yolov5(&self, outputs: &[Output]) -> Result<Vec<Boxed>, String> {
        let (shape, values) = &outputs[0];
        let rows = 5 + self.classes.len();
        if shape.len() != 3 || shape[0] != 1 || shape[2] != rows {
            let expected = format!("[1, A, {rows}], 5 and a score a class");
            return Err(wrong(0, shape, &expected));
        }
        let row = |i: usize| &values[i * rows..][..rows];
        let scores = |i| {
            let row = row(i);
            let object = match self.activation {
                Activation::None => f64::from(row[4]),
                _ => 1.0 / (1.0 + (-f64::from(row[4])).exp()),
            };
            if !object.is_finite() {
                return Err("a score is no number".to_owned());
            }
            let mut scores = self.scores(row[5..].iter().copied())?;
            scores.iter_mut().for_each(|(_, score)| *score *= object);
            scores.retain(|(_, score)| *score >= self.least);
            Ok(scores)
        };
        collect(shape[1], scores, |i| {
            centred([0, 1, 2, 3].map(|n| row(i)[n]))
        })
    }

    fn ssd(&self, outputs: &[Output], (width, height): (f64, f64)) -> Result<Vec<Boxed>, String> {
        let classes = self.classes.len();
        let boxes = |o: &Output| o.0.len() == 3 && o.0[0] == 1 && o.0[2] == 4;
        let scores = |o: &Output| o.0.len() == 3 && o.0[0] == 1 && o.0[2] == classes;
        let (boxes, scores) = match outputs {
            [a, b] if boxes(a) && scores(b) && a.0[1] == b.0[1] => (a, b),
            [b, a] if boxes(a) && scores(b) && a.0[1] == b.0[1] => (a, b),
            _ => {
                let shapes: Vec<&Vec<usize>> = outputs.iter().map(|o| &o.0).collect();
                return Err(format!(
                    "its outputs are {shapes:?}; [1, A, 4] and [1, A, {classes}] are expected"
                ));
            }
        };
        let row = |i: usize| scores.1[i * classes..][..classes].iter().copied();
        let sides = |i: usize| {
            let at = |n: usize, side: f64| f64::from(boxes.1[i * 4 + n]) * side;
            [at(0, width), at(1, height), at(2, width), at(3, height)]
        };
        collect(boxes.0[1], |i| self.scores(row(i)), sides)
    }

    fn centerface(
        &self,
        outputs: &[Output],
        (width, height): (f64, f64),
    ) -> Result<Vec<Boxed>, String> {
        let classes = self.classes.len();
        let shapes: Vec<&[usize]> = outputs.iter().map(|o| &o.0[..]).collect();
        let (rows, columns) = match shapes[..] {
            [[1, n, h, w], [1, 2, h1, w1], [1, 2, h2, w2], ..]
                if *n == classes && (h1, w1) == (h, w) && (h2, w2) == (h, w) && h * w > 0 =>
            {
                (*h, *w)
            }
            _ => {
                return Err(format!(
                    "its outputs are {shapes:?}; [1, {classes}, H, W], [1, 2, H, W] and [1, 2, H, W] are expected"
                ));
            }
        };
        let cells = rows * columns;
        let (across, down) = (width / columns as f64, height / rows as f64);
        let at = |output: usize, channel: usize, i: usize| outputs[output].1[channel * cells + i];
        let scores = |i| self.scores((0..classes).map(|class| at(0, class, i)));
        let sides = |i: usize| {
            let value = |output, channel| f64::from(at(output, channel, i));
            let (tall, wide) = (value(1, 0).exp() * down, value(1, 1).exp() * across);
            let y = ((i / columns) as f64 + value(2, 0) + 0.5) * down;
            let x = ((i % columns) as f64 + value(2, 1) + 0.5) * across;
            [
                x - wide / 2.0,
                y - tall / 2.0,
                x + wide / 2.0,
                y + tall / 2.0,
            ]
        };
        collect(cells, scores, sides)
    }
}

/// Every box with a score that counts.
fn collect(
    count: usize,
    scores: impl Fn(usize) -> Result<Vec<(usize, f64)>, String>,
    sides: impl Fn(usize) -> [f64; 4],
) -> Result<Vec<Boxed>, String> {
    let mut boxes = Vec::new();
    for i in 0..count {
        let scores = scores(i)?;
        if scores.is_empty() {
            continue;
        }
        let sides = sides(i);
        if !sides.iter().all(|v| v.is_finite()) {
            return Err("a side of a box is no number".to_owned());
        }
        boxes.extend(scores.into_iter().map(|(class, score)| Boxed {
            class,
            score,
            sides,
        }));
    }
    Ok(boxes)
}

/// Sides from centre, width and height.
fn centred(values: [f32; 4]) -> [f64; 4] {
    let [x, y, w, h] = values.map(f64::from);
    [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]
}

/// Three digits are more than a network is sure of.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn wrong(number: usize, shape: &[usize], expected: &str) -> String {
    format!("its output {number} is {shape:?}; {expected}, is expected")
}

/// Non-maximum suppression, a class: the highest first, none that is nearly where a higher one is.
fn distinct(mut boxes: Vec<Boxed>, overlap: f64) -> Vec<Boxed> {
    boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
    boxes.truncate(MOST_BOXES);
    let mut kept: Vec<Boxed> = Vec::new();
    for b in boxes {
        let near =
            |other: &Boxed| other.class == b.class && shared(&other.sides, &b.sides) > overlap;
        if !kept.iter().any(near) {
            kept.push(b);
        }
    }
    kept
}

/// Intersection over union.
fn shared(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |s: &[f64; 4]| (s[2] - s[0]).max(0.0) * (s[3] - s[1]).max(0.0);
    let both = [
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ];
    let common = area(&both);
    let all = area(a) + area(b) - common;
    if all > 0.0 { common / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnnxConfig;
    use crate::trigger::onnx::input::Input;

    const SIDE: u32 = 100;

    /// What two classes, `cat` and `dog`, are found as in these outputs of a square picture.
    fn best(lines: &str, outputs: &[Output], zones: &[[f64; 4]]) -> Result<Option<Found>, String> {
        let text = format!("classes = ['cat', 'dog']\n{lines}");
        let config: OnnxConfig = toml::from_str(&text).unwrap();
        let ClassesConfig::List(names) = config.classes.clone() else {
            panic!("a list")
        };
        let input = Input::new(&config, SIDE, SIDE);
        let frame = crate::frame::Picture {
            width: 200,
            height: 100,
            rgb: vec![0; 60_000].into(),
        };
        let (_, place) = input.values(&frame);
        let zones = crate::area::read("zone", zones).unwrap();
        Reading::new(&config, names).best(outputs, (SIDE, SIDE), place, &zones)
    }

    use crate::config::ClassesConfig;

    fn found(class: &str, score: f64, area: Option<[f64; 4]>) -> Option<Found> {
        let class = class.to_owned();
        Some(Found { class, score, area })
    }

    #[test]
    fn classes_count_from_their_least_score_on() {
        let output = |a, b| [(vec![1, 2], vec![a, b])];
        let classes = |lines, a, b| best(lines, &output(a, b), &[]).unwrap();
        assert_eq!(classes("", 0.3, 0.6), found("dog", 0.6, None));
        assert_eq!(classes("find = ['cat']", 0.3, 0.6), None);
        assert_eq!(classes("score = 0.7", 0.3, 0.6), None);
        let softmax = classes("activation = 'softmax'", 1.0, 3.0);
        assert_eq!(softmax, found("dog", 0.881, None));
        let sigmoid = classes("activation = 'sigmoid'", 1.0, -1.0);
        assert_eq!(sigmoid, found("cat", 0.731, None));
        for (lines, outputs, words) in [
            ("", vec![(vec![1, 3], vec![0.0; 3])], "[1, 2]"),
            ("", vec![(vec![2, 1], vec![0.0; 2])], "[1, 2]"),
            ("", vec![(vec![1, 2], vec![f32::NAN, 0.0])], "no number"),
            (
                "activation = 'softmax'",
                vec![(vec![1, 2], vec![f32::INFINITY, 0.0])],
                "no number",
            ),
            (
                "output = 'yolo'",
                vec![(vec![1, 5, 9], vec![0.0; 45])],
                "[1, 6, A]",
            ),
            (
                "output = 'yolov5'",
                vec![(vec![1, 7], vec![0.0; 7])],
                "[1, A, 7]",
            ),
            (
                "output = 'ssd'",
                vec![(vec![1, 9, 4], vec![0.0; 36])],
                "[1, A, 4]",
            ),
            (
                "output = 'centerface'",
                vec![(vec![1, 2, 3, 3], vec![0.0; 18])],
                "[1, 2, H, W]",
            ),
            (
                "output = 'yolo'",
                vec![(vec![1, 6, 1], vec![f32::NAN, 0.0, 0.0, 0.0, 0.9, 0.9])],
                "no number",
            ),
        ] {
            let refused = best(lines, &outputs, &[]).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }

    /// Two cats nearly in one place, and a dog to the right; the frame is twice as wide as high, so bars of a
    /// quarter are above and below.
    const BOXES: [[f32; 6]; 3] = [
        [20.0, 50.0, 20.0, 20.0, 0.9, 0.0],
        [22.0, 50.0, 20.0, 20.0, 0.8, 0.1],
        [80.0, 50.0, 20.0, 50.0, 0.0, 0.6],
    ];

    #[test]
    fn boxes_of_every_layout_are_where_they_are_in_the_frame() {
        let rows: Vec<f32> = BOXES.iter().flatten().copied().collect();
        let columns: Vec<f32> = (0..18).map(|i| BOXES[i % 3][i / 3]).collect();
        let cat = found("cat", 0.9, Some([0.1, 0.3, 0.2, 0.4]));
        let dog = found("dog", 0.6, Some([0.7, 0.0, 0.2, 1.0]));
        for output in [(vec![1, 6, 3], columns), (vec![1, 3, 6], rows)] {
            let outputs = [output];
            let yolo = |lines: &str, zones: &[[f64; 4]]| {
                best(&format!("output = 'yolo'\n{lines}"), &outputs, zones).unwrap()
            };
            assert_eq!(yolo("", &[]), cat);
            assert_eq!(yolo("find = ['dog']", &[]), dog);
            assert_eq!(yolo("", &[[0.5, 0.0, 0.5, 1.0]]), dog);
            // The lower one of the cats has its centre here; it is the higher one once more.
            let narrow = [[0.21, 0.4, 0.02, 0.2]];
            assert_eq!(yolo("", &narrow), None);
            let second = found("cat", 0.8, Some([0.12, 0.3, 0.2, 0.4]));
            assert_eq!(yolo("overlap = 0.9", &narrow), second);
        }
        let with_object = |b: &[f32; 6]| [b[0], b[1], b[2], b[3], 0.5, b[4], b[5]];
        let values: Vec<f32> = BOXES.iter().flat_map(with_object).collect();
        let outputs = [(vec![1, 3, 7], values)];
        let half = best("output = 'yolov5'\nscore = 0.4", &outputs, &[]);
        assert_eq!(
            half.unwrap(),
            found("cat", 0.45, Some([0.1, 0.3, 0.2, 0.4]))
        );
        assert_eq!(best("output = 'yolov5'", &outputs, &[]).unwrap(), None);

        let boxes = (vec![1, 1, 4], vec![0.1, 0.25, 0.3, 0.75]);
        let scores = (vec![1, 1, 2], vec![0.2, 0.7]);
        let dog = found("dog", 0.7, Some([0.1, 0.25, 0.2, 0.5]));
        for outputs in [[boxes.clone(), scores.clone()], [scores, boxes]] {
            assert_eq!(best("output = 'ssd'", &outputs, &[]).unwrap(), dog);
        }

        // One cell of 2 x 2, each 50 pixels: 25 high and 50 wide, a fifth of a cell down and to the left.
        let mut maps = [
            (vec![1, 2, 2, 2], vec![0.0; 8]),
            (vec![1, 2, 2, 2], vec![0.0; 8]),
            (vec![1, 2, 2, 2], vec![0.0; 8]),
        ];
        maps[0].1[6] = 0.75;
        (maps[1].1[2], maps[2].1[2], maps[2].1[6]) = (0.5f32.ln(), 0.2, -0.2);
        let seen = best("output = 'centerface'", &maps, &[]).unwrap();
        assert_eq!(seen, found("dog", 0.75, Some([0.0, 0.725, 0.4, 0.25])));
    }
}
