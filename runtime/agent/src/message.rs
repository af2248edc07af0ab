//! Payloads on the wire.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::attempts::Check;
use crate::camera::CameraReport;
use crate::companion::CompanionReport;
use crate::engine::ModelInfo;
use crate::regime::Regime;
use crate::steps::Step;

/// What kind of news an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// Something was seen for the first time.
    New,
    /// It was looked at again, and the answer is another one.
    Update,
    /// It is over; the answer is the last one.
    End,
}

impl EventType {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EventType::New => "new",
            EventType::Update => "update",
            EventType::End => "end",
        }
    }
}

/// `kinglet/D/event`
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// The same in every copy of this event, and in what becomes of it.
    pub id: String,
    /// Grows by one with every stored event of the device, across restarts.
    pub seq: u64,
    /// What kind of news it is.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// When the frame was taken, RFC 3339.
    pub at: String,
    /// The camera.
    pub camera: String,
    /// The watch.
    pub watch: String,
    /// The answer.
    pub answer: Value,
    /// Which model answered.
    pub model: ModelInfo,
    /// What made it, if a command, a network or the microcontroller did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Cause>,
    /// Milliseconds by stage.
    pub timing: Timing,
    /// The topic of the picture, if it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// The topic of the part that matters, if it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<String>,
    /// That part: `[x, y, width, height]` in fractions of the picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<[f64; 4]>,
    /// What was done about it, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

/// What made an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Cause {
    /// Somebody asked: the event is not followed, and ends none that is.
    Command {
        /// The id of the command.
        command: String,
        /// Whether the picture came with the command, and not from the camera.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        image: bool,
    },
    /// A network found something.
    Found {
        /// What it is.
        class: String,
        /// How sure the network is, 0 to 1.
        score: f64,
        /// Left, top, width and height in fractions of the frame, if the network finds boxes.
        #[serde(rename = "box", skip_serializing_if = "Option::is_none")]
        area: Option<[f64; 4]>,
    },
    /// The microcontroller has woken the board.
    Woken {
        /// Which of its inputs.
        input: String,
        /// How often that had become active.
        count: u16,
        /// How bright it was, 0 to 1, if it has a light sensor.
        #[serde(skip_serializing_if = "Option::is_none")]
        light: Option<f64>,
    },
}

/// Milliseconds by stage.
pub type Timing = BTreeMap<&'static str, u64>;

/// `kinglet/D/status`
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Status {
    /// Whether it is there.
    pub state: State,
    /// The device's name.
    pub device: String,
    /// The groups whose commands it follows.
    pub groups: Vec<String>,
    /// Those of them whose commands the broker does not let it have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups_refused: Vec<String>,
    /// The program's version.
    pub version: &'static str,
    /// Which model it runs.
    pub model: ModelInfo,
    /// Its cameras.
    pub cameras: Vec<String>,
    /// Its watches.
    pub watches: Vec<String>,
    /// How its cameras do, by name; none in the will.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, CameraReport>,
    /// How the microcontroller does that wakes it, if there is one; none in the will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub companion: Option<CompanionReport>,
    /// What it may do now, as hot as it is; none in the will, or if nobody looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub governor: Option<Regime>,
    /// Degrees Celsius of its hottest sensor, where the system has one; none in the will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// When it came, RFC 3339; none in the will, which the broker publishes later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// A payload, and whether the device knew the time when it was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "{T}"))]
pub struct Stamped<'a, T> {
    /// The payload.
    #[serde(flatten)]
    pub payload: &'a T,
    /// `unsynchronised` while the time was not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<&'static str>,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is connected.
    Online,
    /// It has left, or the broker has lost it.
    Offline,
}

/// What answers a command: progress, then one result or one error.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Reply {
    /// A step is done.
    Progress {
        /// The command.
        id: String,
        /// The device that answers: those of a group answer on one topic.
        device: String,
        /// Steps done.
        step: usize,
        /// All steps.
        of: usize,
        /// A small PNG in base64 of how far it is, if it was asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        preview: Option<String>,
    },
    /// It is done.
    Result {
        /// The command.
        id: String,
        /// The device that answers: those of a group answer on one topic.
        device: String,
        /// What came out.
        result: Outcome,
        /// The event that was made of it, if the question was a watch's.
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<String>,
        /// What came of looking at drawings, if more than one try was allowed.
        #[serde(skip_serializing_if = "Option::is_none")]
        check: Option<Check>,
        /// Milliseconds by stage.
        timing: Timing,
    },
    /// It could not be done.
    Error {
        /// The command.
        id: String,
        /// The device that answers: those of a group answer on one topic.
        device: String,
        /// Why not.
        error: String,
    },
}

/// What came out of a command.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// An answer.
    Answer(Value),
    /// The topic of a picture.
    Picture(String),
    /// The id of a command that was called off.
    Cancelled(String),
    /// The version of the configuration that runs now.
    Version(u64),
}

/// A payload as JSON bytes.
pub fn json(payload: &impl Serialize) -> Vec<u8> {
    // These types hold no maps with keys that are no strings, which is all that could fail.
    serde_json::to_vec(payload).unwrap_or_default()
}

/// A time as RFC 3339 with milliseconds.
pub fn rfc3339(at: OffsetDateTime) -> String {
    let millis = at.millisecond();
    at.replace_millisecond(millis)
        .and_then(|t| t.replace_nanosecond(u32::from(millis) * 1_000_000))
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_default()
}
