//! A page with scenes, what one or two containers answered, and their marks side by side. It stands alone.

use std::fmt::Write;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::program::{Result, data_error};
use crate::questions::{Answered, Marks, Scene};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;\
color:#222;background:#fff}table{border-collapse:collapse;margin:.5rem 0}th,td{padding:.2rem .6rem;\
border-bottom:1px solid #ddd;text-align:left;vertical-align:top}section{display:flex;gap:1rem;margin:1.2rem 0;\
flex-wrap:wrap}img{width:168px;height:168px;image-rendering:pixelated;margin-right:4px}.right{color:#176b2c}\
.wrong{color:#a3141e}.wrong::after{content:\" \\2717\"}.right::after{content:\" \\2713\"}";

/// A container's name and its answers.
pub type Side<'a> = (&'a str, &'a [Answered]);

/// The page: marks of every side, then the first `most` scenes that the first side answered, spread over all of them.
///
/// # Errors
/// [`crate::EvalError`] if a picture cannot be read.
pub fn page(scenes: &[Scene], folder: &Path, sides: &[Side<'_>], most: usize) -> Result<String> {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Questions about held-out scenes</title><style>{STYLE}</style>\n\
         <h1>Questions about held-out scenes</h1>\n<p>Shares of right answers in percent, in brackets a 95 % \
         interval.</p>\n"
    );
    for (name, answered) in sides {
        // Writing to a string cannot fail.
        let _ = write!(out, "<h2>{}</h2>\n<table>", escape(name));
        for (i, line) in Marks::of(scenes, answered).table().lines().enumerate() {
            if i != 1 {
                let cells = line.trim_matches('|').split('|');
                let cell = if i == 0 { "th" } else { "td" };
                out.push_str("<tr>");
                for text in cells {
                    let _ = write!(out, "<{cell}>{}</{cell}>", escape(text.trim()));
                }
                out.push_str("</tr>\n");
            }
        }
        out.push_str("</table>\n");
    }
    out.push_str("<h2>Scenes</h2>\n");
    let first = sides.first().map_or(&[][..], |(_, answered)| answered);
    let step = first.len().div_ceil(most.max(1)).max(1);
    for one in first.iter().step_by(step) {
        section(&mut out, scenes, folder, sides, one.scene)?;
    }
    out.push_str("</html>\n");
    Ok(out)
}

fn section(
    out: &mut String,
    scenes: &[Scene],
    folder: &Path,
    sides: &[Side<'_>],
    number: usize,
) -> Result<()> {
    let scene = &scenes[number];
    out.push_str("<section><div>");
    for file in &scene.pictures {
        let path = folder.join(file);
        let bytes = std::fs::read(&path).map_err(|e| data_error(&path, e))?;
        let data = STANDARD.encode(bytes);
        let _ = write!(
            out,
            "<img alt=\"scene {number}\" src=\"data:image/png;base64,{data}\">"
        );
    }
    let condition = escape(&scene.condition);
    let _ = write!(
        out,
        "<br>{number}, {condition}</div><table><tr><th>question</th><th>truth</th>"
    );
    for (name, _) in sides {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("</tr>\n");
    let said = |answered: &[Answered]| -> Option<Vec<String>> {
        let found = answered.iter().find(|a| a.scene == number)?;
        Some(found.answers.clone())
    };
    let said: Vec<Option<Vec<String>>> = sides.iter().map(|(_, answered)| said(answered)).collect();
    for (i, (_, question, truth)) in scene.asks.iter().enumerate() {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td>",
            escape(question),
            escape(truth)
        );
        for answers in &said {
            let _ = match answers.as_ref().and_then(|a| a.get(i)) {
                Some(answer) => {
                    let class = if answer == truth { "right" } else { "wrong" };
                    write!(out, "<td class=\"{class}\">{}</td>", escape(answer))
                }
                None => write!(out, "<td>not asked</td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></section>\n");
    Ok(())
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sides_stand_beside_each_other_and_text_stays_text() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("0.png"), [1, 2, 3]).unwrap();
        let scenes = [Scene {
            pictures: vec!["0.png".to_owned()],
            condition: "plain".to_owned(),
            asks: vec![(
                "name".to_owned(),
                "what <is> it?".to_owned(),
                "a cat".to_owned(),
            )],
        }];
        let said = |answer: &str| {
            let answers = vec![answer.to_owned()];
            [Answered { scene: 0, answers }]
        };
        let (one, other) = (said("a cat"), said("<b>a dog"));
        let sides = [("one", &one[..]), ("other", &other[..])];
        let page = page(&scenes, folder.path(), &sides, 10).unwrap();
        for part in [
            "<td>what &lt;is&gt; it?</td><td>a cat</td>",
            "<td class=\"right\">a cat</td><td class=\"wrong\">&lt;b&gt;a dog</td>",
            "base64,AQID",
            "<td>100.0 (20.7 to 100.0) of 1</td>",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }
}
