//! The one thread that computes. It takes frames to look at and commands from a bounded queue.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use base64::Engine as _;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::command::{Action, Command, Look, ReplyTo};
use crate::config::Publish;
use crate::engine::{DrawRequest, Engine, EngineError, Form, Progress, Question, Step};
use crate::frame::{Frame, Picture};
use crate::message::{Event, EventType, Outcome, Reply, Timing, json, rfc3339};
use crate::outbox::{Class, Header, Message, Outbox};
use crate::pending::Pending;
use crate::slot::Slot;
use crate::topic::Topics;
use crate::trigger::Edge;
use crate::watch::Watch;

/// Jobs that may wait.
pub const QUEUE: usize = 16;
/// Answers that are kept for commands that come twice.
const ANSWERS: usize = 64;

/// Something to compute.
#[derive(Debug)]
pub enum Job {
    /// A frame that a watch's trigger has chosen.
    Look {
        /// The watch.
        watch: Arc<Watch>,
        /// The frame.
        frame: Arc<Frame>,
        /// When it was chosen.
        since: Instant,
    },
    /// A command.
    Command {
        /// The command.
        command: Box<Command>,
        /// When it came.
        since: Instant,
    },
}

/// Computes.
pub(crate) struct Worker {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) topics: Topics,
    pub(crate) slots: HashMap<String, Arc<Slot>>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) progress: mpsc::Sender<Message>,
    /// Set when the agent stops: what is being computed is given up.
    pub(crate) stopping: Arc<AtomicBool>,
    /// The commands, which may be called off.
    pub(crate) pending: Arc<Pending>,
}

