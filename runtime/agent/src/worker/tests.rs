//! Frames of one brightness each, and an engine that knows nothing else.

use std::path::Path;
use std::sync::mpsc::channel;

use super::*;
use crate::clock;
use crate::config::WatchConfig;
use crate::engine::ModelInfo;
use crate::state::State;

/// Says yes about bright pictures, and to other questions how bright they are.
pub(crate) struct Brightness;

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

    fn edit(&self, _: &Picture, _: &DrawRequest, _: Progress<'_>) -> Result<Picture, EngineError> {
        Err(EngineError::Cancelled)
    }
}

/// A worker without cameras, whose state is in this folder.
pub(super) fn worker(engine: Arc<dyn Engine>, folder: &Path) -> Worker {
    let outbox = Outbox::open(&folder.join("outbox"), 1 << 20).unwrap();
    let state = State::open(&folder.join("state")).unwrap();
    let (clock, _) = clock::tests::fake(&Arc::new(state));
    Worker {
        engine,
        topics: Topics::new("porch"),
        slots: HashMap::new(),
        outputs: Vec::new(),
        watches: Arc::default(),
        outbox: Arc::new(outbox),
        progress: mpsc::channel(1).0,
        stopping: Arc::default(),
        pending: Arc::default(),
        clock: Arc::new(clock),
        pulse: Arc::default(),
        metrics: Arc::default(),
    }
}

fn frame(number: u64, light: u8) -> Arc<Frame> {
    Arc::new(Frame {
        number,
        at: OffsetDateTime::UNIX_EPOCH,
        picture: Picture {
            width: 1,
            height: 1,
            rgb: vec![light; 3].into(),
        },
    })
}

/// The events that frames of these brightnesses make, as (type, id, answer); a frame is looked at again where
/// `again` is true.
fn events(watch: &str, frames: &[(u8, bool)]) -> Vec<(String, String, String)> {
    events_until(watch, frames, false)
}

/// The same with a watch that may leave at the end.
fn events_until(watch: &str, frames: &[(u8, bool)], leaves: bool) -> Vec<(String, String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(Arc::new(Brightness), folder.path());
    let outbox = Arc::clone(&worker.outbox);
    let text = format!("name = 'day'\ncamera = 'door'\nask = 'how bright?'\n{watch}");
    let config: WatchConfig = toml::from_str(&text).unwrap();
    let watch = Arc::new(crate::watch::Watch::load(&config, folder.path()).unwrap());
    let (sender, jobs) = channel();
    for (number, (light, again)) in (1..).zip(frames) {
        let frame = frame(number, *light);
        let (watch, since, again) = (Arc::clone(&watch), Instant::now(), *again);
        let job = Job::Look {
            watch,
            frame,
            since,
            part: None,
            again,
            cause: None,
        };
        sender.send(job).unwrap();
    }
    if leaves {
        let frame = frame(99, 0);
        // A second one finds nothing to end.
        for _ in 0..2 {
            let (watch, frame) = (Arc::clone(&watch), Arc::clone(&frame));
            sender.send(Job::Leave { watch, frame }).unwrap();
        }
    }
    drop(sender);
    worker.run(&jobs);
    let mut events = Vec::new();
    while let Some((key, message)) = outbox.first().unwrap() {
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let text = |key: &str| event[key].as_str().unwrap().to_owned();
        events.push((text("type"), text("id"), text("answer")));
        assert_eq!(event["seq"], events.len());
        outbox.remove(key).unwrap();
    }
    events
}

fn named(events: &[(String, String, String)]) -> Vec<(&str, &str, &str)> {
    events
        .iter()
        .map(|e| (&e.0[..], &e.1[..], &e.2[..]))
        .collect()
}

#[test]
fn a_rule_in_words_makes_one_event_each_time_it_becomes_true() {
    // 255 holds, but its event fails: the next frame makes up for it.
    let frames = [0, 100, 120, 0, 0, 130, 0, 255, 140, 150].map(|light| (light, false));
    let made = events("when = 'says:\"it is bright\"'", &frames);
    let expected = [
        ("new", "0-1", "100"),
        ("new", "0-2", "130"),
        ("new", "0-3", "140"),
    ];
    assert_eq!(named(&made), expected);
}

