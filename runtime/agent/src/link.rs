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

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::command::{Envelope, LARGEST_COMMAND};
use crate::config::BrokerAddress;
use crate::groups::Groups;
use crate::held::Held;
use crate::operation::Metrics;
use crate::outbox::{Class, Header, Message, Outbox, TopicKey};
use crate::security::Security;
use crate::topic::{self, Topics};
use crate::wire::{
    self, Beside, Broken, Client, Delivery, Events, Heard, Negotiation, Options, Received, Verdict,
    Version,
};

/// Silence after which the broker is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long the broker keeps our subscriptions and commands while we are away.
const SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Requests that the client may hold; far more than are ever open.
const REQUESTS: usize = 64;
/// Publishes that may wait for their acknowledgements.
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
    /// The only version of MQTT that is spoken; none: the best that the broker knows.
    pub(crate) protocol: Option<Version>,
    pub(crate) status_topic: String,
    pub(crate) will: Vec<u8>,
    pub(crate) online: Box<dyn Fn() -> Vec<u8> + Send>,
    /// What else the broker is to keep; published on every connect.
    pub(crate) retained: Box<dyn Fn() -> Vec<Message> + Send>,
    /// Told when there is news for the status.
    pub(crate) status_changed: Arc<Notify>,
    pub(crate) topics: Topics,
    pub(crate) groups: Arc<Groups>,
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
        let mut negotiation = Negotiation::new(self.protocol);
        loop {
            let version = negotiation.version();
            let (client, events) = wire::connect(version, &self.security, &self.options());
            let mut session = Session::new(client, version, held);
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
            if session.connected {
                negotiation.accepted();
            }
            if negotiation.broken(session.connected, &e) {
                let next = negotiation.version().name();
                tracing::info!("{}; trying MQTT {next}", self.explain(&e));
                continue;
            }
            let reason = self.explain(&e);
            self.security.turn();
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

    fn options(&self) -> Options {
        Options {
            client_id: self.client_id.clone(),
            keep_alive: KEEP_ALIVE,
            session: Some(SESSION_EXPIRY),
            largest: LARGEST_COMMAND as u32 + 4096,
            inflight: INFLIGHT,
            requests: REQUESTS,
            will: Some((self.status_topic.clone(), self.will.clone())),
        }
    }

    fn explain(&self, e: &Broken) -> String {
        let BrokerAddress { host, port, .. } = &self.security.address;
        match e {
            Broken::Refused(code) => {
                format!("the broker at {host}:{port} refuses this device: {code}")
            }
            Broken::Silent => format!("the broker at {host}:{port} does not answer"),
            e => format!("no connection to the broker at {host}:{port}: {e}"),
        }
    }

    async fn session(&mut self, session: &mut Session, mut events: Events) -> End {
        let mut farewell: Option<Instant> = None;
        let mut stop = self.stop.clone();
        let outbox = Arc::clone(&self.outbox);
        let status_changed = Arc::clone(&self.status_changed);
        let groups = Arc::clone(&self.groups);
        loop {
            if session.connected {
                // Before the answer to whoever has changed them: what follows may rely on it.
                if session.follow(&self.groups.now()) {
                    session.status(&self.status_topic, (self.online)());
                }
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
                event = events.next() => Woken::Event(event),
                () = outbox.stored.notified(), if session.connected => Woken::Stored,
                () = status_changed.notified(), if session.connected => Woken::News,
                () = groups.changed.notified(), if session.connected => Woken::Groups,
                () = tokio::time::sleep_until(again.unwrap_or_else(|| deadline.into_std()).into()), if session.connected && again.is_some() => Woken::Stored,
                () = tokio::time::sleep_until(session.status_due), if session.connected => Woken::Status,
                Some(message) = self.progress.recv(), if session.connected => Woken::Progress(message),
                _ = stop.wait_for(|stop| *stop), if farewell.is_none() => Woken::Stop,
                () = tokio::time::sleep_until(deadline), if farewell.is_some() => Woken::Late,
            };
            match woken {
                Woken::Event(Ok(event)) => self.handle(session, event),
                Woken::Event(Err(e)) => return End::Broken(e),
                Woken::Stored | Woken::Groups => {}
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
    fn answered(&mut self, session: &mut Session, pkid: u16, verdict: &Verdict) {
        let Some(underway) = session.acknowledged(pkid) else {
            return;
        };
        if let Verdict::Refused(reason) = verdict {
            self.metrics.refused.inc();
            if underway.class != Class::Reply {
                session.refused(&underway.topic, reason);
                return;
            }
            // Whoever asked has named a topic that this device may not write on.
            let topic = underway.topic;
            tracing::warn!(
                topic,
                "the broker refuses an answer, which is lost: {reason}"
            );
        } else {
            session.held.taken(TopicKey::of(&underway.topic));
            self.metrics.sent.inc();
        }
        if let Err(e) = self.outbox.remove(underway.key) {
            tracing::error!("{e}");
        }
    }

    fn handle(&mut self, session: &mut Session, event: Heard) {
        match event {
            Heard::Accepted(largest) => {
                session.connected = true;
                session.largest = largest;
                let groups = self.groups.now();
                session.subscribe(self.topics.subscriptions(&groups));
                session.groups = groups;
                session.status(&self.status_topic, (self.online)());
                session.births = (self.retained)().into();
                self.connection.send_replace(Connection::Up);
                let BrokerAddress { host, port, tls } = &self.security.address;
                let how = if *tls { "encrypted" } else { "not encrypted" };
                let version = session.version.name();
                tracing::info!("connected to {host}:{port}, MQTT {version}, {how}");
            }
            Heard::Message(received) => self.take(session, received),
            Heard::Answered(pkid, verdict) => self.answered(session, pkid, &verdict),
            Heard::Subscribed(refusals) => self.subscribed(session, &refusals),
            Heard::Sent(pkid) => session.sent(pkid),
            Heard::Goodbye | Heard::Other => {}
        }
    }

    /// A message of a group that the device has left may still come: the broker may know of an older
    /// subscription, of before a restart.
    fn take(&self, session: &mut Session, received: Received) {
        match topic::group_of(&received.topic) {
            Some(group) if !self.groups.has(group) => {
                tracing::info!(group, "a command to a group that this device is not in");
                session.unsubscribe(&[topic::group_commands(group)]);
            }
            _ => (self.incoming)(incoming(received)),
        }
    }

    /// The broker has answered the oldest question for topics.
    fn subscribed(&self, session: &mut Session, refusals: &[Option<String>]) {
        let asked = session.asked.pop_front().unwrap_or_default();
        for (filter, refusal) in asked.iter().zip(refusals) {
            if let Some(reason) = refusal {
                tracing::warn!(
                    filter,
                    "the broker refuses commands to this device: {reason}"
                );
            }
        }
        let answers = asked.iter().zip(refusals).filter_map(|(filter, refusal)| {
            let group = topic::group_of(filter)?;
            Some((group.to_owned(), refusal.is_some()))
        });
        let before = self.groups.refused();
        self.groups.answered(&answers.collect::<Vec<_>>());
        if self.groups.refused() != before {
            self.status_changed.notify_one();
        }
    }

    /// Says offline, and goodbye.
    async fn leave(&mut self, session: &mut Session, mut events: Events) -> End {
        session.status(&self.status_topic, self.will.clone());
        let goodbye = async {
            let mut asked = false;
            loop {
                match events.next().await {
                    Ok(Heard::Sent(pkid)) => session.sent(pkid),
                    Ok(Heard::Answered(pkid, verdict)) => self.answered(session, pkid, &verdict),
                    Ok(Heard::Goodbye) | Err(_) => return,
                    Ok(_) => {}
                }
                if session.idle() && !asked {
                    asked = session.client.leave().is_ok();
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
        End::Left
    }
}

#[allow(clippy::large_enum_variant)] // It lives for one turn of a loop.
enum Woken {
    Event(Result<Heard, Broken>),
    Stored,
    News,
    Groups,
    Status,
    Progress(Message),
    Stop,
    Late,
}

enum End {
    Broken(Broken),
    Left,
}

/// What is known about one connection.
struct Session {
    client: Client,
    version: Version,
    connected: bool,
    /// The largest packet that the broker takes, in bytes, if it says so.
    largest: Option<u32>,
    /// Topics that the broker does not take messages on.
    held: Held,
    /// When the status is published next.
    status_due: Instant,
    /// Retained messages that are still to be published.
    births: VecDeque<Message>,
    /// Questions for topics that the broker has not answered yet.
    asked: VecDeque<Vec<String>>,
    /// The groups that it was asked for.
    groups: Vec<String>,
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
    fn new(client: Client, version: Version, held: Held) -> Self {
        Session {
            client,
            version,
            connected: false,
            largest: None,
            held,
            status_due: Instant::now() + STATUS,
            births: VecDeque::new(),
            asked: VecDeque::new(),
            groups: Vec::new(),
            underway: None,
            taken: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    /// Asks for the messages of these topics.
    fn subscribe(&mut self, filters: Vec<String>) {
        if filters.is_empty() {
            return;
        }
        match self.client.subscribe(&filters, Delivery::AtLeastOnce) {
            Ok(()) => self.asked.push_back(filters),
            // The queue holds far more than what may ever wait.
            Err(e) => tracing::error!("cannot subscribe: {e}"),
        }
    }

    fn unsubscribe(&mut self, filters: &[String]) {
        if let Err(e) = self.client.unsubscribe(filters) {
            tracing::error!("cannot unsubscribe: {e}");
        }
    }

    /// The device is in these groups now. Returns whether that is news.
    fn follow(&mut self, groups: &[String]) -> bool {
        if self.groups == groups {
            return false;
        }
        let behind = |these: &[String], those: &[String]| -> Vec<String> {
            let new = these.iter().filter(|group| !those.contains(group));
            new.map(|group| topic::group_commands(group)).collect()
        };
        self.subscribe(behind(groups, &self.groups));
        let left = behind(&self.groups, groups);
        self.unsubscribe(&left);
        self.groups = groups.to_vec();
        true
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
        let beside = Beside {
            content_type: Some(content_type),
            correlation,
            ..Beside::default()
        };
        let taken = self.client.publish(&topic, retain, message.payload, beside);
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

fn incoming(received: Received) -> Incoming {
    Incoming {
        topic: received.topic,
        payload: received.payload,
        envelope: Envelope {
            response_topic: received.beside.response_topic,
            correlation: received.beside.correlation,
        },
    }
}
