//! Frames become events.

use std::time::Instant;

use serde_json::Value;

use super::{Worker, message, picture, timing};
use crate::area::Area;
use crate::config::Publish;
use crate::engine::{EngineError, Question};
use crate::frame::Frame;
use crate::life::Life;
use crate::message::{Cause, Event, EventType, Stamped, Timing, json, rfc3339};
use crate::outbox::Class;
use crate::steps::Taken;
use crate::trigger::Turn;
use crate::watch::Watch;

/// A frame that a watch looks at.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) watch: &'a Watch,
    pub(super) frame: &'a Frame,
    /// When it was chosen.
    pub(super) since: Instant,
    /// The part of it that matters.
    pub(super) part: Option<Area>,
    /// What made it worth a look, if that can be said.
    pub(super) cause: Option<&'a Cause>,
}

/// What was seen in a frame.
pub(super) struct Seen {
    pub(super) answer: Value,
    /// What was done then.
    taken: Vec<Taken>,
    pub(super) timing: Timing,
}

impl Worker {
    /// A frame that a trigger has chosen: something new, or what has become of what was seen.
    pub(super) fn look(&self, life: &mut Life, sight: &Sight<'_>, again: bool) {
        let watch = sight.watch;
        let turn = match &watch.condition {
            None if again => Turn::Stands,
            None => Turn::Rises,
            Some(rule) => match self.see(&sight.frame.picture, rule) {
                Ok(answer) => {
                    let debounce = watch.config.debounce.map(|p| p.0).unwrap_or_default();
                    life.edge.turn(answer == "yes", Instant::now(), debounce)
                }
                Err(e) => return tracing::error!(watch = watch.config.name, "{e}"),
            },
        };
        match turn {
            Turn::Nothing => {}
            Turn::Rises => {
                self.end(life, sight);
                match self.new_event(sight) {
                    Some((id, answer)) => {
                        let now = Instant::now();
                        watch.gate.made(now);
                        life.begin(watch, id, answer, now);
                    }
                    None => {
                        life.edge.forget();
                        watch.gate.failed();
                    }
                }
            }
            Turn::Stands => self.again(life, sight),
            Turn::Falls => self.end(life, sight),
        }
    }

    /// Makes an event of a frame. Returns its id and answer.
    fn new_event(&self, sight: &Sight<'_>) -> Option<(String, Value)> {
        let seen = self.ask(sight).map(|said| self.act(sight, said));
        let seen = seen.inspect_err(|e| log(sight, e)).ok()?;
        let answer = seen.answer.clone();
        let id = self.event(EventType::New, None, sight, seen)?;
        Some((id, answer))
    }

    /// Looks again at what stands. Another answer is news.
    fn again(&self, life: &mut Life, sight: &Sight<'_>) {
        let Some(standing) = life.due(sight.watch, Instant::now()) else {
            return;
        };
        let said = match self.ask(sight) {
            Ok(said) => said,
            Err(e) => return log(sight, &e),
        };
        standing.looked = Instant::now();
        if said.0 == standing.answer {
            return;
        }
        let answer = said.0.clone();
        let seen = self.act(sight, said);
        let id = Some(&standing.id[..]);
        if self.event(EventType::Update, id, sight, seen).is_some() {
            standing.answer = answer;
        }
    }

    /// Ends the event that stands, if one does.
    pub(super) fn end(&self, life: &mut Life, sight: &Sight<'_>) {
        if let Some(standing) = &life.standing {
            let seen = Seen {
                answer: standing.answer.clone(),
                taken: Vec::new(),
                timing: Timing::new(),
            };
            let ended = self.event(EventType::End, Some(&standing.id), sight, seen);
            // One that could not be stored is tried again when the next one begins.
            if ended.is_some() {
                life.standing = None;
            }
        }
    }

