//! The device's shadow: a configuration that somebody wants it to have, and the one that it has.
//!
//! Both have a version that only grows. What is desired is checked as a whole before anything of it is
//! applied; if it is refused, the last good one goes on, and both that and the reason are reported. The last
//! good one is kept in [`State`], before it is applied, and is what runs after a restart.

mod settings;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::command::ReplyTo;
use crate::config::Config;
use crate::crew::Crew;
use crate::engine::Engine;
use crate::error::Result;
use crate::groups::Groups;
use crate::message::{Outcome, Timing, json};
use crate::operation::Metrics;
use crate::orders::Orders;
use crate::outbox::{Class, Header, Message, Outbox};
use crate::signed::{self, Sealed};
use crate::state::State;
use crate::topic::Topics;
use crate::watch::{self, Watch};
use crate::worker::{refusal, result};
pub use settings::{
    CameraSettings, DeviceSettings, MOST_WATCHES, OUTBOX_BYTES, OutboxSettings, Settings,
};

/// The largest desired shadow, in bytes.
pub const LARGEST_SHADOW: usize = 256 << 10;
/// The highest version: what every reader of JSON can tell from its neighbours.
pub const LAST_VERSION: u64 = (1 << 53) - 1;
/// The longest reason that is reported, in characters.
const LONGEST_REASON: usize = 500;
/// The value's name in the state.
const NAME: &str = "shadow";
/// Answers that are kept for commands that come twice.
const ANSWERS: usize = 16;

/// `kinglet/D/shadow/desired`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// Higher than the one that is reported.
    pub version: u64,
    /// The configuration, to be read by [`Settings::read`].
    pub config: Map<String, Value>,
}

/// `kinglet/D/shadow/reported`
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reported {
    /// The version that runs; 0: the device's own file.
    pub version: u64,
    /// Everything that may be set, as it is.
    pub config: Settings,
    /// What was desired last, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// A shadow that was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refused {
    /// Its version, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why.
    pub reason: String,
}

/// Reads what was published as desired. A signature is not checked here.
///
/// # Errors
/// The reason in words.
pub fn parse(payload: &[u8]) -> std::result::Result<(Desired, Option<Sealed>), String> {
    if payload.len() > LARGEST_SHADOW {
        let len = payload.len();
        return Err(format!(
            "{len} bytes; at most {LARGEST_SHADOW} are accepted"
        ));
    }
    let (desired, sealed) = if signed::is_signed(payload) {
        let mut sealed = signed::read(payload)?;
        let args = Value::Object(std::mem::take(&mut sealed.order.args));
        (serde_json::from_value(args), Some(sealed))
    } else {
        (serde_json::from_slice(payload), None)
    };
    let desired: Desired = desired.map_err(|e| format!("it is not understood: {e}"))?;
    if !(1..=LAST_VERSION).contains(&desired.version) {
        return Err(format!("version: 1 to {LAST_VERSION} are accepted"));
    }
    Ok((desired, sealed))
}

/// What is kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// The last good one.
    version: u64,
    config: Settings,
    /// The version that was desired last, by somebody who may: the broker sends it again on every
    /// connection.
    desired: Option<u64>,
    refused: Option<Refused>,
}

/// Checks and makes ready; applied by whoever starts the agent.
pub(crate) struct Ready {
    /// The configuration that runs.
    pub(crate) config: Config,
    /// Its watches.
    pub(crate) watches: Vec<Arc<Watch>>,
    kept: Kept,
}

/// Checks settings as a whole.
fn ready(
    own: &Config,
    settings: &Settings,
    folder: &std::path::Path,
    engine: &dyn Engine,
) -> std::result::Result<(Config, Vec<Arc<Watch>>), String> {
    let config = settings.over(own)?;
    let watches = watch::load_all(&config, folder, engine).map_err(|e| e.to_string())?;
    Ok((config, watches))
}

/// What runs after a restart: the last good shadow, or the device's own configuration if that shadow does
/// not go with it any more.
///
/// # Errors
/// [`crate::AgentError`] if the device's own configuration cannot be, or the state cannot be read.
pub(crate) fn start(
    own: &Config,
    folder: &std::path::Path,
    engine: &dyn Engine,
    state: &State,
) -> Result<Ready> {
    let watches = watch::load_all(own, folder, engine)?;
    let mut kept: Kept = state.get(NAME)?.unwrap_or_default();
    match ready(own, &kept.config, folder, engine) {
        Ok((config, watches)) => Ok(Ready {
            config,
            watches,
            kept,
        }),
        Err(reason) => {
            let version = kept.version;
            tracing::error!(
                version,
                "the shadow does not go with this configuration: {reason}"
            );
            kept.refused = Some(Refused {
                version: Some(version),
                reason,
            });
            kept.config = Settings::default();
            Ok(Ready {
                config: own.clone(),
                watches,
                kept,
            })
        }
    }
}

