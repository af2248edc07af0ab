//! A watch with its files read: what is asked about every frame that its trigger chooses.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::area::{self, Area};
use crate::config::{Config, ExampleConfig, SchemaConfig, WatchConfig, error};
use crate::engine::{Engine, Example, Form, Question};
use crate::error::{AgentError, Result};
use crate::frame::Picture;
use crate::gate::Gate;
use crate::steps::Steps;
use crate::trigger::When;

/// The largest schema file, in bytes.
pub const LARGEST_SCHEMA: u64 = 64 << 10;
/// The largest picture of an example, in bytes of its file.
pub const LARGEST_EXAMPLE: u64 = 8 << 20;
/// The most examples of a watch.
pub const MOST_EXAMPLES: usize = 4;
/// The longest answer of an example, in bytes.
pub const LONGEST_EXAMPLE: usize = 4096;

/// A watch that is ready to look.
#[derive(Debug)]
pub struct Watch {
    /// What the user wrote.
    pub config: WatchConfig,
    /// When it looks.
    pub when: When,
    /// What the model must have come to say yes to before it is asked.
    pub condition: Option<Question>,
    /// The network that must come to find something before it is asked.
    #[cfg(feature = "onnx")]
    pub(crate) network: Option<Arc<crate::trigger::onnx::Network>>,
    /// What is asked.
    pub question: Question,
    /// The part of the picture that it is about.
    pub(crate) region: Option<Area>,
    /// What may be done about what was seen.
    pub(crate) steps: Option<Steps>,
    /// Whether it may look at all.
    pub(crate) gate: Gate,
}

impl Watch {
    /// Reads the files that a watch names. Relative ones are relative to `folder`.
    ///
    /// # Errors
    /// [`AgentError::Config`] naming the file.
    pub fn load(config: &WatchConfig, folder: &Path) -> Result<Self> {
        let form = match &config.schema {
            None => Form::Text,
            Some(SchemaConfig::Inline(schema)) => {
                if schema.to_string().len() as u64 > LARGEST_SCHEMA {
                    let expected = format!("has a schema of more than {LARGEST_SCHEMA} bytes");
                    return Err(error("watch.schema", &config.name, &expected));
                }
                Form::Schema(Arc::new(schema.clone()))
            }
            Some(SchemaConfig::File(path)) => {
                let refuse = |reason: String| file_error("watch.schema", path, &reason);
                let bytes = read(&folder.join(path), LARGEST_SCHEMA).map_err(refuse)?;
                let schema = serde_json::from_slice(&bytes)
                    .map_err(|e| file_error("watch.schema", path, &format!("is no JSON: {e}")))?;
                Form::Schema(Arc::new(schema))
            }
        };
        let when = When::of(config)?;
        if cfg!(not(feature = "onnx")) && matches!(when, When::Onnx(_)) {
            let expected = "needs a program that was built with the feature onnx";
            return Err(error("watch.when", &config.when, expected));
        }
        let examples = config.example.iter().map(|e| example(e, &form, folder));
        Ok(Watch {
            condition: when.condition(),
            #[cfg(feature = "onnx")]
            network: network(config, &when, folder)?,
            when,
            region: config
                .region
                .map(|r| area::read_one("watch.region", r))
                .transpose()?,
            question: Question {
                ask: config.ask.clone(),
                examples: examples.collect::<Result<_>>()?,
                form,
                ..Question::default()
            },
            steps: Steps::of(config)?,
            gate: Gate::of(config),
            config: config.clone(),
        })
    }
}

/// The watches that run, for whoever is asked to let one look.
#[derive(Debug, Default)]
pub(crate) struct Current(Mutex<Vec<Arc<Watch>>>);