impl Worker {
    /// Runs until the queue is closed.
    pub(crate) fn run(&self, jobs: &Receiver<Job>) {
        let mut answers = VecDeque::new();
        let mut edges: HashMap<String, Edge> = HashMap::new();
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Look {
                    watch,
                    frame,
                    since,
                } => {
                    let edge = edges.entry(watch.config.name.clone()).or_default();
                    if self.chosen(&watch, &frame, edge) && !self.look(&watch, &frame, since) {
                        edge.forget();
                    }
                }
                Job::Command { command, since } => {
                    self.pending.begin(&command.reply.id);
                    self.command(&mut answers, &command, since);
                    self.pending.leave(&command.reply.id);
                }
            }
        }
    }

    /// Whether a watch's rule in words, if it has one, has just become true.
    fn chosen(&self, watch: &Watch, frame: &Frame, edge: &mut Edge) -> bool {
        let Some(condition) = &watch.condition else {
            return true;
        };
        match self.see(&frame.picture, condition) {
            Ok(answer) => edge.rises(answer == "yes"),
            Err(e) => {
                tracing::error!(watch = watch.config.name, "{e}");
                false
            }
        }
    }

    /// Makes an event of a frame. Returns whether it was made.
    fn look(&self, watch: &Watch, frame: &Frame, since: Instant) -> bool {
        let started = Instant::now();
        let (question, watch) = (&watch.question, &watch.config);
        let answer = match self.see(&frame.picture, question) {
            Ok(answer) => answer,
            Err(e) => {
                tracing::error!(watch = watch.name, "{e}");
                return false;
            }
        };
        let timing = timing(since, started, "see");
        let wants = |what| watch.publish.contains(&what);
        let jpeg = if wants(Publish::Picture) {
            frame.picture.to_jpeg().ok()
        } else {
            None
        };
        let stored = self.outbox.store_event(|seq| {
            let id = format!("{:x}-{seq}", frame.at.unix_timestamp());
            let mut messages = Vec::new();
            let picture = jpeg.map(|jpeg| {
                let topic = self.topics.image(&id);
                messages.push(picture(&topic, "image/jpeg", false, jpeg.clone()));
                let latest = self.topics.latest(&watch.name);
                messages.push(picture(&latest, "image/jpeg", true, jpeg));
                topic
            });
            if wants(Publish::Answer) {
                let event = Event {
                    id,
                    seq,
                    kind: EventType::New,
                    at: rfc3339(frame.at),
                    camera: watch.camera.clone(),
                    watch: watch.name.clone(),
                    answer,
                    model: self.engine.model(),
                    timing,
                    picture,
                };
                messages.push(message(
                    &self.topics.event(),
                    Class::Event,
                    json(&event),
                    None,
                ));
            }
            messages
        });
        if let Err(e) = stored {
            tracing::error!(watch = watch.name, "the event is lost: {e}");
            return false;
        }
        true
    }

    fn command(
        &self,
        answers: &mut VecDeque<(String, Vec<Message>)>,
        command: &Command,
        since: Instant,
    ) {
        let reply = &command.reply;
        // A repeat is answered again and not done again.
        if let Some((_, messages)) = answers.iter().find(|(id, _)| *id == reply.id) {
            self.keep(messages.clone());
            return;
        }
        let messages = if command
            .expires
            .is_some_and(|t| t < OffsetDateTime::now_utc())
        {
            vec![refusal(&self.topics, reply, "it has expired")]
        } else if self.pending.is_cancelled() {
            vec![refusal(&self.topics, reply, "cancelled")]
        } else {
            match &command.action {
                Action::See { question, look } => self.answer(reply, question, look, since),
                Action::Draw(request) => self.drawing(reply, request, since, &mut |progress| {
                    self.engine.draw(request, progress)
                }),
                Action::Edit { request, look } => match self.find(look) {
                    Ok(picture) => self.drawing(reply, request, since, &mut |progress| {
                        self.engine.edit(&picture, request, progress)
                    }),
                    Err(e) => vec![refusal(&self.topics, reply, &e)],
                },
                Action::Snapshot(camera) => self.snapshot(reply, camera.clone(), since),
                // Called off at once, and never put into the queue.
                Action::Cancel(_) => Vec::new(),
            }
        };
        if answers.len() == ANSWERS {
            answers.pop_front();
        }
        answers.push_back((reply.id.clone(), messages.clone()));
        self.keep(messages);
    }

    fn answer(
        &self,
        reply: &ReplyTo,
        question: &Question,
        look: &Look,
        since: Instant,
    ) -> Vec<Message> {
        let started = Instant::now();
        let answer = self
            .find(look)
            .and_then(|picture| self.see(&picture, question).map_err(|e| e.to_string()));
        vec![match answer {
            Ok(answer) => {
                let timing = timing(since, started, "see");
                let outcome = Outcome::Answer(answer);
                result(&self.topics, reply, outcome, timing)
            }
            Err(e) => refusal(&self.topics, reply, &e),
        }]
    }

    fn snapshot(&self, reply: &ReplyTo, camera: Option<String>, since: Instant) -> Vec<Message> {
        let started = Instant::now();
        let frame = self.find(&Look::Camera(camera));
        match frame.and_then(|frame| frame.to_jpeg()) {
            Ok(jpeg) => {
                let topic = self.topics.image(&reply.id);
                let outcome = Outcome::Picture(topic.clone());
                vec![
                    picture(&topic, "image/jpeg", false, jpeg),
                    result(
                        &self.topics,
                        reply,
                        outcome,
                        timing(since, started, "snapshot"),
                    ),
                ]
            }
            Err(e) => vec![refusal(&self.topics, reply, &e)],
        }
    }

    fn drawing(
        &self,
        reply: &ReplyTo,
        request: &DrawRequest,
        since: Instant,
        work: &mut dyn FnMut(Progress<'_>) -> Result<Picture, EngineError>,
    ) -> Vec<Message> {
        let started = Instant::now();
        let mut progress = |step: Step<'_>| {
            let payload = Reply::Progress {
                id: reply.id.clone(),
                step: step.done,
                of: step.of,
                preview: request
                    .preview
                    .then(|| encoded((step.preview)()?))
                    .flatten(),
            };
            // Progress that finds no room is not missed.
            let _ = self.progress.try_send(to(&self.topics, reply, &payload));
            self.go_on()
        };
        let drawn = guarded(|| work(&mut progress));
        let png = drawn
            .map_err(|e| e.to_string())
            .and_then(|picture| picture.to_png());
        match png {
            Ok(png) => {
                let timing = timing(since, started, "draw");
                let topic = self.topics.image(&reply.id);
                let outcome = Outcome::Picture(topic.clone());
                vec![
                    picture(&topic, "image/png", false, png),
                    result(&self.topics, reply, outcome, timing),
                ]
            }
            Err(e) => vec![refusal(&self.topics, reply, &e)],
        }
    }

    fn see(&self, picture: &Picture, question: &Question) -> Result<Value, EngineError> {
        let answer = guarded(|| self.engine.see(picture, question, &mut |_| self.go_on()))?;
        match question.form {
            Form::Text | Form::YesOrNo => Ok(Value::String(answer)),
            Form::Schema(_) => serde_json::from_str(&answer)
                .map_err(|e| EngineError::Refused(format!("the answer is no JSON: {e}"))),
        }
    }

    fn go_on(&self) -> ControlFlow<()> {
        if self.stopping.load(Ordering::Relaxed) || self.pending.is_cancelled() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn find(&self, look: &Look) -> Result<Picture, String> {
        let name = match look {
            Look::Picture(picture) => return Ok(picture.clone()),
            Look::Camera(name) => name,
        };
        let slot = match name {
            Some(name) => self
                .slots
                .get(name)
                .ok_or_else(|| format!("there is no camera \"{name}\""))?,
            None => match (self.slots.values().next(), self.slots.len()) {
                (Some(slot), 1) => slot,
                (_, n) => return Err(format!("camera: this device has {n}, one must be named")),
            },
        };
        let frame = slot.newest().ok_or("the camera delivers no frame now")?;
        Ok(frame.picture.clone())
    }

    fn keep(&self, messages: Vec<Message>) {
        if let Err(e) = self.outbox.store(messages) {
            tracing::error!("an answer is lost: {e}");
        }
    }
}

/// The answer to a command that is done.
pub(crate) fn result(topics: &Topics, reply: &ReplyTo, result: Outcome, timing: Timing) -> Message {
    let payload = Reply::Result {
        id: reply.id.clone(),
        result,
        timing,
    };
    to(topics, reply, &payload)
}

