//! A connection to the broker for as long as a command runs.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kinglet_agent::config::BrokerConfig;
use kinglet_agent::security::Security;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, Packet, PubAckReason, Publish, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::time::{Instant, timeout_at};

use crate::failure::{Failure, Outcome};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Silence after which the broker is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// The largest message that is taken: a large picture.
const LARGEST_MESSAGE: u32 = 64 << 20;
/// Requests that the client may hold; one at a time is open.
const REQUESTS: usize = 16;

/// A connection.
pub(crate) struct Broker {
    config: BrokerConfig,
    /// Host and port, for messages.
    name: String,
    /// Whether it has accepted the connection.
    accepted: bool,
    /// Random, of this connection alone.
    id: String,
    client: AsyncClient,
    events: EventLoop,
    /// Messages that came while something else was waited for.
    unread: VecDeque<Publish>,
}

impl Broker {
    /// Connects.
    pub(crate) async fn connect(config: &BrokerConfig) -> Outcome<Self> {
        let id = random()?;
        let security = Security::load(config, Path::new("")).map_err(in_words)?;
        let address = &security.address;
        let mut options =
            MqttOptions::new(format!("kinglet-fleet-{id}"), &address.host, address.port);
        if let Some(tls) = &security.tls {
            let tls = TlsConfiguration::Rustls(Arc::clone(tls));
            options.set_transport(Transport::tls_with_config(tls));
        }
        if let Some((user, password)) = &security.credentials {
            options.set_credentials(user, password);
        }
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_start(true);
        options.set_outgoing_inflight_upper_limit(REQUESTS as u16);
        options.set_max_packet_size(Some(LARGEST_MESSAGE));
        let (client, events) = AsyncClient::new(options, REQUESTS);
        let mut broker = Broker {
            name: format!("{}:{}", address.host, address.port),
            config: config.clone(),
            accepted: false,
            id,
            client,
            events,
            unread: VecDeque::new(),
        };
        let connected = |packet: &Packet| matches!(packet, Packet::ConnAck(_));
        broker.wait(connected).await?;
        broker.accepted = true;
        Ok(broker)
    }

    /// The same anew, after the connection has broken.
    pub(crate) async fn again(&self) -> Outcome<Self> {
        Self::connect(&self.config).await
    }

    /// The topic for answers to this connection.
    pub(crate) fn reply_topic(&self) -> String {
        format!("kinglet/fleet/reply/{}", self.id)
    }

    /// Subscribes. Returns once the broker has confirmed it.
    pub(crate) async fn subscribe(&mut self, filters: &[String], qos: QoS) -> Outcome {
        let wanted = filters.iter().map(|f| Filter::new(f, qos));
        self.client.try_subscribe_many(wanted)?;
        let packet = self.wait(|p| matches!(p, Packet::SubAck(_))).await?;
        let Packet::SubAck(ack) = packet else {
            return Ok(());
        };
        for (filter, code) in filters.iter().zip(ack.return_codes) {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                return Err(Failure::new(format_args!(
                    "the broker does not let this user read {filter}: {code:?}"
                )));
            }
        }
        Ok(())
    }

    /// Publishes something that the broker keeps.
    pub(crate) async fn retain(&mut self, topic: &str, payload: Vec<u8>) -> Outcome {
        let properties = PublishProperties::default();
        self.send(topic, true, payload, properties)
            .await
            .map(|_| ())
    }

    /// Publishes. Returns once the broker has confirmed it: whether anybody is subscribed, as far as the
    /// broker says.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: Vec<u8>,
        properties: PublishProperties,
    ) -> Outcome<bool> {
        self.send(topic, false, payload, properties).await
    }

    async fn send(
        &mut self,
        topic: &str,
        retain: bool,
        payload: Vec<u8>,
        properties: PublishProperties,
    ) -> Outcome<bool> {
        self.client.try_publish_with_properties(
            topic,
            QoS::AtLeastOnce,
            retain,
            payload,
            properties,
        )?;
        let packet = self.wait(|p| matches!(p, Packet::PubAck(_))).await?;
        let reason = match packet {
            Packet::PubAck(ack) => ack.reason,
            _ => PubAckReason::Success,
        };
        match reason {
            PubAckReason::Success => Ok(true),
            PubAckReason::NoMatchingSubscribers => Ok(false),
            reason => Err(Failure::new(format_args!(
                "the broker does not let this user write on {topic}: {reason:?}"
            ))),
        }
    }

    /// The next message; none if there is none before the deadline.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Outcome<Option<Publish>> {
        if let Some(publish) = self.unread.pop_front() {
            return Ok(Some(publish));
        }
        loop {
            match timeout_at(deadline, self.events.poll()).await {
                Err(_) => return Ok(None),
                Ok(Err(e)) => return Err(self.lost(&e)),
                Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => return Ok(Some(publish)),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Says goodbye.
    pub(crate) async fn leave(&mut self) {
        if self.client.try_disconnect().is_err() {
            return;
        }
        let deadline = Instant::now() + GOODBYE;
        while let Ok(Ok(event)) = timeout_at(deadline, self.events.poll()).await {
            if matches!(event, Event::Outgoing(Outgoing::Disconnect)) {
                return;
            }
        }
    }

    /// Waits for the broker's answer to what was asked.
    async fn wait(&mut self, wanted: impl Fn(&Packet) -> bool) -> Outcome<Packet> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match timeout_at(deadline, self.events.poll()).await {
                Err(_) => {
                    let name = &self.name;
                    return Err(Failure::new(format_args!(
                        "the broker at {name} does not answer"
                    )));
                }
                Ok(Err(e)) => return Err(self.lost(&e)),
                Ok(Ok(Event::Incoming(packet))) if wanted(&packet) => return Ok(packet),
                Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => self.unread.push_back(publish),
                Ok(Ok(_)) => {}
            }
        }
    }

    fn lost(&self, e: &ConnectionError) -> Failure {
        let name = &self.name;
        match e {
            ConnectionError::ConnectionRefused(code) => Failure::new(format_args!(
                "the broker at {name} refuses this user: {code:?}"
            )),
            // What a broker that knows no MQTT 5 does.
            ConnectionError::MqttState(e) if !self.accepted => Failure::new(format_args!(
                "no connection to the broker at {name}: {e}; it must know MQTT 5 (docs/brokers.md)"
            )),
            e => Failure::new(format_args!("no connection to the broker at {name}: {e}")),
        }
    }
}

/// 16 hexadecimal digits that nobody can guess.
pub(crate) fn random() -> Outcome<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| Failure::new(format_args!("the system has no random numbers: {e}")))?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

/// The agent's words for a key of its file are those for an option here.
pub(crate) fn in_words(e: impl fmt::Display) -> Failure {
    let text = e.to_string();
    let options = [
        ("[broker] allow_insecure = true", "--allow-insecure"),
        ("broker.url = ", "--broker "),
        ("broker.url", "--broker"),
        ("broker.ca", "--ca"),
        ("broker.certificate", "--certificate"),
        ("broker.key", "--key"),
        ("broker.password_file", "--password-file"),
        ("broker.user", "--user"),
    ];
    let replaced = |text: String, (key, option): (&str, &str)| text.replace(key, option);
    Failure::new(options.into_iter().fold(text, replaced))
}