impl Current {
    /// These run from now on.
    pub(crate) fn set(&self, watches: Vec<Arc<Watch>>) {
        *self.lock() = watches;
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Watch>> {
        let watches = self.lock();
        watches.iter().find(|w| w.config.name == name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watch>>> {
        // The list is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every watch of a configuration with its files, which the engine has accepted.
///
/// # Errors
/// [`AgentError::Config`] naming what is wrong.
pub(crate) fn load_all(
    config: &Config,
    folder: &Path,
    engine: &dyn Engine,
) -> Result<Vec<Arc<Watch>>> {
    let load = |config: &WatchConfig| {
        let watch = Watch::load(config, folder)?;
        engine
            .check(&watch.question)
            .map_err(|e| match &config.schema {
                Some(SchemaConfig::File(path)) => {
                    file_error("watch.schema", path, &format!("is refused: {e}"))
                }
                Some(SchemaConfig::Inline(_)) => {
                    error("watch.schema", &config.name, &format!("is refused: {e}"))
                }
                None => error("watch.ask", &config.name, &format!("is refused: {e}")),
            })?;
        if let Some(condition) = &watch.condition {
            engine
                .check(condition)
                .map_err(|e| error("watch.when", &config.when, &format!("is refused: {e}")))?;
        }
        if let Some(steps) = &watch.steps {
            engine
                .check(&steps.longest())
                .map_err(|e| error("watch.steps", &config.name, &format!("is refused: {e}")))?;
        }
        // It is made anew when the watch starts: here it is seen that it can be.
        watch.when.trigger(&watch, &Arc::default())?;
        Ok(Arc::new(watch))
    };
    config.watch.iter().map(load).collect()
}

/// The network of a watch, if a network decides.
#[cfg(feature = "onnx")]
fn network(
    config: &WatchConfig,
    when: &When,
    folder: &Path,
) -> Result<Option<Arc<crate::trigger::onnx::Network>>> {
    use crate::config::ClassesConfig;
    use crate::trigger::onnx::{LARGEST_NETWORK, Network};

    let (When::Onnx(path), Some(onnx)) = (when, &config.onnx) else {
        return Ok(None);
    };
    let classes = match &onnx.classes {
        ClassesConfig::List(names) => names.clone(),
        ClassesConfig::File(file) => {
            let refuse = |reason: String| file_error("watch.onnx.classes", file, &reason);
            let bytes = read(&folder.join(file), LARGEST_SCHEMA).map_err(refuse)?;
            let text = String::from_utf8(bytes).map_err(|_| refuse("is no text".to_owned()))?;
            let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
            onnx.check_classes(&names)?;
            names
        }
    };
    let refuse = |reason: String| file_error("watch.when", path, &reason);
    let bytes = read(&folder.join(path), LARGEST_NETWORK).map_err(refuse)?;
    let network = Network::load(&path.display().to_string(), bytes, onnx, classes);
    network.map(Some).map_err(refuse)
}

fn example(config: &ExampleConfig, form: &Form, folder: &Path) -> Result<Example> {
    let path = &config.picture;
    let refuse = |reason: String| file_error("watch.example.picture", path, &reason);
    let bytes = read(&folder.join(path), LARGEST_EXAMPLE).map_err(refuse)?;
    let picture = Picture::decode(&bytes).map_err(|e| {
        file_error(
            "watch.example.picture",
            path,
            &format!("cannot be used: {e}"),
        )
    })?;
    let answer = match (&config.answer, form) {
        (Value::String(text), Form::Text) => text.clone(),
        // As the model is to write it.
        (value, _) => value.to_string(),
    };
    if answer.len() > LONGEST_EXAMPLE {
        let expected = format!("has a longer answer than {LONGEST_EXAMPLE} bytes");
        return Err(file_error("watch.example.picture", path, &expected));
    }
    Ok(Example { picture, answer })
}

fn file_error(field: &str, path: &Path, expected: &str) -> AgentError {
    error(field, &path.display().to_string(), expected)
}

/// Reads a file of at most so many bytes; what is wrong is said as the rest of a sentence.
fn read(path: &Path, most: u64) -> std::result::Result<Vec<u8>, String> {
    let unreadable = |e: std::io::Error| format!("cannot be read: {e}");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!("has more than {most} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, folder: &Path) -> Result<Watch> {
        let config: WatchConfig = toml::from_str(text).unwrap();
        Watch::load(&config, folder)
    }

    const WATCH: &str = "name = 'who'\ncamera = 'door'\nwhen = 'motion'\nask = 'who?'\n";

    #[test]
    fn the_files_of_a_watch_are_read_or_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("who.json"), r#"{"type": "null"}"#).unwrap();
        std::fs::write(folder.path().join("bad.json"), "{").unwrap();
        std::fs::write(folder.path().join("large.json"), vec![b' '; 70_000]).unwrap();
        let picture = Picture {
            width: 2,
            height: 1,
            rgb: vec![9; 6].into(),
        };
        let png = picture.to_png().unwrap();
        std::fs::write(folder.path().join("x.png"), png).unwrap();

        let example = "[[example]]\npicture = 'x.png'\nanswer = { count = 2 }\n";
        let text = format!("{WATCH}schema = 'who.json'\n{example}");
        let watch = load(&text, folder.path()).unwrap();
        assert_eq!(watch.question.examples[0].answer, r#"{"count":2}"#);
        assert!(matches!(watch.question.form, Form::Schema(_)));

        for (lines, words) in [
            ("schema = 'none.json'", "none.json\" cannot be read"),
            ("schema = 'bad.json'", "bad.json\" is no JSON"),
            ("schema = 'large.json'", "large.json\" has more than"),
            (
                "[[example]]\npicture = 'who.json'\nanswer = 'a'",
                "who.json\" cannot be used",
            ),
        ] {
            let refused = load(&format!("{WATCH}{lines}"), folder.path()).unwrap_err();
            assert!(refused.to_string().contains(words), "{refused}");
        }
    }
}
