//! The tables, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::paired::Difference;
use super::variants::Variant;
use super::work::Results;
use crate::share::Share;

/// What is counted of what was seen: a column's name and the ability.
const SEEN: [(&str, &str); 5] = [
    ("naming", "name"),
    ("lists", "list"),
    ("counting", "count"),
    ("is there", "is there"),
    ("relations", "relation"),
];
/// What is counted of what was drawn: a column's name and how categories begin.
const DRAWN: [(&str, &str); 5] = [
    ("one drawn", "single object"),
    ("two drawn", "two object"),
    ("number drawn", "counting"),
    ("position drawn", "position"),
    ("edits", "edit:"),
];

/// Every column's name with what it counts: by scene or drawing, whether it was right.
pub(crate) fn columns(results: &Results) -> Vec<(&'static str, BTreeMap<usize, bool>)> {
    let seen = SEEN.iter().map(|(column, ability)| {
        let right = results.looks.iter().filter_map(|(i, asked)| {
            let found = asked.iter().find(|(a, _)| a == ability)?;
            Some((*i, found.1))
        });
        (*column, right.collect())
    });
    let drawn = DRAWN.iter().map(|(column, category)| {
        let all = results.drawings.iter();
        let of = all.filter(|(_, (c, _))| c.starts_with(category));
        let right = of.map(|(i, (c, drawn))| (*i, drawn.verdict.named(c)));
        (*column, right.collect())
    });
    seen.chain(drawn).collect()
}

/// One table for each group, with the source as its first row; the source comes first in `measured`.
pub fn tables(measured: &[(Variant, Results)]) -> String {
    let mut out = String::new();
    let Some((_, source)) = measured.first() else {
        return out;
    };
    let mut groups: Vec<&str> = measured.iter().skip(1).map(|(v, _)| &*v.group).collect();
    groups.dedup();
    for group in groups {
        let _ = write!(out, "**{group}**\n\n| | MB | bits |");
        for name in SEEN.iter().chain(&DRAWN).map(|column| column.0) {
            let _ = write!(out, " {name} |");
        }
        let more = "---|".repeat(SEEN.len() + DRAWN.len() + 1);
        let _ = writeln!(out, " PSNR |\n|---|---|---|{more}");
        row(&mut out, "source", source, None);
        for (variant, results) in measured.iter().filter(|(v, _)| v.group == group) {
            row(&mut out, &variant.name, results, Some(source));
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "{} scenes, {} drawings a variant.",
        source.looks.len(),
        source.drawings.len()
    );
    out
}

fn row(out: &mut String, name: &str, results: &Results, source: Option<&Results>) {
    let bits = 8.0 * results.bytes as f64 / results.values.max(1) as f64;
    let megabytes = results.bytes as f64 / 1e6;
    let _ = write!(out, "| {name} | {megabytes:.1} | {bits:.2} |");
    let before = source.map(columns);
    for (column, (_, right)) in columns(results).into_iter().enumerate() {
        let source = before.as_ref().map(|columns| &columns[column].1);
        let pairs = right.iter().filter_map(|(i, right)| {
            let was = source.map_or(Some(right), |source| source.get(i))?;
            Some((*was, *right))
        });
        cell(out, &pairs.collect::<Vec<_>>(), source.is_some());
    }
    let decibels: Vec<f64> = results
        .drawings
        .values()
        .filter_map(|(_, drawn)| drawn.decibels)
        .collect();
    if decibels.is_empty() {
        out.push_str(" |\n");
    } else {
        let mean = decibels.iter().sum::<f64>() / decibels.len() as f64;
        let _ = writeln!(out, " {mean:.1} |");
    }
}

/// A share in per cent; for a variant also the difference from the source on the same scenes.
fn cell(out: &mut String, pairs: &[(bool, bool)], compared: bool) {
    let mut share = Share::default();
    pairs.iter().for_each(|(_, right)| share.count(*right));
    let _ = match (pairs.len(), compared) {
        (0, _) => write!(out, " |"),
        (_, false) => write!(out, " {} |", share.percent()),
        (_, true) => {
            let d = Difference::of(pairs.iter().copied());
            let percent = 100.0 * share.value();
            write!(out, " {percent:.1} ({:+.1} ± {:.1}) |", d.points, d.half)
        }
    };
}
