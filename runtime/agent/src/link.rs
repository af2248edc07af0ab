//! The one task that talks to the broker.
//!
//! One message of the outbox is on its way at a time and leaves the outbox on its own
//! acknowledgement. After a disconnect everything that was not acknowledged is still there and is
//! sent again, with a fresh client: nothing of the old connection is reused. Progress is not worth
//! a disk write and takes a bounded queue of its own, which is emptied first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, LastWill, Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::command::{Envelope, LARGEST_COMMAND};
use crate::config::BrokerAddress;
use crate::outbox::{Header, Message, Outbox};
use crate::security::Security;

/// Silence after which the broker is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long the broker keeps our subscriptions and commands while we are away.
const SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Requests that the client may hold; far more than are ever open.
const REQUESTS: usize = 64;
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
    /// Told when there is news for the status.
    pub(crate) status_changed: Arc<Notify>,
    pub(crate) subscriptions: Vec<String>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) progress: mpsc::Receiver<Message>,
    pub(crate) incoming: Box<dyn Fn(Incoming) + Send>,
    pub(crate) connection: watch::Sender<Connection>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Link {
    /// Runs until it is told to stop; then empties the outbox, says goodbye and ends.
    pub(crate) async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        loop {
            let (client, events) = AsyncClient::new(self.options(), REQUESTS);
            let mut session = Session::new(client);
            let end = self.session(&mut session, events).await;
            if session.connected {
                retry = FIRST_RETRY;
            }
            let End::Broken(e) = end else {
                return;
            };
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
                if farewell.is_some() && session.idle() && self.outbox.is_empty() {
                    return self.leave(session, events).await;
                }
            }
            let deadline = farewell.unwrap_or_else(|| Instant::now() + KEEP_ALIVE);
            // Only what is done after the select touches `self`: the client's poll must not be
            // held up, and is safe to be taken up again.
            let woken = tokio::select! {
                event = events.poll() => Woken::Event(event),
                () = outbox.stored.notified(), if session.connected => Woken::Stored,
                () = status_changed.notified(), if session.connected => Woken::News,
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
        while let Ok(message) = self.progress.try_recv() {
            session.publish(message, None);
        }
        if session.underway.is_some() {
            return;
        }
        match self.outbox.first() {
            Ok(Some((key, message))) => session.publish(message, Some(key)),
            Ok(None) => {}
            Err(e) => tracing::error!("{e}"),
        }
    }

    fn handle(&mut self, session: &mut Session, event: Event) {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                session.connected = true;
                for topic in &self.subscriptions {
                    // The queue holds far more than these; a full one is an error below.
                    if let Err(e) = session.client.try_subscribe(topic, QoS::AtLeastOnce) {
                        tracing::error!("cannot subscribe to {topic}: {e}");
                    }
                }
                session.status(&self.status_topic, (self.online)());
                self.connection.send_replace(Connection::Up);
                let BrokerAddress { host, port, tls } = &self.security.address;
                let how = if *tls { "encrypted" } else { "not encrypted" };
                tracing::info!("connected to {host}:{port}, {how}");
            }
            Event::Incoming(Packet::Publish(publish)) => (self.incoming)(incoming(publish)),
            Event::Incoming(Packet::PubAck(ack)) => {
                if let Some(key) = session.acknowledged(ack.pkid)
                    && let Err(e) = self.outbox.remove(key)
                {
                    tracing::error!("{e}");
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
                    Ok(Event::Incoming(Packet::PubAck(ack))) => {
                        if let Some(key) = session.acknowledged(ack.pkid) {
                            let _ = self.outbox.remove(key);
                        }
                    }
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
    /// When the status is published next.
    status_due: Instant,
    /// The message of the outbox that is on its way.
    underway: Option<u64>,
    /// Publishes that the client has taken and not sent yet, in order: the outbox's key, if any.
    taken: VecDeque<Option<u64>>,
    /// Publishes that have been sent and not acknowledged: packet id and the outbox's key.
    sent: Vec<(u16, Option<u64>)>,
}

impl Session {
    fn new(client: AsyncClient) -> Self {
        Session {
            client,
            connected: false,
            status_due: Instant::now() + STATUS,
            underway: None,
            taken: VecDeque::new(),
            sent: Vec::new(),
        }
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
            ..
        } = message.header;
        let properties = PublishProperties {
            content_type: Some(content_type),
            correlation_data: correlation.map(Into::into),
            ..PublishProperties::default()
        };
        let taken = self.client.try_publish_with_properties(
            topic,
            QoS::AtLeastOnce,
            retain,
            message.payload,
            properties,
        );
        // A full queue: a message of the outbox is tried again, progress is not missed.
        if taken.is_ok() {
            self.taken.push_back(key);
            if key.is_some() {
                self.underway = key;
            }
        }
    }

    fn status(&mut self, topic: &str, payload: Vec<u8>) {
        let header = Header {
            topic: topic.to_owned(),
            class: crate::outbox::Class::Event,
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

    /// The outbox's key of the publish with this packet id, if it has one.
    fn acknowledged(&mut self, pkid: u16) -> Option<u64> {
        let at = self.sent.iter().position(|(id, _)| *id == pkid)?;
        let (_, key) = self.sent.swap_remove(at);
        if key.is_some() {
            self.underway = None;
        }
        key
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
