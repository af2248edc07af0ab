//! The report as a page: HTML that stands alone, with plots drawn in it.

use std::fmt::Write;

use serde_json::Value;

use super::Report;
use crate::cost::Cost;
use crate::measure::Measures;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem;color:#222;background:#fff}table{border-collapse:collapse;width:100%}\
th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}\
th:first-child,td:first-child{text-align:left}ul{margin:.2rem 0;padding-left:1.2rem}\
svg{width:100%;max-width:40rem;height:auto}figcaption{color:#555;font-size:.9rem}";

/// The page about a result called `name`.
pub fn page(name: &str, report: &Report) -> String {
    let mut out = String::new();
    let name = escape(name);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{name}</title><style>{STYLE}</style>\n<h1>{name}</h1>\n\
         <p>{:.1} of {:.1} MB, {:.2} million weights, {:.2} bits a weight. The largest relative error \
         of a tensor is {:.1e} ({}).</p>\n",
        megabytes(report.bytes),
        megabytes(report.source_bytes),
        report.parameters as f64 / 1e6,
        report.bits_per_weight,
        report.largest_error.0,
        escape(&report.largest_error.1),
    );
    passes(&mut out, &report.passes);
    match &report.measures {
        Some(measures) => against_source(&mut out, measures),
        None => {
            out.push_str("<p>It was not compared with its source (<code>--measure N</code>).</p>\n")
        }
    }
    if let Some(scores) = &report.scores {
        out.push_str("<h2>Scores</h2>\n<table>");
        for (name, value) in scores {
            rows(&mut out, name, value);
        }
        out.push_str("</table>\n");
    }
    if !report.fell_back.is_empty() {
        let names: Vec<String> = report.fell_back.iter().map(|n| escape(n)).collect();
        let _ = writeln!(
            out,
            "<h2>Another type than asked for</h2>\n<p>Their rows are no multiple of the asked type's blocks: {}.</p>",
            names.join(", ")
        );
    }
    out.push_str("</html>\n");
    out
}

/// One row for each number or text; names of what holds others come before theirs.
fn rows(out: &mut String, name: &str, value: &Value) {
    match value {
        Value::Object(inner) => {
            for (key, value) in inner {
                rows(out, &format!("{name}: {key}"), value);
            }
        }
        Value::String(text) => row(out, name, text),
        value => row(out, name, &value.to_string()),
    }
}

fn row(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "<tr><td>{}<td>{}</tr>", escape(name), escape(text));
}

fn passes(out: &mut String, passes: &[Cost]) {
    out.push_str(
        "<h2>Pass by pass</h2>\n<table><tr><th>after<th>MB<th>million weights<th>active, understanding\
         <th>active, generation<th>GFLOP a token<th>GFLOP a step</tr>\n",
    );
    for cost in passes {
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{:.1}<td>{:.2}<td>{:.2}<td>{:.2}<td>{:.3}<td>{:.3}</tr>",
            escape(&cost.pass),
            megabytes(cost.bytes),
            cost.parameters as f64 / 1e6,
            cost.active_understand as f64 / 1e6,
            cost.active_generate as f64 / 1e6,
            cost.token_operations / 1e9,
            cost.step_operations / 1e9,
        );
    }
    out.push_str("</table>\n");
    let bars: Vec<(&str, f64)> = passes
        .iter()
        .map(|c| (&*c.pass, megabytes(c.bytes)))
        .collect();
    figure(out, &bar_plot(&bars), "Megabytes after each pass");
    for cost in passes.iter().filter(|c| !c.notes.is_empty()) {
        let _ = write!(out, "<h3>{}</h3>\n<ul>", escape(&cost.pass));
        for note in &cost.notes {
            let _ = write!(out, "<li>{}</li>", escape(note));
        }
        out.push_str("</ul>\n");
    }
}

