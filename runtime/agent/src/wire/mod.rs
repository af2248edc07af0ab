//! A connection to a broker, in MQTT 5 or in MQTT 3.1.1, and in the same words for both.
//!
//! MQTT 3.1.1 knows no response topics, no correlation data, no expiry, no media types and no reasons: what
//! is sent loses them, what comes in has none.

mod five;
mod four;
mod negotiation;

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{TlsConfiguration, Transport};

use crate::security::Security;
pub use negotiation::{Negotiation, Version};

/// How a connection is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who this is to the broker.
    pub client_id: String,
    /// Silence after which the broker is asked whether it is still there.
    pub keep_alive: Duration,
    /// How long the broker keeps subscriptions and messages while we are away; none: not at all. MQTT 3.1.1
    /// brokers keep them as long as they like.
    pub session: Option<Duration>,
    /// The largest packet that is taken, in bytes.
    pub largest: u32,
    /// Publishes that may wait for their acknowledgements. The client keeps room for as many: left out, it
    /// would be 65,535 and 13 MB.
    pub inflight: u16,
    /// Requests that the client holds.
    pub requests: usize,
    /// Topic and payload of what the broker publishes, retained, when we are lost.
    pub will: Option<(String, Vec<u8>)>,
}

/// How often a message may arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It may be lost.
    AtMostOnce,
    /// It may come twice.
    AtLeastOnce,
}

/// What goes beside a payload where the version allows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// The payload's media type.
    pub content_type: Option<String>,
    /// Correlation data.
    pub correlation: Option<Vec<u8>>,
    /// Where an answer is to go.
    pub response_topic: Option<String>,
    /// Seconds after which the broker drops it.
    pub expiry: Option<u32>,
}

/// A message that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// What came beside it.
    pub beside: Beside,
}

/// What the broker says to a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has it.
    Taken,
    /// It has it, and nobody is subscribed.
    Nobody,
    /// It does not take it; why.
    Refused(String),
}

/// What happens on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The broker has accepted it. It takes packets of so many bytes, if it says so.
    Accepted(Option<u32>),
    /// A message.
    Message(Received),
    /// The answer to the publish with this packet id.
    Answered(u16, Verdict),
    /// The answer to a subscription: for each filter why it is refused, if it is.
    Subscribed(Vec<Option<String>>),
    /// A publish has been sent and was given this packet id.
    Sent(u16),
    /// Our goodbye has been sent.
    Goodbye,
    /// Something else.
    Other,
}

/// How a connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The broker does not want us; why.
    #[error("{0}")]
    Refused(String),
    /// The broker says that it does not know this version.
    #[error("it does not know this version of MQTT")]
    Version,
    /// It does not answer.
    #[error("it does not answer")]
    Silent,
    /// What was said is no MQTT of this version, or the connection was ended.
    #[error("{0}")]
    Ended(String),
    /// There is no connection at all.
    #[error("{0}")]
    None(String),
}

/// The connection could not take one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much is waiting to be sent")]
pub struct Full;

/// The side of a connection that is told what to do. Nothing here waits.
#[derive(Debug, Clone)]
pub struct Client(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Five(five::Client),
    Four(four::Client),
}

/// The side of a connection that does it.
pub struct Events(Turn);

#[allow(clippy::large_enum_variant)] // There is one a connection.
enum Turn {
    Five(five::Events),
    Four(four::Events),
}

/// Makes a connection. It is opened by the first [`Events::next`].
#[must_use]
pub fn connect(version: Version, security: &Security, options: &Options) -> (Client, Events) {
    match version {
        Version::Five => {
            let (client, events) = five::connect(security, options);
            (Client(Inner::Five(client)), Events(Turn::Five(events)))
        }
        Version::Four => {
            let (client, events) = four::connect(security, options);
            (Client(Inner::Four(client)), Events(Turn::Four(events)))
        }
    }
}

impl Client {
    /// Publishes, at least once.
    ///
    /// # Errors
    /// [`Full`].
    pub fn publish(
        &self,
        topic: &str,
        retain: bool,
        payload: Vec<u8>,
        beside: Beside,
    ) -> Result<(), Full> {
        match &self.0 {
            Inner::Five(client) => five::publish(client, topic, retain, payload, beside),
            Inner::Four(client) => four::publish(client, topic, retain, payload),
        }
    }

    /// Subscribes.
    ///
    /// # Errors
    /// [`Full`].
    pub fn subscribe(&self, filters: &[String], delivery: Delivery) -> Result<(), Full> {
        match &self.0 {
            Inner::Five(client) => five::subscribe(client, filters, delivery),
            Inner::Four(client) => four::subscribe(client, filters, delivery),
        }
    }

    /// Asks for the messages of these topics no more.
    ///
    /// # Errors
    /// [`Full`].
    pub fn unsubscribe(&self, filters: &[String]) -> Result<(), Full> {
        for filter in filters {
            let done = match &self.0 {
                Inner::Five(client) => client.try_unsubscribe(filter).map_err(|_| Full),
                Inner::Four(client) => client.try_unsubscribe(filter).map_err(|_| Full),
            };
            done?;
        }
        Ok(())
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// [`Full`].
    pub fn leave(&self) -> Result<(), Full> {
        match &self.0 {
            Inner::Five(client) => client.try_disconnect().map_err(|_| Full),
            Inner::Four(client) => client.try_disconnect().map_err(|_| Full),
        }
    }
}

impl Events {
    /// What happens next. May be given up and called again: nothing is lost.
    ///
    /// # Errors
    /// [`Broken`]: the connection has ended.
    pub async fn next(&mut self) -> Result<Heard, Broken> {
        match &mut self.0 {
            Turn::Five(events) => five::next(events).await,
            Turn::Four(events) => four::next(events).await,
        }
    }
}

/// How packets are encrypted, if they are.
fn encrypted(security: &Security) -> Option<Transport> {
    let tls = Arc::clone(security.tls.as_ref()?);
    Some(Transport::tls_with_config(TlsConfiguration::Rustls(tls)))
}

/// Whether a connection was never there, or was ended.
fn io(e: &std::io::Error) -> Broken {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, UnexpectedEof,
    };
    match e.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | UnexpectedEof => {
            Broken::Ended(e.to_string())
        }
        _ => Broken::None(e.to_string()),
    }
}
