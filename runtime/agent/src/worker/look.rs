//! Frames become events.

use std::time::Instant;

use serde_json::Value;

use super::{Worker, message, picture, timing};
use crate::config::Publish;
use crate::frame::Frame;
use crate::life::Life;
use crate::message::{Cause, Event, EventType, Stamped, Timing, json, rfc3339};
use crate::outbox::Class;
use crate::trigger::Turn;
use crate::watch::Watch;

impl Worker {
    /// A frame that a trigger has chosen: something new, or what has become of what was seen.
    pub(super) fn look(
        &self,
        life: &mut Life,
        watch: &Watch,
        frame: &Frame,
        since: Instant,
        again: bool,
        cause: Option<Cause>,
    ) {
        let turn = match &watch.condition {
            None if again => Turn::Stands,
            None => Turn::Rises,
            Some(rule) => match self.see(&frame.picture, rule) {
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
                self.end(life, watch, frame);
                match self.new_event(watch, frame, since, cause) {
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
            Turn::Stands => self.again(life, watch, frame, since),
            Turn::Falls => self.end(life, watch, frame),
        }
    }

    /// Makes an event of a frame. Returns its id and answer.
    fn new_event(
        &self,
        watch: &Watch,
        frame: &Frame,
        since: Instant,
        cause: Option<Cause>,
    ) -> Option<(String, Value)> {
        let said = self.ask(watch, frame, since)?;
        let answer = said.0.clone();
        let id = self.event(EventType::New, None, watch, frame, said, cause)?;
        Some((id, answer))
    }

    /// Looks again at what stands. Another answer is news.
    fn again(&self, life: &mut Life, watch: &Watch, frame: &Frame, since: Instant) {
        let Some(standing) = life.due(watch, Instant::now()) else {
            return;
        };
        let Some((answer, timing)) = self.ask(watch, frame, since) else {
            return;
        };
        standing.looked = Instant::now();
        let id = Some(&standing.id[..]);
        if answer != standing.answer
            && (self.event(
                EventType::Update,
                id,
                watch,
                frame,
                (answer.clone(), timing),
                None,
            ))
            .is_some()
        {
            standing.answer = answer;
        }
    }

    /// Ends the event that stands, if one does.
    pub(super) fn end(&self, life: &mut Life, watch: &Watch, frame: &Frame) {
        if let Some(standing) = &life.standing {
            let (id, answer) = (Some(&standing.id[..]), standing.answer.clone());
            let said = (answer, Timing::new());
            let ended = self.event(EventType::End, id, watch, frame, said, None);
            // One that could not be stored is tried again when the next one begins.
            if ended.is_some() {
                life.standing = None;
            }
        }
    }

    /// Asks a watch's question.
    fn ask(&self, watch: &Watch, frame: &Frame, since: Instant) -> Option<(Value, Timing)> {
        let started = Instant::now();
        match self.see(&frame.picture, &watch.question) {
            Ok(answer) => Some((answer, timing(since, started, "see"))),
            Err(e) => {
                tracing::error!(watch = watch.config.name, "{e}");
                None
            }
        }
    }

    /// Stores an event, with an id of its own if none is given, which is returned.
    pub(super) fn event(
        &self,
        kind: EventType,
        id: Option<&str>,
        watch: &Watch,
        frame: &Frame,
        (answer, timing): (Value, Timing),
        cause: Option<Cause>,
    ) -> Option<String> {
        let watch = &watch.config;
        // What did not come from the camera is not its newest picture.
        let foreign = matches!(cause, Some(Cause::Command { image: true, .. }));
        let wants = |what| watch.publish.contains(&what);
        let jpeg = if wants(Publish::Picture) && kind != EventType::End {
            frame.picture.to_jpeg().ok()
        } else {
            None
        };
        let mut given = String::new();
        let stored = self.outbox.store_event(|seq| {
            let new = || format!("{:x}-{seq}", frame.at.unix_timestamp());
            let id = id.map_or_else(new, str::to_owned);
            given.clone_from(&id);
            let mut messages = Vec::new();
            let picture = jpeg.map(|jpeg| {
                let topic = match kind {
                    EventType::New => self.topics.image(&id),
                    // A topic has one picture.
                    _ => self.topics.image(&format!("{id}-{seq}")),
                };
                messages.push(picture(&topic, "image/jpeg", false, jpeg.clone()));
                if !foreign {
                    let latest = self.topics.latest(&watch.name);
                    messages.push(picture(&latest, "image/jpeg", true, jpeg));
                }
                topic
            });
            if wants(Publish::Answer) {
                let event = Event {
                    id,
                    seq,
                    kind,
                    at: rfc3339(frame.at),
                    camera: watch.camera.clone(),
                    watch: watch.name.clone(),
                    answer,
                    model: self.engine.model(),
                    trigger: cause,
                    timing,
                    picture,
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
