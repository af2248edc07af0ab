//! The one thread that computes. It takes frames to look at (`look`) and commands from a bounded queue.

mod asked;
mod look;
mod steps;
#[cfg(test)]
pub(crate) mod tests;

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

use crate::area::Area;
use crate::attempts::{self, Check};
use crate::clock::Clock;
use crate::command::{Action, Command, Look, ReplyTo};
use crate::engine::{DrawRequest, Engine, EngineError, Form, Progress, Question, Step};
use crate::frame::{Frame, Picture};
use crate::life::Life;
use crate::message::{Cause, Outcome, Reply, Stamped, Timing, json};
use crate::operation::{Metrics, Pulse};
use crate::outbox::{Class, Header, Message, Outbox};
use crate::output::OutputConfig;
use crate::pending::Pending;
use crate::slot::Slot;
use crate::topic::Topics;
use crate::watch::{Current, Watch};
use look::Sight;

/// Jobs that may wait.
pub const QUEUE: usize = 16;
/// Answers that are kept for commands that come twice.
const ANSWERS: usize = 64;

/// Something to compute.
#[derive(Debug)]
pub(crate) enum Job {
    /// A frame that a watch's trigger has chosen.
    Look {
        /// The watch.
        watch: Arc<Watch>,
        /// The frame.
        frame: Arc<Frame>,
        /// When it was chosen.
        since: Instant,
        /// The part of it that mattered to the trigger, where it knows one.
        part: Option<Area>,
        /// Whether the scene is the one that was looked at before.
        again: bool,
        /// What the trigger saw in it, if it can say so.
        cause: Option<Cause>,
    },
    /// What a watch followed has ended: it is not there any more, or the watch is not.
    Leave {
        /// The watch.
        watch: Arc<Watch>,
        /// The frame in which it is gone, or the last one that was chosen.
        frame: Arc<Frame>,
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
    /// What watches may switch.
    pub(crate) outputs: Vec<OutputConfig>,
    /// The watches that run.
    pub(crate) watches: Arc<Current>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) progress: mpsc::Sender<Message>,
    /// Set when the agent stops: what is being computed is given up.
    pub(crate) stopping: Arc<AtomicBool>,
    /// The commands, which may be called off.
    pub(crate) pending: Arc<Pending>,
    pub(crate) clock: Arc<Clock>,
    /// Signs of life.
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Worker {
    /// Runs until the queue is closed.
    pub(crate) fn run(&self, jobs: &Receiver<Job>) {
        let mut answers = VecDeque::new();
        let mut lives: HashMap<String, Life> = HashMap::new();
        while let Ok(job) = jobs.recv() {
            self.pulse.beat(Instant::now());
            match job {
                Job::Look {
                    watch,
                    frame,
                    since,
                    part,
                    again,
                    cause,
                } => {
                    let life = lives.entry(watch.config.name.clone()).or_default();
                    let part = watch.region.or(part);
                    let sight = Sight {
                        watch: &watch,
                        frame: &frame,
                        since,
                        part,
                        cause: cause.as_ref(),
                    };
                    self.look(life, &sight, again);
                }
                Job::Leave { watch, frame } => {
                    if let Some(mut life) = lives.remove(&watch.config.name) {
                        let sight = Sight {
                            watch: &watch,
                            frame: &frame,
                            since: Instant::now(),
                            part: None,
                            cause: None,
                        };
                        self.end(&mut life, &sight);
                    }
                }
                Job::Command { command, since } => {
                    self.pending.begin(&command.reply.id);
                    self.command(&mut answers, &command, since);
                    self.pending.leave(&command.reply.id);
                }
            }
            self.pulse.rest();
        }
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
        let done = self.work(command, since);
        self.metrics.command(done.is_ok());
        let messages = done.unwrap_or_else(|e| vec![refusal(&self.topics, reply, &e)]);
        if answers.len() == ANSWERS {
            answers.pop_front();
        }
        answers.push_back((reply.id.clone(), messages.clone()));
        self.keep(messages);
    }

    /// Does what a command says. What comes out is its answer, or why there is none.
    fn work(&self, command: &Command, since: Instant) -> Result<Vec<Message>, String> {
        let reply = &command.reply;
        let now = OffsetDateTime::now_utc();
        if command.expires.is_some_and(|t| t < now) {
            return Err("it has expired".to_owned());
        }
        if self.pending.is_cancelled() {
            return Err("cancelled".to_owned());
        }
        match &command.action {
            Action::See { question, look } => self.answer(reply, question, look, since),
            Action::Watch { name, picture } => self.asked(reply, name, picture.as_ref(), since),
            Action::Draw(request) if request.tries > 1 => self.checked(reply, request, since),
            Action::Draw(request) => self.drawing(reply, request, since, &mut |progress| {
                self.engine.draw(request, progress)
            }),
            Action::Edit { request, look } => {
                let picture = self.find(look)?;
                self.drawing(reply, request, since, &mut |progress| {
                    self.engine.edit(&picture, request, progress)
                })
            }
            Action::Snapshot(camera) => self.snapshot(reply, camera.clone(), since),
            // Called off at once, and never put into the queue.
            Action::Cancel(_) | Action::Set(_) => Ok(Vec::new()),
        }
    }

    fn answer(
        &self,
        reply: &ReplyTo,
        question: &Question,
        look: &Look,
        since: Instant,
    ) -> Result<Vec<Message>, String> {
        let started = Instant::now();
        let picture = self.find(look)?;
        let answer = self.see(&picture, question).map_err(|e| e.to_string())?;
        let timing = timing(since, started, "see");
        let outcome = Outcome::Answer(answer);
        Ok(vec![result(&self.topics, reply, outcome, timing)])
    }

    fn snapshot(
        &self,
        reply: &ReplyTo,
        camera: Option<String>,
        since: Instant,
    ) -> Result<Vec<Message>, String> {
        let started = Instant::now();
        let jpeg = self.find(&Look::Camera(camera))?.to_jpeg()?;
        let timing = timing(since, started, "snapshot");
        Ok(self.delivery(reply, "image/jpeg", jpeg, None, timing))
    }

    /// A picture and the result that names it.
    fn delivery(
        &self,
        reply: &ReplyTo,
        content_type: &str,
        bytes: Vec<u8>,
        check: Option<Check>,
        timing: Timing,
    ) -> Vec<Message> {
        let topic = self.topics.image(&reply.id);
        let payload = Reply::Result {
            id: reply.id.clone(),
            device: self.topics.device().to_owned(),
            result: Outcome::Picture(topic.clone()),
            event: None,
            check,
            timing,
        };
        vec![
            picture(&topic, content_type, false, bytes),
            to(&self.topics, reply, &payload),
        ]
    }

    /// Draws until the model sees in a drawing what was asked for.
    fn checked(
        &self,
        reply: &ReplyTo,
        request: &DrawRequest,
        since: Instant,
    ) -> Result<Vec<Message>, String> {
        let started = Instant::now();
        let question = Question {
            ask: attempts::QUESTION.to_owned(),
            ..Question::default()
        };
        let mut draw = |number: usize| {
            let request = request.attempt(number);
            let mut progress = |step: Step<'_>| {
                let of = step.of * request.tries;
                let done = step.of * number + step.done;
                self.progress(reply, &request, Step { done, of, ..step })
            };
            guarded(|| self.engine.draw(&request, &mut progress))
        };
        let mut see = |picture: &Picture| match self.see(picture, &question)? {
            Value::String(seen) => Ok(seen),
            other => Ok(other.to_string()),
        };
        let best = attempts::best(&request.prompt, request.tries, &mut draw, &mut see);
        let (picture, check) = best.map_err(|e| e.to_string())?;
        self.metrics.took("draw", started.elapsed());
        let png = picture.to_png()?;
        let timing = timing(since, started, "draw");
        Ok(self.delivery(reply, "image/png", png, Some(check), timing))
    }

