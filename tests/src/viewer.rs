//! An MQTT client that waits for messages.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{Client, Event, MqttOptions};
use serde_json::Value;

use crate::root;

/// How long a message may take. Far more than it needs: machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client that is subscribed to everything of Kinglet.
pub struct Viewer {
    client: Client,
    messages: Receiver<Publish>,
}

impl Viewer {
    /// Connects and subscribes; returns once the broker has confirmed that.
    pub fn connect(port: u16, id: &str) -> Self {
        Self::with(MqttOptions::new(id, "127.0.0.1", port))
    }

    /// Connects as this user.
    pub fn with_password(port: u16, id: &str, user: &str, password: &str) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_credentials(user, password);
        Self::with(options)
    }

    fn with(mut options: MqttOptions) -> Self {
        options.set_max_packet_size(Some(16 << 20));
        let (client, mut connection) = Client::new(options, 16);
        let (sender, messages) = channel();
        let (subscribed, confirmed) = channel();
        client.subscribe("kinglet/#", QoS::AtLeastOnce).unwrap();
        client
            .subscribe("homeassistant/#", QoS::AtLeastOnce)
            .unwrap();
        client.subscribe("answers/#", QoS::AtLeastOnce).unwrap();
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        if sender.send(publish).is_err() {
                            return;
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        let _ = subscribed.send(());
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        confirmed
            .recv_timeout(PATIENCE)
            .expect("the broker confirms");
        Viewer { client, messages }
    }

    /// Whether no message that is `wanted` comes for so long. All others that come are gone.
    pub fn nothing_for(&self, time: Duration, wanted: impl Fn(&Publish) -> bool) -> bool {
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.messages.recv_timeout(left) {
                Ok(publish) if wanted(&publish) => return false,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        true
    }

    /// The next message that `wanted` accepts; those before it are gone.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Publish) -> bool) -> Publish {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.messages.recv_timeout(left) {
                Ok(publish) if wanted(&publish) => return publish,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        panic!("no {what} came");
    }

    /// The next message on `topic`, as JSON that the payload's schema accepts.
    pub fn json(&self, topic: &str) -> Value {
        let publish = self.wait(topic, |p| p.topic == topic);
        let value = serde_json::from_slice(&publish.payload).expect("the payload is JSON");
        conforms(topic, &value);
        value
    }

    /// Publishes a command.
    pub fn send(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        let payload: Vec<u8> = payload.into();
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .unwrap();
    }

    /// Publishes something that the broker keeps.
    pub fn keep(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        let payload: Vec<u8> = payload.into();
        self.client
            .publish(topic, QoS::AtLeastOnce, true, payload)
            .unwrap();
    }

    /// Publishes a command that is to be answered on `response`, with correlation data.
    pub fn ask(&self, topic: &str, payload: &str, response: &str, correlation: &[u8]) {
        let properties = PublishProperties {
            response_topic: Some(response.to_owned()),
            correlation_data: Some(correlation.to_vec().into()),
            ..PublishProperties::default()
        };
        self.client
            .publish_with_properties(
                topic,
                QoS::AtLeastOnce,
                false,
                payload.to_owned(),
                properties,
            )
            .unwrap();
    }
}

/// Checks a payload against the schema that docs/schemas has for its topic.
pub fn conforms(topic: &str, payload: &Value) {
    let levels: Vec<&str> = topic.split('/').collect();
    let name = match levels[..] {
        [_, _, "shadow", which] => format!("shadow-{which}"),
        [_, _, "job", _] => "job-progress".to_owned(),
        [_, _, name, ..] => name.to_owned(),
        _ => return,
    };
    let file = root().join(format!("docs/schemas/{name}.json"));
    let Ok(text) = std::fs::read(&file) else {
        // Answers on topics of the test's own.
        assert!(
            topic.starts_with("answers/"),
            "there is no schema of {topic}"
        );
        return;
    };
    let schema: Value = serde_json::from_slice(&text).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("it is a schema");
    if let Err(e) = validator.validate(payload) {
        panic!("{topic}: {e}: {payload}");
    }
}
