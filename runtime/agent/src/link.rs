//! The one task that talks to the broker.
//!
//! One message of the outbox is on its way at a time and leaves the outbox on its own
//! acknowledgement. After a disconnect everything that was not acknowledged is still there and is
//! sent again, with a fresh client: nothing of the old connection is reused. Progress is not worth
//! a disk write and takes a bounded queue of its own, which is emptied first. A message that the broker
//! refuses, or that would be too large for it, holds up its own topic and no other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, LastWill, Packet, PubAck, PubAckReason, Publish, PublishProperties,
    SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::command::{Envelope, LARGEST_COMMAND};
use crate::config::BrokerAddress;
use crate::held::Held;
use crate::operation::Metrics;
use crate::outbox::{Class, Header, Message, Outbox, TopicKey};
use crate::security::Security;

/// Silence after which the broker is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long the broker keeps our subscriptions and commands while we are away.
const SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Requests that the client may hold; far more than are ever open.
const REQUESTS: usize = 64;
/// Publishes that may wait for their acknowledgements. The client keeps room for as many: left out, it is
/// 65,535 and 13 MB.
const INFLIGHT: u16 = 64;
/// What a publish has beside topic, correlation data and payload, at most.
const PACKET_OVERHEAD: usize = 64;
/// Retained messages that the client may hold at once.
const BIRTHS: usize = 16;
/// How often the status is published anew: its counters grow.
const STATUS: Duration = Duration::from_secs(60);
/// How long news waits for more news, so that a camera that comes and goes makes few statuses.
const STATUS_SOON: Duration = Duration::from_secs(2);
/// How long the outbox may take to empty when the agent stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// Whether the broker is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// Not yet, or not any more; why.
    Down(String),
    /// Yes.
    Up,
}

/// A message that came in.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// What came beside it.
    pub envelope: Envelope,
}