/// What comes from afar.
pub(crate) enum Change {
    /// A payload of `kinglet/D/shadow/desired`.
    Desired(Vec<u8>),
    /// The command `set`.
    Set {
        reply: ReplyTo,
        expires: Option<OffsetDateTime>,
        changes: Map<String, Value>,
    },
    /// The time has become known.
    Clock,
}

/// What a shadow works with.
pub(crate) struct Parts {
    /// The device's own configuration.
    pub(crate) own: Config,
    pub(crate) folder: PathBuf,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) state: Arc<State>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) topics: Topics,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) discovery: Discovery,
    /// Told when something has changed.
    pub(crate) changed: Arc<Notify>,
}

/// Retained messages that follow from the configuration.
pub(crate) type Discovery = Box<dyn Fn(&Config) -> Vec<Message> + Send + Sync>;

/// The shadow of a running device.
pub(crate) struct Shadow {
    parts: Parts,
    now: Mutex<Now>,
    public: Mutex<Public>,
}

struct Now {
    kept: Kept,
    config: Config,
    /// What was desired while the time was not known.
    waiting: Option<Vec<u8>>,
    /// The last answers, by the ids of their commands.
    answers: VecDeque<(String, Message)>,
}

/// What others read while a change is being applied, which may take seconds.
struct Public {
    reported: Vec<u8>,
    watches: Vec<String>,
    discovery: Vec<Message>,
}

impl Shadow {
    pub(crate) fn new(parts: Parts, ready: Ready) -> Self {
        let now = Now {
            kept: ready.kept,
            config: ready.config,
            waiting: None,
            answers: VecDeque::new(),
        };
        let public = Mutex::new(now.public(&parts.discovery));
        Shadow {
            parts,
            now: Mutex::new(now),
            public,
        }
    }

    /// Applies what comes, one after the other.
    pub(crate) fn run(&self, changes: &Receiver<Change>) {
        while let Ok(change) = changes.recv() {
            // A panic in an engine costs the change, not the agent.
            let done = catch_unwind(AssertUnwindSafe(|| match change {
                Change::Desired(payload) => self.desired(payload),
                Change::Set {
                    reply,
                    expires,
                    changes,
                } => self.set(&reply, expires, &changes),
                Change::Clock => {
                    let waiting = lock(&self.now).waiting.take();
                    waiting
                        .into_iter()
                        .for_each(|payload| self.desired(payload));
                }
            }));
            if done.is_err() {
                tracing::error!("a change of the configuration failed; this is a bug of Kinglet");
            }
        }
    }

    /// Whether an engine can do what is asked of this device now.
    ///
    /// # Errors
    /// The reason in words.
    pub(crate) fn suits(&self, engine: &dyn Engine) -> std::result::Result<(), String> {
        let config = lock(&self.now).config.clone();
        let watches = watch::load_all(&config, &self.parts.folder, engine);
        watches.map(|_| ()).map_err(|e| e.to_string())
    }

    /// What is to be published on every connection.
    pub(crate) fn retained(&self) -> Vec<Message> {
        let public = lock(&self.public);
        let mut messages = public.discovery.clone();
        messages.push(self.message(public.reported.clone()));
        messages
    }

    /// The names of the watches that run.
    pub(crate) fn watches(&self) -> Vec<String> {
        lock(&self.public).watches.clone()
    }

    fn desired(&self, payload: Vec<u8>) {
        let mut now = lock(&self.now);
        // Nothing is desired any more: what runs goes on.
        if payload.is_empty() {
            return;
        }
        let (desired, sealed) = match parse(&payload) {
            Ok(parsed) => parsed,
            Err(reason) => return self.refuse(&mut now, None, reason, false),
        };
        let version = desired.version;
        if now.kept.desired == Some(version) && version <= now.kept.version {
            tracing::debug!(version, "the shadow is known already");
            return;
        }
        let topic = self.parts.topics.desired();
        if let Err(reason) = self.parts.orders.check(&topic, sealed.as_ref()) {
            now.waiting = self.parts.clock.known().is_none().then_some(payload);
            return self.refuse(&mut now, Some(version), reason, false);
        }
        let done = if version <= now.kept.version {
            let applied = now.kept.version;
            Err(format!("its version is not above {applied}"))
        } else {
            Settings::read(desired.config)
                .and_then(|settings| self.apply(&mut now, settings, version, Some(version)))
        };
        if let Err(reason) = done {
            self.refuse(&mut now, Some(version), reason, true);
        }
    }

    fn set(&self, reply: &ReplyTo, expires: Option<OffsetDateTime>, changes: &Map<String, Value>) {
        let parts = &self.parts;
        let mut now = lock(&self.now);
        let known = now.answers.iter().find(|(id, _)| *id == reply.id);
        let answer = match known {
            // A repeat is answered again and not done again.
            Some((_, answer)) => answer.clone(),
            None => {
                let done = if expires.is_some_and(|t| t < OffsetDateTime::now_utc()) {
                    Err("it has expired".to_owned())
                } else {
                    self.change(&mut now, changes)
                };
                parts.metrics.command(done.is_ok());
                let answer = match done {
                    Ok(version) => {
                        let outcome = Outcome::Version(version);
                        result(&parts.topics, reply, outcome, Timing::new())
                    }
                    Err(reason) => refusal(&parts.topics, reply, &reason),
                };
                now.answers.truncate(ANSWERS - 1);
                now.answers.push_front((reply.id.clone(), answer.clone()));
                answer
            }
        };
        self.store(vec![answer]);
    }

