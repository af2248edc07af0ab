//! The figures: a group's shares with their intervals, as SVG.

use std::fmt::Write;
use std::path::Path;

use super::print::columns;
use super::variants::{Variant, slug};
use super::work::Results;
use crate::error::{Result, data_error};
use crate::share::Share;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 570.0;
const TOP: f64 = 15.0;
const BOTTOM: f64 = 270.0;
const FONT: f64 = 11.0;
/// How wide a character is, on average.
const CHARACTER: f64 = 6.2;
/// What is drawn of all that is counted, and in which colour.
const LINES: [(&str, &str); 4] = [
    ("naming", "#1f6f8b"),
    ("counting", "#6aa84f"),
    ("one drawn", "#c0392b"),
    ("position drawn", "#e69f00"),
];

/// Writes one figure for each group into the folder.
///
/// # Errors
/// [`crate::EvalError::Data`] if it cannot be written.
pub fn figures(measured: &[(Variant, Results)], folder: &Path) -> Result<()> {
    let mut groups: Vec<&str> = measured.iter().skip(1).map(|(v, _)| &*v.group).collect();
    groups.dedup();
    for group in groups {
        let bars: Vec<(&str, &Results)> = measured
            .iter()
            .filter(|(v, _)| v.is_source() || v.group == group)
            .map(|(v, r)| (&*v.name, r))
            .collect();
        let path = folder.join(format!("{}.svg", slug(group)));
        std::fs::write(&path, figure(&bars)).map_err(|e| data_error(&path, e))?;
    }
    Ok(())
}

fn figure(points: &[(&str, &Results)]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"{FONT}\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    );
    let y = |share: f64| BOTTOM - (BOTTOM - TOP) * share;
    for percent in [0, 25, 50, 75, 100] {
        let at = y(f64::from(percent) / 100.0);
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {at}H{RIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{percent} %</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    let step = (RIGHT - LEFT) / points.len() as f64;
    let x = |i: usize| LEFT + step * (i as f64 + 0.5);
    let words = points.iter().flat_map(|(name, _)| name.split(' '));
    let longest = words.map(str::len).max().unwrap_or_default() as f64;
    let size = FONT.min(FONT * step / (longest * CHARACTER));
    for (i, (name, _)) in points.iter().enumerate() {
        // Long names take two or three lines: as many characters as there is room for.
        for (line, words) in wrapped(name, (step / CHARACTER) as usize)
            .iter()
            .enumerate()
        {
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"{size:.1}\">{}</text>",
                x(i),
                BOTTOM + 18.0 + 14.0 * line as f64,
                escape(words)
            );
        }
    }
    for (number, (label, colour)) in LINES.iter().enumerate() {
        let shares: Vec<Share> = points.iter().map(|(_, r)| share(r, label)).collect();
        // Side by side, so that the intervals can be told apart.
        let shift = 4.0 * (number as f64 - 1.5);
        let line: Vec<String> = shares
            .iter()
            .enumerate()
            .map(|(i, s)| format!("{:.1},{:.1}", x(i) + shift, y(s.value())))
            .collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            line.join(" ")
        );
        for (i, s) in shares.iter().enumerate() {
            let ((low, high), at) = (s.interval(), x(i) + shift);
            let _ = write!(
                svg,
                "<path d=\"M{at:.1} {:.1}V{:.1}\" stroke=\"{colour}\"/>\
                 <circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                y(low),
                y(high),
                y(s.value())
            );
        }
        let row = TOP + 12.0 + 20.0 * number as f64;
        let _ = write!(
            svg,
            "<circle cx=\"{}\" cy=\"{}\" r=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"{row}\">{}</text>",
            RIGHT + 20.0,
            row - 4.0,
            RIGHT + 30.0,
            escape(label)
        );
    }
    svg + "</svg>\n"
}

fn share(results: &Results, label: &str) -> Share {
    let mut share = Share::default();
    let columns = columns(results).into_iter();
    for (_, right) in columns.filter(|(name, _)| *name == label) {
        right.into_values().for_each(|right| share.count(right));
    }
    share
}

/// The words in lines of about so many characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
