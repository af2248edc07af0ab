//! A command to a device or a group, and who answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kinglet_agent::signed::Order;
use kinglet_agent::topic;
use kinglet_agent::wire::{Beside, Delivery, Received};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::broker::{self, Broker};
use super::text::{length, plain};
use super::{paper, roster};
use crate::bar::Bar;
use crate::failure::{Failure, Outcome};

/// Characters of an error that a device sends.
const LONGEST_ERROR: usize = 300;

/// Who is asked.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Device(String),
    Group(String),
}

impl Target {
    /// Of a command line, which has one of both.
    pub(crate) fn of(device: Option<&String>, group: Option<&String>) -> Self {
        match group {
            Some(group) => Target::Group(group.clone()),
            None => Target::Device(device.cloned().unwrap_or_default()),
        }
    }
}

/// What is asked.
pub(crate) struct Ask<'a> {
    pub(crate) target: Target,
    /// The command's name.
    pub(crate) command: &'static str,
    pub(crate) args: Map<String, Value>,
    pub(crate) within: Duration,
    pub(crate) sign_with: Option<&'a Path>,
    /// Whether the answer is a picture.
    pub(crate) picture: bool,
}

/// What one device answers.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The result or error as it came; none yet.
    pub(crate) reply: Option<Value>,
    /// The picture's file.
    pub(crate) picture: Option<Vec<u8>>,
}

impl Answer {
    /// What went wrong, if it did.
    pub(crate) fn error(&self) -> Option<String> {
        let error = self.reply.as_ref()?.get("error")?;
        let text = error
            .as_str()
            .map_or_else(|| error.to_string(), str::to_owned);
        Some(plain(&text, LONGEST_ERROR))
    }

    fn complete(&self, picture: bool) -> bool {
        self.reply.is_some() && (self.picture.is_some() || !picture || self.error().is_some())
    }
}

/// What all answer.
pub(crate) struct Answers {
    /// By device.
    pub(crate) given: BTreeMap<String, Answer>,
    /// Devices that are online and did not answer.
    pub(crate) silent: Vec<String>,
    within: Duration,
}

impl Answers {
    /// Fails if somebody did not do what was asked.
    pub(crate) fn verdict(&self) -> Outcome {
        let mut complaints: Vec<String> = self
            .given
            .iter()
            .filter_map(|(device, answer)| Some(format!("{device}: {}", answer.error()?)))
            .collect();
        if !self.silent.is_empty() {
            let (devices, within) = (self.silent.join(", "), length(self.within));
            complaints.push(format!("no answer within {within} from {devices}"));
        }
        match complaints.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(complaints.join("; "))),
        }
    }

    /// All of it as one JSON object.
    pub(crate) fn json(&self) -> Value {
        let replies = self
            .given
            .iter()
            .map(|(name, a)| (name.clone(), json!(a.reply)));
        let replies: Map<String, Value> = replies.collect();
        json!({ "answers": replies, "silent": self.silent })
    }
}

