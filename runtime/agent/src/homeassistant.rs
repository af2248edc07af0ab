//! Home Assistant's MQTT discovery: retained configurations from which it makes a device with its entities.
//! Their keys are those of <https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery>.

use serde_json::{Value, json};

use crate::config::{Config, Publish, WatchConfig};
use crate::outbox::{Class, Header, Message};
use crate::topic::Topics;

/// The longest state that Home Assistant keeps, in characters.
const LONGEST_STATE: usize = 255;

/// What is published on every connect: for the device whether it is there, for every watch its last answer, its
/// newest picture and a button that lets it look now. `model` is the model's name.
pub(crate) fn discovery(
    prefix: &str,
    config: &Config,
    topics: &Topics,
    model: &str,
) -> Vec<Message> {
    let device = Device {
        prefix,
        name: &config.device.name,
        topics,
        model,
    };
    let mut messages = vec![device.connection()];
    for watch in &config.watch {
        messages.push(device.answer(watch));
        // Home Assistant cannot sign.
        if config.commands.keys.is_none() {
            messages.push(device.button(watch));
        }
        if watch.publish.contains(&Publish::Picture) {
            messages.push(device.picture(watch));
        }
    }
    messages
}

struct Device<'a> {
    prefix: &'a str,
    name: &'a str,
    topics: &'a Topics,
    model: &'a str,
}

impl Device<'_> {
    fn connection(&self) -> Message {
        let entity = json!({
            "name": "Connection",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": self.topics.status(),
            "value_template": "{{ value_json.state }}",
            "payload_on": "online",
            "payload_off": "offline",
        });
        self.message("binary_sensor", "connection", entity)
    }

    fn answer(&self, watch: &WatchConfig) -> Message {
        // All watches share a topic: an event of another one leaves the state as it is.
        let template = format!(
            "{{{{ (value_json.answer | string)[:{LONGEST_STATE}] if value_json.watch == '{}' else this.state }}}}",
            watch.name
        );
        let entity = json!({
            "name": watch.name,
            "icon": "mdi:eye",
            "state_topic": self.topics.event(),
            "value_template": template,
        });
        self.message("sensor", &watch.name, self.available(entity))
    }

    fn button(&self, watch: &WatchConfig) -> Message {
        let entity = json!({
            "name": format!("{}: look now", watch.name),
            "icon": "mdi:eye-refresh",
            "command_topic": self.topics.command("see"),
            "payload_press": json!({ "args": { "watch": watch.name } }).to_string(),
        });
        self.message("button", &watch.name, self.available(entity))
    }

    fn picture(&self, watch: &WatchConfig) -> Message {
        let entity = json!({
            "name": watch.name,
            "image_topic": self.topics.latest(&watch.name),
            "content_type": "image/jpeg",
        });
        self.message("image", &watch.name, self.available(entity))
    }

    /// An entity that is there when the device is.
    fn available(&self, mut entity: Value) -> Value {
        entity["availability_topic"] = self.topics.status().into();
        entity["availability_template"] = "{{ value_json.state }}".into();
        entity
    }

    fn message(&self, component: &str, object: &str, mut entity: Value) -> Message {
        let Device { prefix, name, .. } = self;
        entity["unique_id"] = format!("kinglet_{name}_{component}_{object}").into();
        entity["qos"] = 1.into();
        entity["device"] = json!({
            "identifiers": [format!("kinglet_{name}")],
            "name": name,
            "manufacturer": "Kinglet",
            "model": self.model,
            "sw_version": env!("CARGO_PKG_VERSION"),
        });
        entity["origin"] = json!({ "name": "kinglet", "sw_version": env!("CARGO_PKG_VERSION") });
        if component == "image" {
            // Images have no quality of service of their own.
            if let Some(entity) = entity.as_object_mut() {
                entity.remove("qos");
            }
        }
        Message {
            header: Header {
                topic: format!("{prefix}/{component}/kinglet-{name}/{object}/config"),
                class: Class::Event,
                retain: true,
                content_type: "application/json".to_owned(),
                correlation: None,
            },
            payload: crate::message::json(&entity),
        }
    }
}
