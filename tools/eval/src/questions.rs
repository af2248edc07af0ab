//! Answers to questions about scenes that `tools/train/held_out.py` has made, by ability and by what was done to the
//! picture.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet_kernels::Cpu;
use kinglet_model::{Model, Picture, Source, WriteOptions};
use serde::{Deserialize, Serialize};

use crate::error::{Result, data_error};
use crate::pool::on_all_cores;
use crate::prompts::first_of_each;
use crate::share::Share;

/// The most tokens of an answer.
const ANSWER_TOKENS: usize = 32;

/// A scene: its pictures in order, what was done to them, and questions with their true answers.
#[derive(Debug, Clone, Deserialize)]
pub struct Scene {
    /// Files in the scenes' folder.
    pub pictures: Vec<String>,
    /// What was done to them; `plain` is nothing.
    pub condition: String,
    /// Ability, question, answer.
    pub asks: Vec<(String, String, String)>,
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// A container.
    pub model: PathBuf,
    /// A folder with `truth.json`.
    pub scenes: PathBuf,
    /// At most so many scenes of each condition.
    pub most: usize,
}

/// The answers to a scene's questions.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Its number in `truth.json`.
    pub scene: usize,
    /// One a question.
    pub answers: Vec<String>,
}

/// Shares of right answers by condition and ability.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Marks(pub BTreeMap<String, BTreeMap<String, Share>>);

/// The scenes of a folder.
///
/// # Errors
/// [`crate::EvalError`] if its `truth.json` is not sound.
pub fn scenes(folder: &Path) -> Result<Vec<Scene>> {
    let truth = folder.join("truth.json");
    let text = std::fs::read(&truth).map_err(|e| data_error(&truth, e))?;
    serde_json::from_slice(&text).map_err(|e| data_error(&truth, e))
}

/// Asks a container everything, one scene a core.
///
/// # Errors
/// [`crate::EvalError`] if a file is not sound or the model cannot be run.
pub fn run(options: &Options, scenes: &[Scene]) -> Result<Vec<Answered>> {
    let model = Model::on_cpu(&Source::open(&options.model)?)?;
    let conditions = scenes.iter().map(|scene| &*scene.condition);
    let wanted = first_of_each(conditions, options.most);
    let what = options.model.display().to_string();
    let mut answered = on_all_cores(&what, &wanted, |i| {
        let answers = ask(&model, &scenes[i], &options.scenes)?;
        Ok(Answered { scene: i, answers })
    })?;
    answered.sort_by_key(|a| a.scene);
    Ok(answered)
}

fn ask(model: &Arc<Model<Cpu>>, scene: &Scene, folder: &Path) -> Result<Vec<String>> {
    let mut context = model.context();
    for file in &scene.pictures {
        let path = folder.join(file);
        let bytes = std::fs::read(&path).map_err(|e| data_error(&path, e))?;
        context.push_image(&Picture::decode(&bytes)?)?;
    }
    let answer = |(_, question, _): &(String, String, String)| {
        let mut context = context.fork();
        context.push_text(question)?;
        let options = WriteOptions::greedy(ANSWER_TOKENS);
        let written = context.write(&options, &mut |_| ControlFlow::Continue(()))?;
        Ok(written.text)
    };
    scene.asks.iter().map(answer).collect()
}

/// Whether each of a scene's questions is answered right, with its ability.
///
/// # Errors
/// [`crate::EvalError`] if a picture is not sound or the model cannot be run.
pub fn right(model: &Arc<Model<Cpu>>, scene: &Scene, folder: &Path) -> Result<Vec<(String, bool)>> {
    let answers = ask(model, scene, folder)?;
    let pairs = scene.asks.iter().zip(answers);
    Ok(pairs
        .map(|((ability, _, truth), answer)| (ability.clone(), answer == *truth))
        .collect())
}

impl Marks {
    /// An answer is right if it is the true one to the letter.
    pub fn of(scenes: &[Scene], answered: &[Answered]) -> Self {
        let mut marks = Marks::default();
        for one in answered {
            let scene = &scenes[one.scene];
            let by_ability = marks.0.entry(scene.condition.clone()).or_default();
            for ((ability, _, truth), answer) in scene.asks.iter().zip(&one.answers) {
                let share = by_ability.entry(ability.clone()).or_default();
                share.count(answer == truth);
            }
        }
        marks
    }

    /// A Markdown table: a row an ability, a column a condition, in percent with 95 % intervals.
    pub fn table(&self) -> String {
        let plain_first = |condition: &&String| (*condition != "plain", (*condition).clone());
        let mut conditions: Vec<&String> = self.0.keys().collect();
        conditions.sort_by_key(plain_first);
        let mut abilities: Vec<&String> = self.0.values().flat_map(BTreeMap::keys).collect();
        abilities.sort();
        abilities.dedup();
        let mut out = "| |".to_owned();
        // Writing to a string cannot fail.
        for condition in &conditions {
            let _ = write!(out, " {condition} |");
        }
        let _ = write!(out, "\n|---|{}\n", "---|".repeat(conditions.len()));
        for ability in abilities {
            let _ = write!(out, "| {ability} |");
            for condition in &conditions {
                let _ = match self.0[*condition].get(ability) {
                    Some(share) => write!(out, " {} of {} |", share.percent(), share.of),
                    None => write!(out, " |"),
                };
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_condition_and_ability() {
        let asks = |truth: &str| vec![("name".to_owned(), "what?".to_owned(), truth.to_owned())];
        let scene = |condition: &str| Scene {
            pictures: Vec::new(),
            condition: condition.to_owned(),
            asks: asks("a cat"),
        };
        let scenes = [scene("blur"), scene("plain"), scene("plain")];
        let said = |scene, answer: &str| Answered {
            scene,
            answers: vec![answer.to_owned()],
        };
        let marks = Marks::of(
            &scenes,
            &[said(0, "a cat"), said(1, "a cat"), said(2, "a dog")],
        );
        assert_eq!(marks.0["plain"]["name"], Share { right: 1, of: 2 });
        assert_eq!(marks.0["blur"]["name"], Share { right: 1, of: 1 });
        let table = marks.table();
        assert!(
            table.starts_with(
                "| | plain | blur |\n|---|---|---|\n| name | 50.0 (9.5 to 90.5) of 2 | 100.0"
            ),
            "{table}"
        );
    }
}
