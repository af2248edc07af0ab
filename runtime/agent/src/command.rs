//! What is asked over MQTT. Everything in it is hostile until checked.

use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::attempts;
use crate::config::LONGEST_QUESTION;
use crate::engine::{DrawRequest, Form, Question};
use crate::frame::Picture;
use crate::signed::{self, Sealed};
use crate::topic;

/// The largest command, in bytes: room for a picture in base64.
pub const LARGEST_COMMAND: usize = 8 << 20;
/// The longest prompt, in bytes.
pub const LONGEST_PROMPT: usize = 16 << 10;
/// The most correlation data that is sent back, in bytes.
pub const LONGEST_CORRELATION: usize = 1024;

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// The command's id, given or made.
    pub id: String,
    /// The response topic that was given.
    pub topic: Option<String>,
    /// Correlation data that was given.
    pub correlation: Option<Vec<u8>>,
    /// What the answer says about this device's clock.
    pub clock: Option<&'static str>,
}

/// A checked command.
#[derive(Debug, Clone)]
pub struct Command {
    /// Where the answer goes.
    pub reply: ReplyTo,
    /// After this time it is not done any more.
    pub expires: Option<OffsetDateTime>,
    /// What is to be done.
    pub action: Action,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Action {
    /// Answer a question about a picture.
    See {
        /// The question.
        question: Question,
        /// The picture.
        look: Look,
    },
    /// Ask a watch's question, and make an event of the answer.
    Watch {
        /// The watch.
        name: String,
        /// A picture that came with the command; none: the newest frame of the watch's camera.
        picture: Option<Picture>,
    },
    /// Draw.
    Draw(DrawRequest),
    /// Change a picture.
    Edit {
        /// The instruction, and how.
        request: DrawRequest,
        /// The picture.
        look: Look,
    },
    /// Publish the newest frame of a camera, of the only one if none is named.
    Snapshot(Option<String>),
    /// Call off the command of this id, whether it waits or is being done.
    Cancel(String),
    /// Change the configuration.
    Set(Map<String, Value>),
}

/// Which picture a question is about.
#[derive(Debug, Clone)]
pub enum Look {
    /// The newest frame of a camera; of the only one, if none is named.
    Camera(Option<String>),
    /// A picture that came with the command.
    Picture(Picture),
}

/// What a message carried beside its payload.
#[derive(Debug, Clone, Default)]
pub struct Envelope {
    /// The response topic.
    pub response_topic: Option<String>,
    /// The correlation data.
    pub correlation: Option<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    id: Option<String>,
    expires: Option<String>,
    /// Where the answer goes, for those who speak MQTT 3.1.1.
    response: Option<String>,
    #[serde(default)]
    args: Map<String, Value>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct SeeArgs {
    ask: Option<String>,
    region: Option<String>,
    camera: Option<String>,
    image: Option<String>,
    schema: Option<Value>,
    /// A watch, which brings its camera, question, schema and examples; `image` alone may stand beside it.
    watch: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct DrawArgs {
    prompt: String,
    size: Option<String>,
    steps: Option<usize>,
    guidance: Option<f32>,
    sampler: Option<String>,
    seed: Option<u64>,
    tries: Option<usize>,
    #[serde(default)]
    preview: bool,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct EditArgs {
    instruction: String,
    camera: Option<String>,
    image: Option<String>,
    size: Option<String>,
    steps: Option<usize>,
    guidance: Option<f32>,
    sampler: Option<String>,
    seed: Option<u64>,
    #[serde(default)]
    preview: bool,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotArgs {
    camera: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelArgs {
    /// The command that is called off.
    id: String,
}

/// What is asked when a command names no question.
pub const DEFAULT_QUESTION: &str = "what is in the picture?";

/// A command that was read, and nothing done about its arguments: first it is to be seen who sent it.
#[derive(Debug)]
pub struct Received {
    /// Where the answer goes.
    pub reply: ReplyTo,
    /// The signed payload, if it is one. It is not checked yet.
    pub sealed: Option<Sealed>,
    name: String,
    expires: Option<OffsetDateTime>,
    args: Map<String, Value>,
}

/// Reads what came on `topic`. `new_id` is the command's id if it has none. A refusal comes with the
/// address it is to be answered to.
///
/// # Errors
/// The reason in words.
pub fn receive(
    topic: &str,
    payload: &[u8],
    envelope: Envelope,
    new_id: String,
) -> Result<Received, (ReplyTo, String)> {
    let publishable = |t: &String| topic::is_publishable(t);
    let correlation = envelope.correlation;
    let mut reply = ReplyTo {
        id: new_id,
        topic: envelope.response_topic.filter(publishable),
        correlation: correlation.filter(|c| c.len() <= LONGEST_CORRELATION),
        clock: None,
    };
    let mut received = || {
        let (payload, mut sealed) = read(payload)?;
        if let Some(id) = payload.id {
            if !topic::is_id(&id) {
                return Err("id: 1 to 64 letters, digits, - and _ are accepted".to_owned());
            }
            reply.id = id;
        }
        if let Some(response) = payload.response {
            reply.topic = Some(response).filter(publishable);
        }
        if let Some(response) = sealed.as_mut().and_then(|s| s.order.response.take()) {
            reply.topic = Some(response).filter(publishable);
        }
        let expires = payload.expires.as_deref().map(time).transpose()?;
        Ok((sealed, expires, payload.args))
    };
    match received() {
        Ok((sealed, expires, args)) => Ok(Received {
            reply,
            sealed,
            name: topic::command_name(topic).unwrap_or_default().to_owned(),
            expires,
            args,
        }),
        Err(reason) => Err((reply, reason)),
    }
}

impl Received {
    /// The command, its arguments checked.
    ///
    /// # Errors
    /// The reason in words.
    pub fn command(self) -> Result<Command, (ReplyTo, String)> {
        match action(&self.name, self.args) {
            Ok(action) => Ok(Command {
                reply: self.reply,
                expires: self.expires,
                action,
            }),
            Err(reason) => Err((self.reply, reason)),
        }
    }
}

fn read(payload: &[u8]) -> Result<(Payload, Option<Sealed>), String> {
    if payload.len() > LARGEST_COMMAND {
        let len = payload.len();
        return Err(format!(
            "{len} bytes; at most {LARGEST_COMMAND} are accepted"
        ));
    }
    if signed::is_signed(payload) {
        let mut sealed = signed::read(payload)?;
        let payload = Payload {
            response: None,
            id: sealed.order.id.take(),
            expires: Some(sealed.order.expires.clone()),
            args: std::mem::take(&mut sealed.order.args),
        };
        return Ok((payload, Some(sealed)));
    }
    let plain = serde_json::from_slice(payload);
    plain
        .map(|payload| (payload, None))
        .map_err(|e| format!("the command is not understood: {e}"))
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expires: a time as 2026-01-31T12:00:00Z is expected".to_owned())
}

fn action(name: &str, args: Map<String, Value>) -> Result<Action, String> {
    if name == "set" {
        return Ok(Action::Set(args));
    }
    let args = Value::Object(args);
    let wrong = |e: serde_json::Error| format!("args: {e}");
    match name {
        "see" => see(serde_json::from_value(args).map_err(wrong)?),
        "draw" => draw(serde_json::from_value(args).map_err(wrong)?),
        "edit" => edit(serde_json::from_value(args).map_err(wrong)?),
        "snapshot" => {
            let args: SnapshotArgs = serde_json::from_value(args).map_err(wrong)?;
            Ok(Action::Snapshot(args.camera))
        }
        "cancel" => {
            let args: CancelArgs = serde_json::from_value(args).map_err(wrong)?;
            Ok(Action::Cancel(args.id))
        }
        _ => Err(format!(
            "there is no command \"{name}\"; known are see, draw, edit, snapshot, set and cancel"
        )),
    }
}

fn see(args: SeeArgs) -> Result<Action, String> {
    if let Some(name) = args.watch {
        let others = [&args.ask, &args.region, &args.camera];
        if others.into_iter().any(Option::is_some) || args.schema.is_some() {
            return Err("watch: it has its own question, schema and camera; image alone may stand beside it".to_owned());
        }
        let picture = match look(args.image, None)? {
            Look::Picture(picture) => Some(picture),
            Look::Camera(_) => None,
        };
        return Ok(Action::Watch { name, picture });
    }
    let ask = args.ask.unwrap_or_else(|| DEFAULT_QUESTION.to_owned());
    if ask.len() > LONGEST_QUESTION {
        return Err(format!(
            "ask: at most {LONGEST_QUESTION} bytes are accepted"
        ));
    }
    let look = look(args.image, args.camera)?;
    let region = args.region.as_deref().map(region).transpose()?;
    let form = match args.schema {
        // The engine says what is wrong with a schema: it knows what it can keep to.
        Some(schema) => Form::Schema(Arc::new(schema)),
        None => Form::Text,
    };
    let question = Question {
        ask,
        region,
        form,
        ..Question::default()
    };
    Ok(Action::See { question, look })
}

fn look(image: Option<String>, camera: Option<String>) -> Result<Look, String> {
    match (image, camera) {
        (Some(_), Some(_)) => Err("args: either image or camera, not both".to_owned()),
        (Some(image), None) => {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(image)
                .map_err(|e| format!("image: it is no base64: {e}"))?;
            let picture = Picture::decode(&bytes).map_err(|e| format!("image: {e}"))?;
            Ok(Look::Picture(picture))
        }
        (None, camera) => Ok(Look::Camera(camera)),
    }
}

fn edit(args: EditArgs) -> Result<Action, String> {
    let look = look(args.image, args.camera)?;
    let request = request(DrawArgs {
        prompt: args.instruction,
        size: args.size,
        steps: args.steps,
        guidance: args.guidance,
        sampler: args.sampler,
        seed: args.seed,
        tries: None,
        preview: args.preview,
    })?;
    Ok(Action::Edit { request, look })
}

fn draw(args: DrawArgs) -> Result<Action, String> {
    request(args).map(Action::Draw)
}

fn request(args: DrawArgs) -> Result<DrawRequest, String> {
    if args.prompt.len() > LONGEST_PROMPT {
        return Err(format!(
            "prompt: at most {LONGEST_PROMPT} bytes are accepted"
        ));
    }
    let size = args.size.as_deref().map(size).transpose()?;
    let tries = args.tries.unwrap_or(1);
    if !(1..=attempts::MOST).contains(&tries) {
        return Err(format!("tries: 1 to {} are accepted", attempts::MOST));
    }
    Ok(DrawRequest {
        prompt: args.prompt,
        size,
        steps: args.steps,
        guidance: args.guidance,
        sampler: args.sampler,
        seed: args.seed,
        tries,
        preview: args.preview,
    })
}

/// Reads `LEFT,TOP,WIDTH,HEIGHT`.
///
/// # Errors
/// The reason in words.
pub fn region(text: &str) -> Result<[usize; 4], String> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    numbers
        .and_then(|n| n.try_into().ok())
        .ok_or_else(|| format!("region: \"{text}\" is not understood; X,Y,W,H is expected"))
}

/// Reads `WIDTHxHEIGHT`.
///
/// # Errors
/// The reason in words.
pub fn size(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once('x').map(|(w, h)| (w.parse(), h.parse()));
    match sides {
        Some((Ok(w), Ok(h))) => Ok((w, h)),
        _ => Err(format!(
            "size: \"{text}\" is not understood; WIDTHxHEIGHT is expected"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, payload: &str) -> Result<Command, (ReplyTo, String)> {
        let topic = format!("kinglet/porch/command/{name}");
        let new = "new".to_owned();
        receive(&topic, payload.as_bytes(), Envelope::default(), new)?.command()
    }

    #[test]
    fn a_drawing_has_the_command_lines_names() {
        let command = parsed(
            "draw",
            r#"{"id": "a1", "args": {"prompt": "a cat", "size": "64x32", "steps": 4, "seed": 7}}"#,
        )
        .unwrap();
        assert_eq!(command.reply.id, "a1");
        let Action::Draw(request) = command.action else {
            panic!("no drawing")
        };
        assert_eq!(request.size, Some((64, 32)));
        assert_eq!(
            (request.steps, request.seed, request.guidance),
            (Some(4), Some(7), None)
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        let long = format!(r#"{{"args": {{"prompt": "{}"}}}}"#, "a".repeat(1 << 20));
        for (name, payload, word) in [
            ("draw", "", "not understood"),
            ("draw", "[]", "not understood"),
            ("draw", "{}", "prompt"),
            (
                "draw",
                r#"{"args": {"prompt": "a", "colour": 1}}"#,
                "colour",
            ),
            (
                "draw",
                r#"{"args": {"prompt": "a", "size": "big"}}"#,
                "WIDTHxHEIGHT",
            ),
            ("draw", r#"{"id": "a/b", "args": {"prompt": "a"}}"#, "id"),
            (
                "draw",
                r#"{"expires": "soon", "args": {"prompt": "a"}}"#,
                "expires",
            ),
            ("draw", r#"{"args": {"prompt": "a", "tries": 0}}"#, "tries"),
            ("draw", r#"{"args": {"prompt": "a", "tries": 99}}"#, "tries"),
            ("draw", &long, "prompt"),
            ("see", r#"{"args": {"image": "!"}}"#, "base64"),
            ("see", r#"{"args": {"image": "AAAA"}}"#, "image"),
            ("see", r#"{"args": {"watch": "w", "ask": "?"}}"#, "watch"),
            ("see", r#"{"args": {"watch": "w", "camera": "c"}}"#, "watch"),
            ("see", r#"{"args": {"watch": "w", "schema": {}}}"#, "watch"),
            ("see", r#"{"args": {"watch": "w", "image": "!"}}"#, "base64"),
            ("sing", "{}", "sing"),
        ] {
            let (_, reason) = parsed(name, payload).unwrap_err();
            assert!(reason.contains(word), "{payload:.40}: {reason}");
        }
    }

    #[test]
    fn a_response_topic_with_wildcards_is_not_used() {
        let envelope = Envelope {
            response_topic: Some("a/#".to_owned()),
            correlation: Some(vec![1]),
        };
        let payload = br#"{"args": {"prompt": "a"}}"#;
        let topic = "kinglet/p/command/draw";
        let command = receive(topic, payload, envelope, "n".to_owned()).unwrap();
        assert_eq!(command.reply.topic, None);
        assert_eq!(command.reply.correlation, Some(vec![1]));
    }
}
