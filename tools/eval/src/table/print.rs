//! The tables, in Markdown.

use std::fmt::Write;

use super::paired::Difference;
use super::variants::Variant;
use super::work::{Drawn, Look, Results};
use crate::share::Share;

/// A name, and whether a scene counts and was right.
type Seen = (&'static str, fn(&Look) -> Option<bool>);
/// A name, and whether a drawing was right.
type Judged = (&'static str, fn(&Drawn) -> bool);

/// What is counted of what was seen.
pub(crate) const SEEN: [Seen; 4] = [
    ("naming one", |l| (l.objects == 1).then_some(l.named)),
    ("naming several", |l| (l.objects > 1).then_some(l.named)),
    ("counting", |l| Some(l.counted)),
    ("colour", |l| Some(l.background)),
];
/// What is counted of what was drawn.
pub(crate) const DRAWN: [Judged; 3] = [
    ("drawing, strict", |d| d.strict),
    ("drawing, plain", |d| d.plain),
    ("its colour", |d| d.background),
];

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
        let names = SEEN.iter().map(|s| s.0).chain(DRAWN.iter().map(|d| d.0));
        for name in names {
            let _ = write!(out, " {name} |");
        }
        let _ = writeln!(out, " PSNR |\n|---|---|---|{}", "---|".repeat(8));
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
    let made = &results.made;
    let bits = 8.0 * made.bytes as f64 / made.values.max(1) as f64;
    let _ = write!(
        out,
        "| {name} | {:.1} | {bits:.2} |",
        made.bytes as f64 / 1e6
    );
    for (_, right) in SEEN {
        let pairs = results.looks.iter().filter_map(|(i, look)| {
            let was = source.map(|s| s.looks.get(i).and_then(right));
            Some((was.unwrap_or(right(look))?, right(look)?))
        });
        cell(out, &pairs.collect::<Vec<_>>(), source.is_some());
    }
    for (_, right) in DRAWN {
        let pairs = results.drawings.iter().filter_map(|(i, drawn)| {
            let was = source.map(|s| s.drawings.get(i).map(right));
            Some((was.unwrap_or(Some(right(drawn)))?, right(drawn)))
        });
        cell(out, &pairs.collect::<Vec<_>>(), source.is_some());
    }
    let decibels: Vec<f64> = results.drawings.values().filter_map(|d| d.psnr).collect();
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
    let percent = 100.0 * share.value();
    if compared {
        let d = Difference::of(pairs.iter().copied());
        let _ = write!(out, " {percent:.1} ({:+.1} ± {:.1}) |", d.points, d.half);
    } else {
        let (low, high) = share.interval();
        let _ = write!(
            out,
            " {percent:.1} ({:.1} to {:.1}) |",
            100.0 * low,
            100.0 * high
        );
    }
}
