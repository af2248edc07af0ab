//! A page with what one or two containers answered and drew, and their marks side by side. It stands alone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::drawings::{self, Drawn};
use crate::error::{Result, data_error};
use crate::prompts::Wanted;
use crate::questions::{Answered, Marks, Scene};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;\
color:#222;background:#fff}table{border-collapse:collapse;margin:.5rem 0}th,td{padding:.2rem .6rem;\
border-bottom:1px solid #ddd;text-align:left;vertical-align:top}section{display:flex;gap:1rem;margin:1.2rem 0;\
flex-wrap:wrap}img{width:168px;height:168px;image-rendering:pixelated;margin-right:4px}.right{color:#176b2c}\
.wrong{color:#a3141e}.wrong::after{content:\" \\2717\"}.right::after{content:\" \\2713\"}";

/// A container's name and what it did.
pub struct Side {
    /// The container.
    pub name: String,
    /// Its answers.
    pub answers: Vec<Answered>,
    /// Its drawings.
    pub drawn: BTreeMap<usize, Drawn>,
    /// Where these are.
    pub folder: PathBuf,
}

/// What the sides were asked.
pub struct Asked<'a> {
    /// Where scenes are.
    pub folder: &'a Path,
    /// Scenes with questions.
    pub scenes: &'a [Scene],
    /// What is to be drawn.
    pub wanted: &'a [Wanted],
}

/// The page: marks of every side, then at most `most` scenes and as many drawings, spread over all that the first side did.
///
/// # Errors
/// [`crate::EvalError`] if a picture cannot be read.
pub fn page(asked: &Asked<'_>, sides: &[Side], most: usize) -> Result<String> {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Held-out scenes</title><style>{STYLE}</style>\n\
         <h1>Held-out scenes</h1>\n<p>Shares of right answers and drawings in percent, in brackets a 95 % \
         interval.</p>\n"
    );
    for side in sides {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<h2>{}</h2>", escape(&side.name));
        if !side.answers.is_empty() {
            table(&mut out, &Marks::of(asked.scenes, &side.answers).table());
        }
        if !side.drawn.is_empty() {
            let marks = drawings::marks(asked.wanted, &side.drawn);
            table(&mut out, &drawings::table(&marks));
        }
    }
    let Some(first) = sides.first() else {
        return Ok(out + "</html>\n");
    };
    out.push_str("<h2>Questions</h2>\n");
    let step = first.answers.len().div_ceil(most.max(1)).max(1);
    for one in first.answers.iter().step_by(step) {
        section(&mut out, asked, sides, one.scene)?;
    }
    out.push_str("<h2>Drawings</h2>\n");
    let step = first.drawn.len().div_ceil(most.max(1)).max(1);
    for number in first.drawn.keys().step_by(step) {
        drawing(&mut out, asked, sides, *number)?;
    }
    out.push_str("</html>\n");
    Ok(out)
}

/// A Markdown table.
fn table(out: &mut String, markdown: &str) {
    out.push_str("<table>");
    for (i, line) in markdown.lines().enumerate() {
        if i != 1 {
            let line = line.trim();
            let line = line.strip_prefix('|').unwrap_or(line);
            let cells = line.strip_suffix('|').unwrap_or(line).split('|');
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

fn picture(out: &mut String, path: &Path, about: &str) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|e| data_error(path, e))?;
    let data = STANDARD.encode(bytes);
    let about = escape(about);
    let _ = write!(
        out,
        "<img alt=\"{about}\" src=\"data:image/png;base64,{data}\">"
    );
    Ok(())
}

/// A prompt, the picture that is edited, and what each side drew.
fn drawing(out: &mut String, asked: &Asked<'_>, sides: &[Side], number: usize) -> Result<()> {
    let wanted = &asked.wanted[number];
    let (category, prompt) = (escape(&wanted.category), escape(&wanted.prompt));
    let _ = write!(out, "<h3>{number}, {category}: {prompt}</h3>\n<section>");
    if let Some(file) = &wanted.picture {
        out.push_str("<div>");
        picture(out, &asked.folder.join(file), "before")?;
        out.push_str("<br>before</div>");
    }
    for side in sides {
        let Some(drawn) = side.drawn.get(&number) else {
            continue;
        };
        let class = match drawn.verdict.all() {
            true => "right",
            false => "wrong",
        };
        out.push_str("<div>");
        picture(
            out,
            &side.folder.join(drawings::name(number)),
            &wanted.prompt,
        )?;
        let name = escape(&side.name);
        let _ = write!(out, "<br><span class=\"{class}\">{name}</span></div>");
    }
    out.push_str("</section>\n");
    Ok(())
}

fn section(out: &mut String, asked: &Asked<'_>, sides: &[Side], number: usize) -> Result<()> {
    let scene = &asked.scenes[number];
    out.push_str("<section><div>");
    for file in &scene.pictures {
        picture(out, &asked.folder.join(file), &format!("scene {number}"))?;
    }
    let condition = escape(&scene.condition);
    let _ = write!(
        out,
        "<br>{number}, {condition}</div><table><tr><th>question</th><th>truth</th>"
    );
    for side in sides {
        let _ = write!(out, "<th>{}</th>", escape(&side.name));
    }
    out.push_str("</tr>\n");
    let said = |side: &Side| -> Option<Vec<String>> {
        let found = side.answers.iter().find(|a| a.scene == number)?;
        Some(found.answers.clone())
    };
    let said: Vec<Option<Vec<String>>> = sides.iter().map(said).collect();
    for (i, (_, question, truth)) in scene.asks.iter().enumerate() {
        let (question, right) = (escape(question), escape(truth));
        let _ = write!(out, "<tr><td>{question}</td><td>{right}</td>");
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
    use crate::verdict::Verdict;

    #[test]
    fn two_sides_stand_beside_each_other_and_text_stays_text() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["0.png", "00000.png"] {
            std::fs::write(folder.path().join(file), [1, 2, 3]).unwrap();
        }
        let ask = |texts: [&str; 3]| texts.map(str::to_owned).into();
        let scenes = [Scene {
            pictures: vec!["0.png".to_owned()],
            condition: "plain".to_owned(),
            asks: vec![ask(["name", "what <is> it?", "a cat"])],
        }];
        let wanted = [Wanted {
            category: "two object".to_owned(),
            prompt: "a <cat> and a dog".to_owned(),
            ..Wanted::default()
        }];
        let verdict = |count| Verdict {
            objects: true,
            count,
            relation: None,
            background: None,
            size: None,
            kept: None,
        };
        let side = |name: &str, answer: &str, count| Side {
            name: name.to_owned(),
            answers: vec![Answered {
                scene: 0,
                answers: vec![answer.to_owned()],
            }],
            drawn: BTreeMap::from([(
                0,
                Drawn {
                    verdict: verdict(count),
                    passes: 4,
                    seconds: 0.1,
                    decibels: None,
                },
            )]),
            folder: folder.path().to_owned(),
        };
        let sides = [side("one", "a cat", true), side("other", "<b>a dog", false)];
        let asked = Asked {
            folder: folder.path(),
            scenes: &scenes,
            wanted: &wanted,
        };
        let page = page(&asked, &sides, 10).unwrap();
        for part in [
            "<td>what &lt;is&gt; it?</td><td>a cat</td>",
            "<td class=\"right\">a cat</td><td class=\"wrong\">&lt;b&gt;a dog</td>",
            "base64,AQID",
            "<td>100.0 (20.7 to 100.0) of 1</td>",
            "two object: a &lt;cat&gt; and a dog",
            "<span class=\"right\">one</span>",
            "<span class=\"wrong\">other</span>",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }
}