    /// Tells how far a drawing is: whether it is to go on.
    fn progress(&self, reply: &ReplyTo, request: &DrawRequest, step: Step<'_>) -> ControlFlow<()> {
        let preview = request.preview.then(|| encoded((step.preview)()?));
        let payload = Reply::Progress {
            id: reply.id.clone(),
            device: self.topics.device().to_owned(),
            step: step.done,
            of: step.of,
            preview: preview.flatten(),
        };
        // Progress that finds no room is not missed.
        let _ = self.progress.try_send(to(&self.topics, reply, &payload));
        self.go_on()
    }

    fn drawing(
        &self,
        reply: &ReplyTo,
        request: &DrawRequest,
        since: Instant,
        work: &mut dyn FnMut(Progress<'_>) -> Result<Picture, EngineError>,
    ) -> Result<Vec<Message>, String> {
        let started = Instant::now();
        let mut progress = |step: Step<'_>| self.progress(reply, request, step);
        let drawn = guarded(|| work(&mut progress));
        self.metrics.took("draw", started.elapsed());
        let png = drawn.map_err(|e| e.to_string())?.to_png()?;
        let timing = timing(since, started, "draw");
        Ok(self.delivery(reply, "image/png", png, None, timing))
    }

    /// Asks the engine.
    fn see(&self, picture: &Picture, question: &Question) -> Result<Value, EngineError> {
        let started = Instant::now();
        let answer = guarded(|| self.engine.see(picture, question, &mut |_| self.go_on()))?;
        self.metrics.took("see", started.elapsed());
        match question.form {
            Form::Text | Form::YesOrNo => Ok(Value::String(answer)),
            Form::Schema(_) => serde_json::from_str(&answer)
                .map_err(|e| EngineError::Refused(format!("the answer is no JSON: {e}"))),
        }
    }

    /// A token or a step is done: whether there is to be another one.
    fn go_on(&self) -> ControlFlow<()> {
        self.pulse.beat(Instant::now());
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
        Ok(self.newest(name.as_deref())?.picture.clone())
    }

    /// The newest frame of a camera; of the only one, if none is named.
    fn newest(&self, name: Option<&str>) -> Result<Arc<Frame>, String> {
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
        slot.newest()
            .ok_or_else(|| "the camera delivers no frame now".to_owned())
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
        device: topics.device().to_owned(),
        result,
        event: None,
        check: None,
        timing,
    };
    to(topics, reply, &payload)
}

/// The answer to a command that is not done.
pub(crate) fn refusal(topics: &Topics, reply: &ReplyTo, reason: &str) -> Message {
    let payload = Reply::Error {
        id: reply.id.clone(),
        device: topics.device().to_owned(),
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
        json(&Stamped {
            payload,
            clock: reply.clock,
        }),
        reply.correlation.clone(),
    )
}

/// A message of JSON that is not retained.
pub(crate) fn message(
    topic: &str,
    class: Class,
    payload: Vec<u8>,
    correlation: Option<Vec<u8>>,
) -> Message {
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
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
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
