//! A connection to the broker for as long as a command runs.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use kinglet_agent::config::BrokerConfig;
use kinglet_agent::security::Security;
use kinglet_agent::wire::{
    self, Beside, Broken, Client, Delivery, Events, Heard, Negotiation, Options, Received, Verdict,
};
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
/// Connections that are tried with a broker that hangs up.
const ATTEMPTS: u32 = 3;

/// A connection.
pub(crate) struct Broker {
    config: BrokerConfig,
    /// Host and port, for messages.
    name: String,
    /// Random, of this connection alone.
    id: String,
    client: Client,
    events: Events,
    /// Messages that came while something else was waited for.
    unread: VecDeque<Received>,
}

impl Broker {
    /// Connects.
    pub(crate) async fn connect(config: &BrokerConfig) -> Outcome<Self> {
        let id = random()?;
        let security = Security::load(config, Path::new("")).map_err(in_words)?;
        let address = &security.address;
        let options = Options {
            client_id: format!("kinglet-fleet-{id}"),
            keep_alive: KEEP_ALIVE,
            session: None,
            largest: LARGEST_MESSAGE,
            inflight: REQUESTS as u16,
            requests: REQUESTS,
            will: None,
        };
        let mut negotiation = Negotiation::new(config.protocol);
        let mut attempts = 0;
        loop {
            let (client, events) = wire::connect(negotiation.version(), &security, &options);
            let mut broker = Broker {
                name: format!("{}:{}", address.host, address.port),
                config: config.clone(),
                id: id.clone(),
                client,
                events,
                unread: VecDeque::new(),
            };
            let accepted = |heard: &Heard| matches!(heard, Heard::Accepted(_));
            match broker.hear(accepted).await? {
                Ok(_) => return Ok(broker),
                Err(e) => {
                    attempts += 1;
                    // A broker that hangs up is asked once more: it may know an older version alone.
                    let hung_up = matches!(e, Broken::Ended(_)) && attempts < ATTEMPTS;
                    if !negotiation.broken(false, &e) && !hung_up {
                        return Err(broker.lost(&e));
                    }
                }
            }
        }
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
    pub(crate) async fn subscribe(&mut self, filters: &[String], delivery: Delivery) -> Outcome {
        self.client.subscribe(filters, delivery)?;
        let heard = self.wait(|h| matches!(h, Heard::Subscribed(_))).await?;
        let Heard::Subscribed(refusals) = heard else {
            return Ok(());
        };
        for (filter, reason) in filters.iter().zip(refusals) {
            if let Some(reason) = reason {
                return Err(Failure::new(format_args!(
                    "the broker does not let this user read {filter}: {reason}"
                )));
            }
        }
        Ok(())
    }

    /// Publishes something that the broker keeps.
    pub(crate) async fn retain(&mut self, topic: &str, payload: Vec<u8>) -> Outcome {
        let beside = Beside::default();
        self.send(topic, true, payload, beside).await.map(|_| ())
    }

    /// Publishes. Returns once the broker has confirmed it: whether anybody is subscribed, as far as the
    /// broker says.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: Vec<u8>,
        beside: Beside,
    ) -> Outcome<bool> {
        self.send(topic, false, payload, beside).await
    }

    async fn send(
        &mut self,
        topic: &str,
        retain: bool,
        payload: Vec<u8>,
        beside: Beside,
    ) -> Outcome<bool> {
        self.client.publish(topic, retain, payload, beside)?;
        match self.wait(|h| matches!(h, Heard::Answered(..))).await? {
            Heard::Answered(_, Verdict::Nobody) => Ok(false),
            Heard::Answered(_, Verdict::Refused(reason)) => Err(Failure::new(format_args!(
                "the broker does not let this user write on {topic}: {reason}"
            ))),
            _ => Ok(true),
        }
    }

    /// The next message; none if there is none before the deadline.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Outcome<Option<Received>> {
        if let Some(received) = self.unread.pop_front() {
            return Ok(Some(received));
        }
        loop {
            match timeout_at(deadline, self.events.next()).await {
                Err(_) => return Ok(None),
                Ok(Err(e)) => return Err(self.lost(&e)),
                Ok(Ok(Heard::Message(received))) => return Ok(Some(received)),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Says goodbye.
    pub(crate) async fn leave(&mut self) {
        if self.client.leave().is_err() {
            return;
        }
        let deadline = Instant::now() + GOODBYE;
        while let Ok(Ok(heard)) = timeout_at(deadline, self.events.next()).await {
            if heard == Heard::Goodbye {
                return;
            }
        }
    }

    /// Waits for the broker's answer to what was asked.
    async fn wait(&mut self, wanted: impl Fn(&Heard) -> bool) -> Outcome<Heard> {
        self.hear(wanted).await?.map_err(|e| self.lost(&e))
    }

    /// The same; how the connection ended, if it did.
    async fn hear(&mut self, wanted: impl Fn(&Heard) -> bool) -> Outcome<Result<Heard, Broken>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match timeout_at(deadline, self.events.next()).await {
                Err(_) => {
                    let name = &self.name;
                    return Err(Failure::new(format_args!(
                        "the broker at {name} does not answer"
                    )));
                }
                Ok(Err(e)) => return Ok(Err(e)),
                Ok(Ok(heard)) if wanted(&heard) => return Ok(Ok(heard)),
                Ok(Ok(Heard::Message(received))) => self.unread.push_back(received),
                Ok(Ok(_)) => {}
            }
        }
    }

    fn lost(&self, e: &Broken) -> Failure {
        let name = &self.name;
        match e {
            Broken::Refused(code) => Failure::new(format_args!(
                "the broker at {name} refuses this user: {code}"
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
