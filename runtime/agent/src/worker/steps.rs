//! Takes the steps that a watch allows, one after the other.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::look::Sight;
use super::{Worker, guarded, message, picture};
use crate::engine::{DrawRequest, Question};
use crate::frame::Frame;
use crate::message::{Stamped, json, rfc3339};
use crate::outbox::{Class, Message};
use crate::output::OutputState;
use crate::steps::{Action, Outcome, Step, Steps, Taken, chosen};

/// How long a newer frame is waited for.
const FRAME_WAIT: Duration = Duration::from_secs(5);

impl Worker {
    /// Lets the model choose step after step. What fails is told in the event; a choice that cannot be had,
    /// and being told to stop, end the steps.
    pub(super) fn steps(&self, steps: &Steps, sight: &Sight<'_>, answer: &Value) -> Vec<Taken> {
        let mut frame = Arc::new(sight.frame.clone());
        let mut taken: Vec<Taken> = Vec::new();
        while taken.len() < steps.max {
            let left = steps.left(&taken);
            if left.is_empty() {
                break;
            }
            let question = steps.question(&left, answer, &taken);
            let choice = self.see(&frame.picture, &question);
            let choice = choice.map_err(|e| e.to_string());
            match choice.and_then(|choice| chosen(&left, &choice)) {
                Ok(Some(action)) => {
                    let outcome = self.take(&action, sight, &mut frame);
                    taken.push(Taken { action, outcome });
                }
                Ok(None) => break,
                Err(e) => {
                    tracing::error!(watch = sight.watch.config.name, "no step: {e}");
                    break;
                }
            }
        }
        taken
    }

    fn take(
        &self,
        action: &Action,
        sight: &Sight<'_>,
        frame: &mut Arc<Frame>,
    ) -> Result<Outcome, String> {
        let watch = sight.watch;
        let ask = |frame: &Frame, region| {
            let question = Question {
                region,
                ..watch.question.clone()
            };
            let answer = self.see(&frame.picture, &question);
            answer.map(Outcome::Answer).map_err(|e| e.to_string())
        };
        match action {
            Action::Look(_, part) => {
                let region = part.pixels(frame.picture.width, frame.picture.height);
                ask(frame, Some(region))
            }
            Action::Snapshot => {
                let slot = self.slots.get(&watch.config.camera);
                let newer = slot.and_then(|slot| slot.newer_than(frame.number, FRAME_WAIT));
                *frame = newer.ok_or("the camera delivers no frame now")?;
                ask(frame, None)
            }
            Action::Publish => Ok(Outcome::Picture("image/jpeg", frame.picture.to_jpeg()?)),
            Action::Draw(prompt) => {
                let request = DrawRequest {
                    prompt: prompt.clone(),
                    ..DrawRequest::default()
                };
                let drawn = guarded(|| self.engine.draw(&request, &mut |_| self.go_on()));
                let png = drawn.map_err(|e| e.to_string())?.to_png()?;
                Ok(Outcome::Picture("image/png", png))
            }
            Action::Output { name, value } => {
                let output = self.outputs.iter().find(|o| o.name == *name);
                let output = output.ok_or("there is no such output")?;
                output.set(value)?;
                tracing::info!(output = name, value, "set");
                Ok(Outcome::Set)
            }
        }
    }

    /// The steps as the event `id` tells them. Pictures and outputs are messages of their own, before it.
    pub(super) fn told(
        &self,
        event: &str,
        name: &str,
        taken: Vec<Taken>,
        messages: &mut Vec<Message>,
    ) -> Vec<Step> {
        let mut tell = |(number, taken): (usize, Taken)| {
            let mut step = Step {
                action: taken.action.words(),
                answer: None,
                picture: None,
                error: None,
            };
            match (taken.outcome, taken.action) {
                (Ok(Outcome::Answer(answer)), _) => step.answer = Some(answer),
                (Ok(Outcome::Picture(content_type, bytes)), _) => {
                    let topic = self.topics.image(&format!("{name}-step{number}"));
                    messages.push(picture(&topic, content_type, false, bytes));
                    step.picture = Some(topic);
                }
                (Ok(Outcome::Set), Action::Output { name, value }) => {
                    messages.push(self.output(event, &name, value));
                }
                (Ok(Outcome::Set), _) => {}
                (Err(e), _) => step.error = Some(e),
            }
            step
        };
        (1..).zip(taken).map(&mut tell).collect()
    }