    fn change(
        &self,
        now: &mut Now,
        changes: &Map<String, Value>,
    ) -> std::result::Result<u64, String> {
        let settings = now.kept.config.changed(&self.parts.own, changes)?;
        // Above one that was refused too: it may still be on the broker.
        let version = now.kept.version.max(now.kept.desired.unwrap_or(0)) + 1;
        if version > LAST_VERSION {
            return Err("there is no higher version".to_owned());
        }
        self.apply(now, settings, version, None)?;
        Ok(version)
    }

    /// Checks settings, keeps them and lets them run.
    fn apply(
        &self,
        now: &mut Now,
        settings: Settings,
        version: u64,
        desired: Option<u64>,
    ) -> std::result::Result<(), String> {
        let parts = &self.parts;
        let ready =
            |settings: &Settings| ready(&parts.own, settings, &parts.folder, parts.engine.as_ref());
        let (config, watches) = ready(&settings)?;
        let kept = Kept {
            version,
            config: settings,
            desired: desired.or(now.kept.desired),
            refused: None,
        };
        let keep = |kept: &Kept| parts.state.set(NAME, kept).map_err(|e| e.to_string());
        keep(&kept)?;
        if let Err(e) = parts.crew.set(&config.camera, &watches) {
            // Back to the last good one, as far as the system lets us.
            keep(&now.kept)?;
            let (config, watches) = ready(&now.kept.config)?;
            let back = parts.crew.set(&config.camera, &watches);
            back.map_err(|e| format!("what ran before cannot be started again: {e}"))?;
            return Err(e.to_string());
        }
        parts.outbox.limit(config.outbox.max_bytes);
        parts.groups.set(&config.device.groups);
        now.kept = kept;
        now.config = config;
        tracing::info!(version, "a new configuration runs");
        parts.changed.notify_one();
        self.report(now);
        Ok(())
    }

    /// The last good one goes on. What somebody desires who may not is not worth a write to disk.
    fn refuse(&self, now: &mut Now, version: Option<u64>, reason: String, keep: bool) {
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        tracing::warn!(version, "a shadow is refused: {reason}");
        let refused = Some(Refused { version, reason });
        if now.kept.refused == refused {
            return;
        }
        now.kept.refused = refused;
        if keep {
            now.kept.desired = version.or(now.kept.desired);
            if let Err(e) = self.parts.state.set(NAME, &now.kept) {
                tracing::error!("{e}");
            }
        }
        self.report(now);
    }

    fn report(&self, now: &Now) {
        let public = now.public(&self.parts.discovery);
        let reported = self.message(public.reported.clone());
        let mut messages = self.replace(public);
        messages.insert(0, reported);
        self.store(messages);
    }

    /// Publishes what others know the device by, if it is not what it was.
    pub(crate) fn announce(&self) {
        let public = lock(&self.now).public(&self.parts.discovery);
        let messages = self.replace(public);
        if !messages.is_empty() {
            self.store(messages);
        }
    }

    /// What is public now. Returns the retained messages that make it known, beside what is reported.
    fn replace(&self, public: Public) -> Vec<Message> {
        let before = std::mem::replace(&mut *lock(&self.public), public).discovery;
        let after = lock(&self.public).discovery.clone();
        let mut messages = Vec::new();
        let gone = |old: &Message| !after.iter().any(|new| new.header.topic == old.header.topic);
        for mut old in before.iter().filter(|old| gone(old)).cloned() {
            // An empty message takes a retained one away.
            old.payload.clear();
            messages.push(old);
        }
        messages.extend(after.iter().filter(|new| !before.contains(new)).cloned());
        messages
    }

    fn message(&self, payload: Vec<u8>) -> Message {
        Message {
            header: Header {
                topic: self.parts.topics.reported(),
                class: Class::Event,
                retain: true,
                content_type: "application/json".to_owned(),
                correlation: None,
            },
            payload,
        }
    }

    fn store(&self, messages: Vec<Message>) {
        if let Err(e) = self.parts.outbox.store(messages) {
            tracing::error!("{e}");
        }
    }
}

impl Now {
    fn public(&self, discovery: &Discovery) -> Public {
        Public {
            discovery: discovery(&self.config),
            reported: json(&Reported {
                version: self.kept.version,
                config: Settings::of(&self.config),
                refused: self.kept.refused.clone(),
            }),
            watches: self.config.watch.iter().map(|w| w.name.clone()).collect(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // After a panic: every value is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