    /// Asks a watch's question.
    pub(super) fn ask(&self, sight: &Sight<'_>) -> Result<(Value, Timing), EngineError> {
        let started = Instant::now();
        let (watch, picture) = (sight.watch, &sight.frame.picture);
        let region = watch
            .region
            .map(|r| r.pixels(picture.width, picture.height));
        let question = Question {
            region,
            ..watch.question.clone()
        };
        let answer = self.see(picture, &question)?;
        Ok((answer, timing(sight.since, started, "see")))
    }

    /// Takes the steps that a watch allows.
    pub(super) fn act(&self, sight: &Sight<'_>, (answer, mut timing): (Value, Timing)) -> Seen {
        let started = Instant::now();
        let taken = match &sight.watch.steps {
            Some(steps) => self.steps(steps, sight, &answer),
            None => Vec::new(),
        };
        if !taken.is_empty() {
            timing.insert("steps", started.elapsed().as_millis() as u64);
        }
        Seen {
            answer,
            taken,
            timing,
        }
    }

    /// Stores an event, with an id of its own if none is given, which is returned.
    pub(super) fn event(
        &self,
        kind: EventType,
        id: Option<&str>,
        sight: &Sight<'_>,
        seen: Seen,
    ) -> Option<String> {
        let (watch, frame) = (&sight.watch.config, sight.frame);
        let wants = |what| watch.publish.contains(&what) && kind != EventType::End;
        // What did not come from the camera is not its newest picture.
        let foreign = matches!(sight.cause, Some(Cause::Command { image: true, .. }));
        let jpeg = (wants(Publish::Picture)).then(|| frame.picture.to_jpeg().ok());
        let part = sight.part.filter(|_| wants(Publish::Crop));
        let crop = part.map(|part| {
            let region = part.pixels(frame.picture.width, frame.picture.height);
            frame.picture.crop(region).to_jpeg().ok()
        });
        let mut given = String::new();
        let stored = self.outbox.store_event(|seq| {
            let new = || format!("{:x}-{seq}", frame.at.unix_timestamp());
            let id = id.map_or_else(new, str::to_owned);
            given.clone_from(&id);
            let name = match kind {
                EventType::New => id.clone(),
                // A topic has one picture.
                _ => format!("{id}-{seq}"),
            };
            let mut messages = Vec::new();
            let picture = jpeg.flatten().map(|jpeg| {
                let topic = self.topics.image(&name);
                messages.push(picture(&topic, "image/jpeg", false, jpeg.clone()));
                if !foreign {
                    let latest = self.topics.latest(&watch.name);
                    messages.push(picture(&latest, "image/jpeg", true, jpeg));
                }
                topic
            });
            let crop = crop.flatten().map(|jpeg| {
                let topic = self.topics.image(&format!("{name}-crop"));
                messages.push(self::picture(&topic, "image/jpeg", false, jpeg));
                topic
            });
            let steps = self.told(&id, &name, seen.taken, &mut messages);
            if watch.publish.contains(&Publish::Answer) {
                let event = Event {
                    id,
                    seq,
                    kind,
                    at: rfc3339(frame.at),
                    camera: watch.camera.clone(),
                    watch: watch.name.clone(),
                    answer: seen.answer,
                    model: self.engine.model(),
                    trigger: sight.cause.cloned(),
                    timing: seen.timing,
                    picture,
                    region: part.filter(|_| crop.is_some()).map(|part| part.fractions()),
                    crop,
                    steps,
                };
                messages.push(message(
                    &self.topics.event(),
                    Class::Event,
                    json(&Stamped {
                        payload: &event,
                        clock: self.clock.mark(),
                    }),
                    None,
                ));
            }
            messages
        });
        if let Err(e) = stored {
            tracing::error!(watch = watch.name, "the event is lost: {e}");
            return None;
        }
        self.metrics.event(&watch.name, kind.name());
        Some(given)
    }
}

fn log(sight: &Sight<'_>, e: &EngineError) {
    tracing::error!(watch = sight.watch.config.name, "{e}");
}