fn against_source(out: &mut String, m: &Measures) {
    let mean = m.pictures.iter().sum::<f64>() / m.pictures.len().max(1) as f64;
    let _ = writeln!(
        out,
        "<h2>Against the source</h2>\n<p>On {} scenes that the calibration has not seen.</p>\n\
         <table><tr><td>Kullback-Leibler divergence of the logits, {} tokens<td>{:.5} nats</tr>\n\
         <tr><td>both find the same token likeliest<td>{:.1} %</tr>\n\
         <tr><td>mean PSNR of drawings from equal noise, {} steps<td>{mean:.1} dB</tr></table>",
        m.scenes,
        m.tokens,
        m.divergence,
        100.0 * m.agreement,
        m.steps,
    );
    figure(
        out,
        &line_plot(&m.velocities),
        "Relative L2 distance of the velocity by time (1 is noise, 0 the picture)",
    );
    let labels: Vec<String> = (1..=m.pictures.len()).map(|i| i.to_string()).collect();
    let bars: Vec<(&str, f64)> = labels
        .iter()
        .map(|l| &**l)
        .zip(m.pictures.iter().copied())
        .collect();
    figure(out, &bar_plot(&bars), "PSNR of each drawing, in decibels");
}

fn figure(out: &mut String, svg: &str, caption: &str) {
    let _ = writeln!(
        out,
        "<figure>{svg}<figcaption>{}</figcaption></figure>",
        escape(caption)
    );
}

const WIDTH: f64 = 640.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 80.0;

/// One horizontal bar for each value, with its number.
fn bar_plot(bars: &[(&str, f64)]) -> String {
    const ROW: f64 = 24.0;
    let largest = bars.iter().map(|b| b.1).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" font-size=\"13\">",
        ROW * bars.len() as f64
    );
    for (i, (label, value)) in bars.iter().enumerate() {
        let y = ROW * i as f64;
        let length = (WIDTH - LEFT - RIGHT) * value / largest;
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"16\" fill=\"#3a7ca5\"/>\
             <text x=\"{:.1}\" y=\"{}\">{value:.1}</text>",
            LEFT - 8.0,
            y + 17.0,
            escape(label),
            y + 4.0,
            LEFT + length + 6.0,
            y + 17.0,
        );
    }
    svg + "</svg>"
}

/// A line through points whose x is in 0..1.
fn line_plot(points: &[(f64, f64)]) -> String {
    const HEIGHT: f64 = 220.0;
    const BOTTOM: f64 = 190.0;
    let largest = points.iter().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
    let place = |(x, y): &(f64, f64)| {
        (
            LEFT + (WIDTH - LEFT - RIGHT) * (1.0 - x),
            BOTTOM - (BOTTOM - 20.0) * y / largest,
        )
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" font-size=\"13\">\
         <path d=\"M{LEFT} 20V{BOTTOM}H{}\" fill=\"none\" stroke=\"#999\"/>\
         <text x=\"{}\" y=\"24\" text-anchor=\"end\">{largest:.3}</text>\
         <text x=\"{}\" y=\"{BOTTOM}\" text-anchor=\"end\">0</text>",
        WIDTH - RIGHT,
        LEFT - 8.0,
        LEFT - 8.0,
    );
    let line: Vec<String> = points
        .iter()
        .map(place)
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = write!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#3a7ca5\" stroke-width=\"2\"/>",
        line.join(" ")
    );
    for point in points {
        let (x, y) = place(point);
        let _ = write!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#3a7ca5\"><title>{:.3}: {:.4}</title></circle>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{:.2}</text>",
            point.0,
            point.1,
            BOTTOM + 18.0,
            point.0,
        );
    }
    svg + "</svg>"
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let mut report = Report::new(Vec::new());
        let scores = serde_json::json!({ "see": { "naming": { "right": 43, "of": "<script>" } } });
        report.scores = scores.as_object().cloned();
        let page = page("<script>&\"", &report);
        assert!(page.contains("&lt;script&gt;&amp;&quot;") && !page.contains("<script>"));
        assert!(page.contains("<td>see: naming: right<td>43"), "{page}");
    }
}