    /// The retained message of an output that was set.
    fn output(&self, event: &str, name: &str, value: String) -> Message {
        let state = OutputState {
            value,
            at: rfc3339(time::OffsetDateTime::now_utc()),
            event: event.to_owned(),
        };
        let payload = json(&Stamped {
            payload: &state,
            clock: self.clock.mark(),
        });
        let mut message = message(&self.topics.output(name), Class::Event, payload, None);
        message.header.retain = true;
        message
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use time::OffsetDateTime;

    use super::*;
    use crate::area::Area;
    use crate::engine::{Engine, EngineError, Form, ModelInfo, Progress};
    use crate::frame::Picture;
    use crate::slot::Slot;
    use crate::watch::Watch;
    use crate::worker::{Job, tests::worker};

    /// Chooses what it was told to choose, and answers other questions with the pixels that it was shown.
    struct Scripted {
        choices: Mutex<std::vec::IntoIter<&'static str>>,
        asked: Mutex<Vec<String>>,
    }

    impl Engine for Scripted {
        fn model(&self) -> ModelInfo {
            let (name, sha256) = ("scripted".to_owned(), String::new());
            ModelInfo { name, sha256 }
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
            if let Form::Schema(_) = question.form {
                self.asked.lock().unwrap().push(question.ask.clone());
                let choice = self.choices.lock().unwrap().next();
                let choice = choice.ok_or(EngineError::Cancelled)?;
                return Ok(Value::from(choice).to_string());
            }
            Ok(match question.region {
                Some(region) => format!("{} within {region:?}", picture.rgb[0]),
                None => format!("{}, set light to off", picture.rgb[0]),
            })
        }

        fn draw(&self, request: &DrawRequest, _: Progress<'_>) -> Result<Picture, EngineError> {
            match &request.prompt[..] {
                "a sign" => Ok(picture_of(9)),
                _ => Err(EngineError::Refused("it cannot draw that".to_owned())),
            }
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

    fn picture_of(light: u8) -> Picture {
        Picture {
            width: 8,
            height: 4,
            rgb: vec![light; 8 * 4 * 3].into(),
        }
    }

    fn frame(number: u64, light: u8) -> Frame {
        Frame {
            number,
            at: OffsetDateTime::UNIX_EPOCH,
            picture: picture_of(light),
        }
    }

    const ALLOW: &str =
        "allow = ['look', 'snapshot', 'publish', 'draw:a sign', 'draw:a king', 'output:light=on']";

    /// Everything that one look publishes, by topic, in order; and what the model was asked.
    fn published(choices: &[&'static str], folder: &Path) -> (Vec<(String, Vec<u8>)>, Vec<String>) {
        let choices: Vec<&str> = choices.to_vec();
        let engine = Arc::new(Scripted {
            choices: Mutex::new(choices.into_iter()),
            asked: Mutex::default(),
        });
        let mut worker = worker(Arc::clone(&engine) as Arc<dyn Engine>, folder);
        let slot = Slot::default();
        slot.put(frame(8, 50));
        worker.slots.insert("door".to_owned(), Arc::new(slot));
        let file = folder.join("light");
        std::fs::write(&file, "?").unwrap();
        let output = format!(
            "name = 'light'\nfile = '{}'\nvalues = {{ on = '1', off = '0' }}",
            file.display()
        );
        worker.outputs.push(toml::from_str(&output).unwrap());
        let text = format!(
            "name = 'who'\ncamera = 'door'\nwhen = 'motion'\nask = '?'\n[steps]\nask = 'Help.'\nmax = 6\n{ALLOW}"
        );
        let config = toml::from_str(&text).unwrap();
        let (sender, jobs) = channel();
        let job = Job::Look {
            watch: Arc::new(Watch::load(&config, folder).unwrap()),
            frame: Arc::new(frame(7, 40)),
            since: Instant::now(),
            part: None,
            again: false,
            cause: None,
        };
        sender.send(job).unwrap();
        drop(sender);
        worker.run(&jobs);
        let mut messages = Vec::new();
        while let Some((key, message)) = worker.outbox.first().unwrap() {
            messages.push((message.header.topic, message.payload));
            worker.outbox.remove(key).unwrap();
        }
        let asked = engine.asked.lock().unwrap().clone();
        (messages, asked)
    }

    fn steps(messages: &[(String, Vec<u8>)]) -> Value {
        let (topic, payload) = messages.last().unwrap();
        assert_eq!(topic, "kinglet/porch/event");
        serde_json::from_slice::<Value>(payload).unwrap()["steps"].clone()
    }

    #[test]
    fn steps_are_taken_told_and_published() {
        let folder = tempfile::tempdir().unwrap();
        let choices = [
            "look at the right half",
            "take a new picture",
            "publish the picture",
            "draw a sign",
            "draw a king",
            "set light to on",
            "nothing more",
        ];
        let (messages, asked) = published(&choices, folder.path());
        let topics: Vec<&str> = messages.iter().map(|(t, _)| &t[..]).collect();
        let expected = [
            "kinglet/porch/image/0-1-step3",
            "kinglet/porch/image/0-1-step4",
            "kinglet/porch/output/light",
            "kinglet/porch/event",
        ];
        assert_eq!(topics, expected);
        assert_eq!(
            Picture::decode(&messages[0].1).unwrap().rgb[0],
            50,
            "the new picture"
        );
        assert_eq!(
            Picture::decode(&messages[1].1).unwrap().rgb[0],
            9,
            "the drawing"
        );
        let set: Value = serde_json::from_slice(&messages[2].1).unwrap();
        assert_eq!(
            (&set["value"], &set["event"]),
            (&"on".into(), &"0-1".into())
        );
        let expected = serde_json::json!([
            {"do": "look at the right half", "answer": "40 within [4, 0, 4, 4]"},
            {"do": "take a new picture", "answer": "50, set light to off"},
            {"do": "publish the picture", "picture": "kinglet/porch/image/0-1-step3"},
            {"do": "draw a sign", "picture": "kinglet/porch/image/0-1-step4"},
            {"do": "draw a king", "error": "it cannot draw that"},
            {"do": "set light to on"},
        ]);
        assert_eq!(steps(&messages), expected);
        assert_eq!(asked.len(), 6, "six are the most");
        let known =
            r#"the picture: "40, set light to off"; the right half: "40 within [4, 0, 4, 4]". "#;
        assert!(asked[1].contains(known), "{}", asked[1]);
        assert_eq!(std::fs::read(folder.path().join("light")).unwrap(), b"1");
    }

    #[test]
    fn what_is_not_allowed_is_not_done_and_the_event_comes_all_the_same() {
        for choice in ["set light to off", "draw a queen", "rm -rf /", ""] {
            let folder = tempfile::tempdir().unwrap();
            let (messages, _) = published(&["look at the middle", choice], folder.path());
            assert_eq!(messages.len(), 1, "{choice}");
            let taken = steps(&messages);
            assert_eq!(taken.as_array().unwrap().len(), 1, "{choice}");
            assert_eq!(std::fs::read(folder.path().join("light")).unwrap(), b"?");
        }
        // Done at once: an event without steps.
        let folder = tempfile::tempdir().unwrap();
        assert!(steps(&published(&["nothing more"], folder.path()).0).is_null());
    }

    #[test]
    fn a_part_is_cropped_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Scripted {
            choices: Mutex::new(Vec::new().into_iter()),
            asked: Mutex::default(),
        };
        let worker = worker(Arc::new(engine), folder.path());
        let text = "name = 'who'\ncamera = 'door'\nwhen = 'motion'\nask = '?'\npublish = ['answer', 'crop']";
        let watch = Watch::load(&toml::from_str(text).unwrap(), folder.path()).unwrap();
        let watch = Arc::new(watch);
        let (sender, jobs) = channel();
        let part = Area {
            left: 0.25,
            top: 0.5,
            right: 1.0,
            bottom: 1.0,
        };
        for part in [None, Some(part)] {
            let job = Job::Look {
                watch: Arc::clone(&watch),
                frame: Arc::new(frame(7, 40)),
                since: Instant::now(),
                part,
                again: false,
                cause: None,
            };
            sender.send(job).unwrap();
        }
        drop(sender);
        worker.run(&jobs);
        let next = || {
            let (key, message) = worker.outbox.first().unwrap().unwrap();
            worker.outbox.remove(key).unwrap();
            (message.header.topic, message.payload)
        };
        let event = |payload: &[u8]| serde_json::from_slice::<Value>(payload).unwrap();
        // What moved is not known: nothing is cropped.
        let whole = event(&next().1);
        assert!(whole["crop"].is_null() && whole["region"].is_null());
        let (topic, jpeg) = next();
        assert_eq!(topic, "kinglet/porch/image/0-2-crop");
        let crop = Picture::decode(&jpeg).unwrap();
        assert_eq!((crop.width, crop.height), (6, 2));
        let told = event(&next().1);
        assert_eq!(told["crop"], topic);
        assert_eq!(told["region"], serde_json::json!([0.25, 0.5, 0.75, 0.5]));
    }
}