/// What the task needs.
pub(crate) struct Link {
    pub(crate) client_id: String,
    pub(crate) security: Security,
    pub(crate) status_topic: String,
    pub(crate) will: Vec<u8>,
    pub(crate) online: Box<dyn Fn() -> Vec<u8> + Send>,
    /// What else the broker is to keep; published on every connect.
    pub(crate) retained: Box<dyn Fn() -> Vec<Message> + Send>,
    /// Told when there is news for the status.
    pub(crate) status_changed: Arc<Notify>,
    pub(crate) subscriptions: Vec<String>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) progress: mpsc::Receiver<Message>,
    pub(crate) incoming: Box<dyn Fn(Incoming) + Send>,
    pub(crate) connection: watch::Sender<Connection>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Link {
    /// Runs until it is told to stop; then empties the outbox, says goodbye and ends.
    pub(crate) async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        let mut held = Held::default();
        loop {
            let (client, events) = AsyncClient::new(self.options(), REQUESTS);
            let mut session = Session::new(client, held);
            let began = Instant::now();
            let end = self.session(&mut session, events).await;
            // A broker that ends every connection soon is not asked ever again at once.
            if session.connected && began.elapsed() > retry {
                retry = FIRST_RETRY;
            }
            let End::Broken(e) = end else {
                return;
            };
            session.broken();
            held = session.held;
            let reason = self.explain(&e);
            let news =
                !matches!(&*self.connection.borrow(), Connection::Down(old) if *old == reason);
            if news {
                tracing::warn!("{reason}; trying again");
            }
            self.connection.send_replace(Connection::Down(reason));
            tokio::select! {
                () = tokio::time::sleep(retry) => {}
                _ = self.stop.wait_for(|stop| *stop) => return,
            }
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    fn options(&self) -> MqttOptions {
        let Security {
            address,
            tls,
            credentials,
        } = &self.security;
        let mut options = MqttOptions::new(&self.client_id, &address.host, address.port);
        if let Some(tls) = tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
                Arc::clone(tls),
            )));
        }
        if let Some((user, password)) = credentials {
            options.set_credentials(user, password);
        }
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_start(false);
        options.set_outgoing_inflight_upper_limit(INFLIGHT);
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(SESSION_EXPIRY.as_secs() as u32);
        // The broker then never sends more than we would take.
        properties.max_packet_size = Some(LARGEST_COMMAND as u32 + 4096);
        options.set_connect_properties(properties);
        options.set_last_will(LastWill::new(
            &self.status_topic,
            self.will.clone(),
            QoS::AtLeastOnce,
            true,
            None,
        ));
        options
    }

    fn explain(&self, e: &ConnectionError) -> String {
        let BrokerAddress { host, port, .. } = &self.security.address;
        match e {
            ConnectionError::ConnectionRefused(code) => {
                format!("the broker at {host}:{port} refuses this device: {code:?}")
            }
            ConnectionError::Timeout(_) => format!("the broker at {host}:{port} does not answer"),
            e => format!("no connection to the broker at {host}:{port}: {e}"),
        }
    }

    async fn session(&mut self, session: &mut Session, mut events: EventLoop) -> End {
        let mut farewell: Option<Instant> = None;
        let mut stop = self.stop.clone();
        let outbox = Arc::clone(&self.outbox);
        let status_changed = Arc::clone(&self.status_changed);
        loop {
            if session.connected {
                self.send(session);
                if farewell.is_some() && session.idle() {
                    return self.leave(session, events).await;
                }
            }
            let deadline = farewell.unwrap_or_else(|| Instant::now() + KEEP_ALIVE);
            let again = session.held.next(Instant::now().into_std());
            // Only what is done after the select touches `self`: the client's poll must not be
            // held up, and is safe to be taken up again.
            let woken = tokio::select! {
                event = events.poll() => Woken::Event(event),
                () = outbox.stored.notified(), if session.connected => Woken::Stored,
                () = status_changed.notified(), if session.connected => Woken::News,
                () = tokio::time::sleep_until(again.unwrap_or_else(|| deadline.into_std()).into()), if session.connected && again.is_some() => Woken::Stored,
                () = tokio::time::sleep_until(session.status_due), if session.connected => Woken::Status,
                Some(message) = self.progress.recv(), if session.connected => Woken::Progress(message),
                _ = stop.wait_for(|stop| *stop), if farewell.is_none() => Woken::Stop,
                () = tokio::time::sleep_until(deadline), if farewell.is_some() => Woken::Late,
            };
            match woken {
                Woken::Event(Ok(event)) => self.handle(session, event),
                Woken::Event(Err(e)) => return End::Broken(e),
                Woken::Stored => {}
                Woken::News => {
                    session.status_due = session.status_due.min(Instant::now() + STATUS_SOON)
                }
                Woken::Status => session.status(&self.status_topic, (self.online)()),
                Woken::Progress(message) => session.publish(message, None),
                Woken::Stop if !session.connected => return End::Left,
                Woken::Stop => farewell = Some(Instant::now() + FAREWELL),
                Woken::Late => return self.leave(session, events).await,
            }
        }
    }

    /// Gives the client what may be sent now.
    fn send(&mut self, session: &mut Session) {
        // A few at a time: the client's queue is bounded.
        while session.taken.len() < BIRTHS
            && let Some(message) = session.births.pop_front()
        {
            session.publish(message, None);
        }
        while let Ok(message) = self.progress.try_recv() {
            session.publish(message, None);
        }
        while session.underway.is_none() {
            let now = Instant::now().into_std();
            match self
                .outbox
                .first_of(|topic| !session.held.waits(topic, now))
            {
                Ok(Some((_, message))) if session.too_large(&message) => {
                    let reason = "it is larger than the broker takes";
                    session.refused(&message.header.topic, reason);
                    self.metrics.refused.inc();
                }
                Ok(Some((key, message))) => {
                    session.publish(message, Some(key));
                    return;
                }
                Ok(None) => return,
                Err(e) => {
                    tracing::error!("{e}");
                    return;
                }
            }
        }
    }

    /// The broker has answered a publish.
    fn acknowledged(&mut self, session: &mut Session, ack: &PubAck) {
        let Some(underway) = session.acknowledged(ack.pkid) else {
            return;
        };
        let taken = matches!(
            ack.reason,
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers
        );
        if taken {
            session.held.taken(TopicKey::of(&underway.topic));
            self.metrics.sent.inc();
        } else {
            self.metrics.refused.inc();
            if underway.class != Class::Reply {
                session.refused(&underway.topic, &format!("{:?}", ack.reason));
                return;
            }
            // Whoever asked has named a topic that this device may not write on.
            let topic = underway.topic;
            tracing::warn!(
                topic,
                "the broker refuses an answer, which is lost: {:?}",
                ack.reason
            );
        }
        if let Err(e) = self.outbox.remove(underway.key) {
            tracing::error!("{e}");
        }
    }

    fn handle(&mut self, session: &mut Session, event: Event) {
        match event {
            Event::Incoming(Packet::ConnAck(ack)) => {
                session.connected = true;
                session.largest = ack.properties.and_then(|p| p.max_packet_size);
                for topic in &self.subscriptions {
                    // The queue holds far more than these; a full one is an error below.
                    if let Err(e) = session.client.try_subscribe(topic, QoS::AtLeastOnce) {
                        tracing::error!("cannot subscribe to {topic}: {e}");
                    }
                }
                session.status(&self.status_topic, (self.online)());
                session.births = (self.retained)().into();
                self.connection.send_replace(Connection::Up);
                let BrokerAddress { host, port, tls } = &self.security.address;
                let how = if *tls { "encrypted" } else { "not encrypted" };
                tracing::info!("connected to {host}:{port}, {how}");
            }
            Event::Incoming(Packet::Publish(publish)) => (self.incoming)(incoming(publish)),
            Event::Incoming(Packet::PubAck(ack)) => self.acknowledged(session, &ack),
            Event::Incoming(Packet::SubAck(ack)) => {
                for code in ack.return_codes {
                    if !matches!(code, SubscribeReasonCode::Success(_)) {
                        tracing::warn!("the broker refuses commands to this device: {code:?}");
                    }
                }
            }
            Event::Outgoing(Outgoing::Publish(pkid)) => session.sent(pkid),
            _ => {}
        }
    }

    /// Says offline, and goodbye.
    async fn leave(&mut self, session: &mut Session, mut events: EventLoop) -> End {
        session.status(&self.status_topic, self.will.clone());
        let goodbye = async {
            let mut asked = false;
            loop {
                match events.poll().await {
                    Ok(Event::Outgoing(Outgoing::Publish(pkid))) => session.sent(pkid),
                    Ok(Event::Incoming(Packet::PubAck(ack))) => self.acknowledged(session, &ack),
                    Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_) => return,
                    Ok(_) => {}
                }
                if session.idle() && !asked {
                    asked = session.client.try_disconnect().is_ok();
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
        End::Left
    }
}

#[allow(clippy::large_enum_variant)] // It lives for one turn of a loop.
enum Woken {
    Event(Result<Event, ConnectionError>),
    Stored,
    News,
    Status,
    Progress(Message),
    Stop,
    Late,
}

enum End {
    Broken(ConnectionError),
    Left,
}

/// What is known about one connection.
struct Session {
    client: AsyncClient,
    connected: bool,
    /// The largest packet that the broker takes, in bytes, if it says so.
    largest: Option<u32>,
    /// Topics that the broker does not take messages on.
    held: Held,
    /// When the status is published next.
    status_due: Instant,
    /// Retained messages that are still to be published.
    births: VecDeque<Message>,
    /// The message of the outbox that is on its way.
    underway: Option<Underway>,
    /// Publishes that the client has taken and not sent yet, in order: the outbox's key, if any.
    taken: VecDeque<Option<u64>>,
    /// Publishes that have been sent and not acknowledged: packet id and the outbox's key.
    sent: Vec<(u16, Option<u64>)>,
}

/// A message of the outbox that has been handed over.
struct Underway {
    key: u64,
    topic: String,
    class: Class,
}

impl Session {
    fn new(client: AsyncClient, held: Held) -> Self {
        Session {
            client,
            connected: false,
            largest: None,
            held,
            status_due: Instant::now() + STATUS,
            births: VecDeque::new(),
            underway: None,
            taken: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    /// The broker does not take a message, which waits, and others of its topic behind it.
    fn refused(&mut self, topic: &str, reason: &str) {
        let now = Instant::now().into_std();
        let (pause, news) = self.held.refused(TopicKey::of(topic), now);
        if news {
            let seconds = pause.as_secs();
            tracing::error!(
                topic,
                "the broker refuses a message: {reason}; tried again in {seconds} s"
            );
        }
    }

    /// The connection has ended. A message that was on its way each time may be why.
    fn broken(&mut self) {
        if let Some(underway) = self.underway.take()
            && self.held.broken(underway.key)
        {
            self.refused(&underway.topic, "the connection ends whenever it is sent");
        }
    }

    fn too_large(&self, message: &Message) -> bool {
        let Header {
            topic, correlation, ..
        } = &message.header;
        let beside = topic.len() + correlation.as_ref().map_or(0, Vec::len) + PACKET_OVERHEAD;
        let size = message.payload.len() + beside;
        self.largest.is_some_and(|largest| size > largest as usize)
    }

    fn idle(&self) -> bool {
        self.taken.is_empty() && self.sent.is_empty()
    }

    fn publish(&mut self, message: Message, key: Option<u64>) {
        let Header {
            topic,
            retain,
            content_type,
            correlation,
            class,
        } = message.header;
        let properties = PublishProperties {
            content_type: Some(content_type),
            correlation_data: correlation.map(Into::into),
            ..PublishProperties::default()
        };
        let taken = self.client.try_publish_with_properties(
            topic.clone(),
            QoS::AtLeastOnce,
            retain,
            message.payload,
            properties,
        );
        // A full queue: a message of the outbox is tried again, progress is not missed.
        if taken.is_ok() {
            self.taken.push_back(key);
            self.underway = key
                .map(|key| Underway { key, topic, class })
                .or(self.underway.take());
        }
    }

    fn status(&mut self, topic: &str, payload: Vec<u8>) {
        let header = Header {
            topic: topic.to_owned(),
            class: Class::Event,
            retain: true,
            content_type: "application/json".to_owned(),
            correlation: None,
        };
        self.publish(Message { header, payload }, None);
        self.status_due = Instant::now() + STATUS;
    }

    fn sent(&mut self, pkid: u16) {
        if let Some(key) = self.taken.pop_front() {
            self.sent.push((pkid, key));
        }
    }

    /// The message of the outbox that this packet id was given to, if it is one.
    fn acknowledged(&mut self, pkid: u16) -> Option<Underway> {
        let at = self.sent.iter().position(|(id, _)| *id == pkid)?;
        let (_, key) = self.sent.swap_remove(at);
        key.and_then(|key| self.underway.take_if(|underway| underway.key == key))
    }
}

fn incoming(publish: Publish) -> Incoming {
    let properties = publish.properties.unwrap_or_default();
    Incoming {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload.to_vec(),
        envelope: Envelope {
            response_topic: properties.response_topic,
            correlation: properties.correlation_data.map(|c| c.to_vec()),
        },
    }
}
