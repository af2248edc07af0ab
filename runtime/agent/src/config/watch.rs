//! What to look for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::OnnxConfig;
use crate::period::{Limit, Period};
use crate::schedule::Hours;

/// `[[watch]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WatchConfig {
    /// What events call it.
    pub name: String,
    /// The camera it looks through.
    pub camera: String,
    /// `motion`, `every:DURATION`, `at:HH:MM`, `says:"RULE"`, `onnx:FILE`, `companion`, `companion:INPUT`
    /// or `command`.
    pub when: String,
    /// The question.
    pub ask: String,
    /// A JSON Schema, or the file of one; left out: the answer is a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaConfig>,
    /// Pictures with the answers that are expected for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub example: Vec<ExampleConfig>,
    /// What the network of `onnx:FILE` takes and finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<OnnxConfig>,
    /// The part `[x, y, width, height]`, in fractions of the picture, that the question is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<[f64; 4]>,
    /// What is published: `answer`, `picture`, `crop`.
    #[serde(default = "answer_only")]
    pub publish: Vec<Publish>,
    /// What may be done about what was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<StepsConfig>,
    /// Rectangles `[x, y, width, height]`, in fractions of the picture: motion elsewhere does not count, nor do
    /// boxes of a network whose centre is elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zone: Vec<[f64; 4]>,
    /// How long a scene must be still, or a rule true, before it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Period>,
    /// How often a scene that stays, or a rule that stays true, is looked at again. Events then have an
    /// `update` when the answer changes, and an `end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<Period>,
    /// When it looks at all: `22:00-06:00`, `mon-fri 08:00-18:00`; left out: always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<Hours>,
    /// How long it rests after a new event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Period>,
    /// The most new events: `20/h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

impl WatchConfig {
    /// A watch that publishes its answers.
    #[must_use]
    pub fn new(name: &str, camera: &str, when: &str, ask: &str) -> Self {
        WatchConfig {
            name: name.to_owned(),
            camera: camera.to_owned(),
            when: when.to_owned(),
            ask: ask.to_owned(),
            schema: None,
            example: Vec::new(),
            region: None,
            onnx: None,
            publish: answer_only(),
            steps: None,
            zone: Vec::new(),
            debounce: None,
            follow: None,
            hours: Vec::new(),
            cooldown: None,
            limit: None,
        }
    }
}

/// The schema of a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum SchemaConfig {
    /// A file.
    File(PathBuf),
    /// The schema itself.
    Inline(Value),
}

/// `[[watch.example]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ExampleConfig {
    /// A PNG, JPEG or WebP file.
    pub picture: PathBuf,
    /// The answer: a text, or what the schema asks for.
    pub answer: Value,
}

/// `[watch.steps]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StepsConfig {
    /// What they are for.
    pub ask: String,
    /// The most of them.
    #[serde(default = "four")]
    pub max: usize,
    /// What may be done: `look`, `snapshot`, `publish`, `draw:PROMPT`, `output:NAME=VALUE`.
    pub allow: Vec<String>,
}

fn four() -> usize {
    4
}

/// What a watch publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// The event with its answer.
    Answer,
    /// The picture that was looked at.
    Picture,
    /// The part of it that matters: the watch's region, else what has moved.
    Crop,
}

fn answer_only() -> Vec<Publish> {
    vec![Publish::Answer]
}
