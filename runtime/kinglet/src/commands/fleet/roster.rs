//! The devices that the broker knows: their retained statuses.

use std::collections::BTreeMap;
use std::time::Duration;

use kinglet_agent::topic;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::broker::Broker;
use crate::failure::Outcome;

/// How long the broker may be silent before it has sent all.
const SILENCE: Duration = Duration::from_secs(2);
/// The same, once it has sent what was published after the subscription.
const QUIET: Duration = Duration::from_millis(100);

/// A device, as its status says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) state: String,
    pub(crate) groups: Vec<String>,
    pub(crate) version: String,
    pub(crate) model: Model,
    pub(crate) cameras: Vec<String>,
    pub(crate) temperature: Option<f64>,
    pub(crate) at: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Model {
    pub(crate) name: String,
}

impl Status {
    pub(crate) fn online(&self) -> bool {
        self.state == "online"
    }
}

/// A device.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) status: Status,
    /// Its status as it came.
    pub(crate) payload: Value,
}

/// By name.
pub(crate) type Roster = BTreeMap<String, Device>;

/// The devices whose statuses this filter catches, `kinglet/+/status` say; waits until they are there.
pub(crate) async fn get(broker: &mut Broker, filter: &str) -> Outcome<Roster> {
    // Not acknowledged one by one: brokers keep few messages at a time that are.
    let reply = broker.reply_topic();
    broker
        .subscribe(std::slice::from_ref(&reply), QoS::AtMostOnce)
        .await?;
    broker
        .subscribe(&[filter.to_owned()], QoS::AtMostOnce)
        .await?;
    // There is no word for the last retained message, but what is published now comes behind it.
    let marker = PublishProperties::default();
    broker.publish(&reply, b"all".to_vec(), marker).await?;
    let mut devices = Roster::new();
    let mut quiet = SILENCE;
    while let Some(publish) = broker.next(Instant::now() + quiet).await? {
        if publish.topic == reply {
            quiet = QUIET;
        } else {
            enter(&mut devices, &publish);
        }
    }
    Ok(devices)
}

/// Takes a status; returns whose it is. What is none is passed over.
pub(crate) fn enter(devices: &mut Roster, publish: &Publish) -> Option<String> {
    let name = name(std::str::from_utf8(&publish.topic).ok()?)?;
    if publish.payload.is_empty() {
        devices.remove(name);
        return Some(name.to_owned());
    }
    let payload: Value = serde_json::from_slice(&publish.payload).ok()?;
    let status = Status::deserialize(&payload).ok()?;
    devices.insert(name.to_owned(), Device { status, payload });
    Some(name.to_owned())
}

/// Whose status this topic carries.
pub(crate) fn name(topic: &str) -> Option<&str> {
    let name = topic.strip_prefix("kinglet/")?.strip_suffix("/status")?;
    topic::is_name(name).then_some(name)
}