#[test]
fn what_is_followed_has_updates_and_an_end_under_its_id() {
    let again = [
        (100, false),
        (100, true),
        (120, true),
        (255, true),
        (130, false),
        (130, true),
    ];
    let made = events("when = 'motion'\nfollow = '1s'", &again);
    let expected = [
        ("new", "0-1", "100"),
        ("update", "0-1", "120"),
        ("end", "0-1", "120"),
        ("new", "0-4", "130"),
    ];
    assert_eq!(named(&made), expected);

    let frames = [100, 100, 0, 0, 130].map(|light| (light, false));
    let made = events("when = 'says:\"it is bright\"'\nfollow = '1h'", &frames);
    let expected = [
        ("new", "0-1", "100"),
        ("end", "0-1", "100"),
        ("new", "0-3", "130"),
    ];
    assert_eq!(named(&made), expected);
}

#[test]
fn a_watch_that_leaves_ends_what_it_followed() {
    let frames = [(100, false), (120, true)];
    let watch = "when = 'motion'\nfollow = '10ms'";
    let made = events_until(watch, &frames, true);
    let expected = [
        ("new", "0-1", "100"),
        ("update", "0-1", "120"),
        ("end", "0-1", "120"),
    ];
    assert_eq!(named(&made), expected);
    let made = events_until("when = 'motion'", &frames[..1], true);
    assert_eq!(named(&made), [("new", "0-1", "100")]);
}

#[test]
fn a_watch_that_is_asked_looks_whatever_holds_it_back_and_leaves_what_it_follows() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = worker(Arc::new(Brightness), folder.path());
    let lines = "name = 'day'\ncamera = 'door'\nask = 'how bright?'\npublish = ['answer', 'picture']\n\
                 hours = ['mon 00:00-00:01']\nlimit = '1/d'\nwhen = 'motion'\nfollow = '1h'";
    let watch = crate::watch::Watch::load(&toml::from_str(lines).unwrap(), folder.path());
    let watch = Arc::new(watch.unwrap());
    worker.watches.set(vec![Arc::clone(&watch)]);
    let slot = Arc::new(Slot::default());
    worker.slots = HashMap::from([("door".to_owned(), Arc::clone(&slot))]);
    let (sender, jobs) = channel();
    let ask = |id: &str, name: &str, picture: Option<u8>| {
        let reply = ReplyTo {
            id: id.to_owned(),
            topic: None,
            correlation: None,
            clock: None,
        };
        let command = Box::new(Command {
            reply,
            expires: None,
            action: Action::Watch {
                name: name.to_owned(),
                picture: picture.map(|light| frame(1, light).picture.clone()),
            },
        });
        let since = Instant::now();
        sender.send(Job::Command { command, since }).unwrap();
    };
    let look = |number, light, again| {
        let job = Job::Look {
            watch: Arc::clone(&watch),
            frame: frame(number, light),
            since: Instant::now(),
            part: None,
            again,
            cause: None,
        };
        sender.send(job).unwrap();
    };
    slot.put(frame(1, 70).as_ref().clone());
    look(1, 50, false);
    ask("a", "day", None);
    ask("b", "day", Some(30));
    ask("b", "day", Some(30));
    ask("c", "night", None);
    ask("d", "day", Some(255));
    look(2, 60, true);
    drop(sender);
    worker.run(&jobs);
    let (mut events, mut replies, mut pictures) = (Vec::new(), Vec::new(), Vec::new());
    while let Some((key, message)) = worker.outbox.first().unwrap() {
        let topic = message.header.topic;
        if message.header.content_type == "image/jpeg" {
            pictures.push(topic);
        } else {
            let value: Value = serde_json::from_slice(&message.payload).unwrap();
            match &topic[..] {
                "kinglet/porch/event" => events.push(value),
                _ => replies.push(value),
            }
        }
        worker.outbox.remove(key).unwrap();
    }
    let short = |e: &Value| format!("{} {} {} {}", e["type"], e["id"], e["answer"], e["trigger"]);
    let events: Vec<String> = events.iter().map(short).collect();
    let expected = [
        r#""new" "0-1" "50" null"#,
        r#""new" "0-2" "70" {"command":"a"}"#,
        // Its id has the time of the command.
        &events[2],
        r#""update" "0-1" "60" null"#,
    ];
    assert_eq!(events, expected);
    assert!(events[2].contains(r#""30" {"command":"b","image":true}"#));
    assert_eq!(replies[0]["event"], "0-2");
    assert_eq!(replies[0]["result"]["answer"], "70");
    assert_eq!(replies[1], replies[2], "a repeat makes no second event");
    assert!(replies[3]["error"].as_str().unwrap().contains("night"));
    assert!(replies[4]["error"].as_str().unwrap().contains("bright"));
    // A picture that came with a command is not the camera's newest.
    let latest = |t: &&String| t.ends_with("/latest/day");
    assert_eq!(pictures.iter().filter(latest).count(), 3);
    assert_eq!(pictures.len(), 7);
}