/// The answer to a command that is not done.
pub(crate) fn refusal(topics: &Topics, reply: &ReplyTo, reason: &str) -> Message {
    let payload = Reply::Error {
        id: reply.id.clone(),
        error: reason.to_owned(),
    };
    to(topics, reply, &payload)
}

fn to(topics: &Topics, reply: &ReplyTo, payload: &Reply) -> Message {
    let topic = match &reply.topic {
        Some(topic) => topic.clone(),
        None => topics.result(&reply.id),
    };
    message(
        &topic,
        Class::Reply,
        json(payload),
        reply.correlation.clone(),
    )
}

fn message(topic: &str, class: Class, payload: Vec<u8>, correlation: Option<Vec<u8>>) -> Message {
    Message {
        header: Header {
            topic: topic.to_owned(),
            class,
            retain: false,
            content_type: "application/json".to_owned(),
            correlation,
        },
        payload,
    }
}

fn picture(topic: &str, content_type: &str, retain: bool, payload: Vec<u8>) -> Message {
    Message {
        header: Header {
            topic: topic.to_owned(),
            class: Class::Picture,
            retain,
            content_type: content_type.to_owned(),
            correlation: None,
        },
        payload,
    }
}

/// A picture as a PNG file in base64.
fn encoded(picture: Picture) -> Option<String> {
    let png = picture.to_png().ok()?;
    Some(base64::engine::general_purpose::STANDARD.encode(png))
}

/// A panic in an engine costs the job, not the agent.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let reason = "the model stopped unexpectedly; this is a bug of Kinglet";
        Err(EngineError::Refused(reason.to_owned()))
    })
}

fn timing(since: Instant, started: Instant, stage: &'static str) -> Timing {
    let ms = |d: std::time::Duration| d.as_millis() as u64;
    Timing::from([
        ("wait", ms(started.duration_since(since))),
        (stage, ms(started.elapsed())),
    ])
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::config::WatchConfig;
    use crate::engine::ModelInfo;

    /// Says yes about bright pictures, and to other questions how bright they are.
    struct Brightness;

    impl Engine for Brightness {
        fn model(&self) -> ModelInfo {
            ModelInfo {
                name: "brightness".to_owned(),
                sha256: String::new(),
            }
        }

        fn check(&self, _: &Question) -> Result<(), EngineError> {
            Ok(())
        }

        fn see(
            &self,
            picture: &Picture,
            question: &Question,
            _: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> Result<String, EngineError> {
            let light = picture.rgb[0];
            match (&question.form, light) {
                (Form::YesOrNo, 0..=99) => Ok("no".to_owned()),
                (Form::YesOrNo, _) => Ok("yes".to_owned()),
                (_, 255) => Err(EngineError::Refused("it is too bright".to_owned())),
                _ => Ok(light.to_string()),
            }
        }

        fn draw(&self, _: &DrawRequest, _: Progress<'_>) -> Result<Picture, EngineError> {
            Err(EngineError::Cancelled)
        }

        fn edit(
            &self,
            _: &Picture,
            _: &DrawRequest,
            _: Progress<'_>,
        ) -> Result<Picture, EngineError> {
            Err(EngineError::Cancelled)
        }
    }

    #[test]
    fn a_rule_in_words_makes_one_event_each_time_it_becomes_true() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Arc::new(Outbox::open(&folder.path().join("outbox"), 1 << 20).unwrap());
        let worker = Worker {
            engine: Arc::new(Brightness),
            topics: Topics::new("porch"),
            slots: HashMap::new(),
            outbox: Arc::clone(&outbox),
            progress: mpsc::channel(1).0,
            stopping: Arc::default(),
            pending: Arc::default(),
        };
        let text =
            "name = 'day'\ncamera = 'door'\nwhen = 'says:\"it is bright\"'\nask = 'how bright?'";
        let config: WatchConfig = toml::from_str(text).unwrap();
        let watch = Arc::new(crate::watch::Watch::load(&config, folder.path()).unwrap());
        let (sender, jobs) = channel();
        // 255 holds, but its event fails: the next frame makes up for it.
        for (number, light) in (1..).zip([0, 100, 120, 0, 0, 130, 0, 255, 140, 150]) {
            let picture = Picture {
                width: 1,
                height: 1,
                rgb: vec![light; 3].into(),
            };
            let at = OffsetDateTime::UNIX_EPOCH;
            let frame = Arc::new(Frame {
                number,
                at,
                picture,
            });
            let (watch, since) = (Arc::clone(&watch), Instant::now());
            sender
                .send(Job::Look {
                    watch,
                    frame,
                    since,
                })
                .unwrap();
        }
        drop(sender);
        worker.run(&jobs);
        let mut answers = Vec::new();
        while let Some((key, message)) = outbox.first().unwrap() {
            let event: Value = serde_json::from_slice(&message.payload).unwrap();
            answers.push(event["answer"].as_str().unwrap().to_owned());
            outbox.remove(key).unwrap();
        }
        assert_eq!(answers, ["100", "130", "140"]);
    }
}