/// Sends a command and waits for the answers of all that it concerns.
pub(crate) async fn ask(broker: &mut Broker, ask: &Ask<'_>) -> Outcome<Answers> {
    let key = ask.sign_with.map(paper::read_key).transpose()?;
    let expected = expected(broker, &ask.target).await?;
    let id = broker::random()?;
    let (topic, who) = match &ask.target {
        Target::Device(name) => (format!("kinglet/{name}/command/{}", ask.command), &name[..]),
        Target::Group(name) => (format!("kinglet/group/{name}/command/{}", ask.command), "+"),
    };
    let reply = broker.reply_topic();
    let mut filters = vec![reply.clone()];
    if ask.picture {
        filters.push(format!("kinglet/{who}/image/{id}"));
    }
    broker.subscribe(&filters, Delivery::AtLeastOnce).await?;

    let expires = OffsetDateTime::now_utc() + ask.within;
    let payload = match key {
        Some(key) => {
            let order = Order::new(&topic, ask.args.clone(), expires).map_err(Failure::new)?;
            let order = Order {
                id: Some(id.clone()),
                response: Some(reply.clone()),
                ..order
            };
            order.sign(&key).map_err(Failure::new)?
        }
        None => {
            let expires = expires.format(&Rfc3339)?;
            // The response topic is there twice: MQTT 3.1.1 has no other place for it.
            let command =
                json!({ "id": id, "expires": expires, "response": reply, "args": ask.args });
            serde_json::to_vec(&command)?
        }
    };
    let beside = Beside {
        response_topic: Some(reply.clone()),
        correlation: Some(id.clone().into_bytes()),
        expiry: Some(ask.within.as_secs_f64().ceil() as u32),
        content_type: Some("application/json".to_owned()),
    };
    broker.publish(&topic, payload, beside).await?;

    let mut gathered = Gathered {
        given: BTreeMap::new(),
        id,
        reply,
        bar: Bar::new(ask.command),
    };
    let deadline = Instant::now() + ask.within;
    let complete = |given: &BTreeMap<String, Answer>, name: &String| {
        given.get(name).is_some_and(|a| a.complete(ask.picture))
    };
    while !expected.iter().all(|name| complete(&gathered.given, name)) {
        let Some(publish) = broker.next(deadline).await? else {
            break;
        };
        gathered.take(&publish);
    }
    let mut given = gathered.given;
    given.retain(|_, answer| answer.complete(ask.picture));
    let silent = expected
        .into_iter()
        .filter(|name| !given.contains_key(name));
    Ok(Answers {
        silent: silent.collect(),
        given,
        within: ask.within,
    })
}

/// Who is online and concerned. Nobody is an error.
async fn expected(broker: &mut Broker, target: &Target) -> Outcome<Vec<String>> {
    match target {
        Target::Device(name) => {
            let devices = roster::get(broker, &format!("kinglet/{name}/status")).await?;
            match devices.get(name) {
                Some(device) if device.status.online() => Ok(vec![name.clone()]),
                Some(_) => Err(Failure::new(format_args!("{name} is offline"))),
                None => Err(Failure::new(format_args!(
                    "the broker knows no device \"{name}\"; kinglet fleet ls lists those it knows"
                ))),
            }
        }
        Target::Group(group) => {
            let devices = roster::get(broker, "kinglet/+/status").await?;
            let online = devices.into_iter().filter(|(_, device)| {
                device.status.online() && device.status.groups.contains(group)
            });
            let names: Vec<String> = online.map(|(name, _)| name).collect();
            match names.is_empty() {
                false => Ok(names),
                true => Err(Failure::new(format_args!(
                    "no device of the group \"{group}\" is online"
                ))),
            }
        }
    }
}

/// What has come so far.
struct Gathered {
    given: BTreeMap<String, Answer>,
    id: String,
    reply: String,
    bar: Bar,
}

impl Gathered {
    fn take(&mut self, publish: &Received) {
        let topic = &publish.topic[..];
        if topic != self.reply {
            let device = topic
                .strip_prefix("kinglet/")
                .and_then(|rest| rest.strip_suffix(&self.id)?.strip_suffix("/image/"));
            if let Some(device) = device.filter(|d| topic::is_name(d)) {
                let answer = self.given.entry(device.to_owned()).or_default();
                answer.picture = Some(publish.payload.clone());
            }
            return;
        }
        let Ok(reply) = serde_json::from_slice::<Value>(&publish.payload) else {
            return;
        };
        // Nobody can guess the id, which a reply has in every version of MQTT.
        let ours = reply["id"] == *self.id;
        let device = reply["device"].as_str().map(str::to_owned);
        let Some(device) = device.filter(|d| ours && topic::is_name(d)) else {
            return;
        };
        if let (Some(step), Some(of)) = (reply["step"].as_u64(), reply["of"].as_u64()) {
            self.bar.show(step as usize, of as usize);
        } else if reply.get("result").is_some() || reply.get("error").is_some() {
            self.given.entry(device).or_default().reply = Some(reply);
        }
    }
}
