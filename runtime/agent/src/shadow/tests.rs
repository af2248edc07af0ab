//! A device with one watch, whose threads do nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::*;
use crate::clock::tests::{Fake, fake};
use crate::config::{CommandsConfig, WatchConfig};
use crate::keys::PrivateKey;
use crate::operation::Cameras;
use crate::signed::Order;
use crate::worker::tests::Brightness;

const NOW: i64 = 1_800_000_000;
const TOPIC: &str = "kinglet/porch/shadow/desired";

struct Device {
    labels: Arc<Mutex<Vec<String>>>,
    shadow: Shadow,
    source: Fake,
    /// The questions that run.
    asked: Arc<Mutex<Vec<String>>>,
}

/// A device that keeps its state in `folder`, and obeys this key.
fn device(folder: &std::path::Path, key: Option<&PrivateKey>) -> Device {
    let mut own = Config::new("porch", "mqtt://127.0.0.1");
    let camera = crate::config::CameraConfig::new("door", "folder:a");
    own.camera.push(camera);
    own.watch
        .push(WatchConfig::new("who", "door", "motion", "first?"));
    own.commands = CommandsConfig {
        keys: key.map(|key| vec![key.public()]),
        ..CommandsConfig::default()
    };
    let state = Arc::new(State::open(&folder.join("state")).unwrap());
    let (clock, source) = fake(&state);
    source.set(NOW, true);
    let clock = Arc::new(clock);
    let ready = start(&own, folder, &Brightness, &state).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let saying = Arc::clone(&asked);
    let start_watch = Box::new(move |watch: Arc<Watch>, stop: Arc<AtomicBool>| {
        let (asked, ask) = (Arc::clone(&saying), watch.config.ask.clone());
        asked.lock().unwrap().push(ask.clone());
        Ok(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            asked.lock().unwrap().retain(|other| *other != ask);
        }))
    });
    let labels = Arc::new(Mutex::new(Vec::<String>::new()));
    let labelled = Arc::clone(&labels);
    // Without seats no camera is started.
    let crew = Crew::new(
        folder.to_owned(),
        Cameras::new(),
        Arc::default(),
        start_watch,
    );
    crew.set(&[], &ready.watches).unwrap();
    let orders = Orders::new(&own.commands, Arc::clone(&state), Arc::clone(&clock));
    let parts = Parts {
        folder: folder.to_owned(),
        engine: Arc::new(Brightness),
        state,
        clock,
        orders: Arc::new(orders.unwrap()),
        topics: Topics::new(&own.device.name),
        groups: Arc::default(),
        outbox: Arc::new(Outbox::open(&folder.join("outbox"), 1 << 20).unwrap()),
        metrics: Arc::default(),
        crew: Arc::new(crew),
        // One message a watch, and one a label.
        discovery: Box::new(move |config| {
            let named = |w: &WatchConfig| message(&w.name, json(&w.ask));
            let labels = labelled.lock().unwrap().clone();
            let labels = labels.iter().map(|label| message(label, json(&"")));
            config.watch.iter().map(named).chain(labels).collect()
        }),
        changed: Arc::default(),
        own,
    };
    let shadow = Shadow::new(parts, ready);
    Device {
        labels,
        shadow,
        source,
        asked,
    }
}

fn message(topic: &str, payload: Vec<u8>) -> Message {
    Message {
        header: Header {
            topic: topic.to_owned(),
            class: Class::Event,
            retain: true,
            content_type: String::new(),
            correlation: None,
        },
        payload,
    }
}

impl Device {
    fn reported(&self) -> Value {
        let retained = self.shadow.retained();
        serde_json::from_slice(&retained.last().unwrap().payload).unwrap()
    }

    /// Publishes what is desired; returns the version that runs and why it was refused.
    fn desire(&self, payload: impl Into<Vec<u8>>) -> (u64, Option<String>) {
        self.shadow.desired(payload.into());
        let reported = self.reported();
        let reason = reported["refused"]["reason"].as_str().map(str::to_owned);
        (reported["version"].as_u64().unwrap(), reason)
    }

    fn set(&self, id: &str, changes: &Value) -> Value {
        let reply = ReplyTo {
            id: id.to_owned(),
            topic: None,
            correlation: None,
            clock: None,
        };
        self.shadow.set(&reply, None, changes.as_object().unwrap());
        let last = self.sent().pop().unwrap();
        serde_json::from_slice(&last.1).unwrap()
    }

    /// What was stored to be sent: topics and payloads.
    fn sent(&self) -> Vec<(String, Vec<u8>)> {
        let outbox = &self.shadow.parts.outbox;
        let mut sent = Vec::new();
        while let Some((key, message)) = outbox.first_of(|_| true).unwrap() {
            outbox.remove(key).unwrap();
            sent.push((message.header.topic, message.payload));
        }
        sent
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn end(self) {
        self.shadow.parts.crew.stop();
    }
}

fn watch(ask: &str) -> Value {
    json!({"watch": [{"name": "who", "camera": "door", "when": "motion", "ask": ask}]})
}

fn desired(version: u64, config: &Value) -> String {
    json!({"version": version, "config": config}).to_string()
}

#[test]
fn the_last_good_one_runs_and_versions_only_grow() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(folder.path(), None);
    assert_eq!(device.reported()["config"]["watch"][0]["ask"], "first?");
    assert_eq!(device.desire(desired(5, &watch("second?"))), (5, None));
    assert_eq!(device.asked(), ["second?"]);
    let (version, reason) = device.desire(desired(4, &watch("old?")));
    assert!(version == 5 && reason.unwrap().contains("not above 5"));
    let (version, reason) = device.desire(desired(6, &json!({"watch": [{"name": "who"}]})));
    assert!(version == 5 && reason.unwrap().contains("camera"));
    let (version, reason) = device.desire("{");
    assert!(version == 5 && reason.unwrap().contains("understood"));
    assert_eq!(device.desire("").0, 5);
    let (_, reason) = device.desire(desired(1 << 53, &json!({})));
    assert!(reason.unwrap().contains("version"));
    let (_, reason) = device.desire(vec![b' '; LARGEST_SHADOW + 1]);
    assert!(reason.unwrap().contains("at most"));
    assert_eq!(device.asked(), ["second?"]);
    let refused = desired(7, &json!({"broker": {}}));
    assert!(device.desire(refused).1.unwrap().contains("broker"));
    device.end();

    // After a restart the same runs and the same is refused.
    let device = self::device(folder.path(), None);
    assert_eq!(device.asked(), ["second?"]);
    assert_eq!(device.reported()["version"], 5);
    assert_eq!(device.reported()["refused"]["version"], 7);
    // The version that was refused was never applied: it may be mended.
    assert_eq!(device.desire(desired(7, &watch("third?"))), (7, None));
    assert_eq!(device.desire(desired(8, &json!({}))), (8, None));
    assert_eq!(device.asked(), ["first?"], "the device's own");
    device.end();
}

#[test]
fn a_shadow_that_does_not_go_with_the_file_any_more_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let before = device(folder.path(), None);
    let camera = json!({"camera": [{"name": "door", "fps": 2}]});
    assert_eq!(before.desire(desired(3, &camera)), (3, None));
    before.end();
    let state = State::open(&folder.path().join("state")).unwrap();
    let mut own = Config::new("porch", "mqtt://127.0.0.1");
    let camera = crate::config::CameraConfig::new("roof", "folder:a");
    own.camera.push(camera);
    let ready = start(&own, folder.path(), &Brightness, &state).unwrap();
    assert_eq!(ready.config.camera[0].name, "roof");
    let refused = ready.kept.refused.unwrap();
    assert!(refused.version == Some(3) && refused.reason.contains("door"));
}

#[test]
fn a_command_changes_what_it_names_and_makes_a_version() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(folder.path(), None);
    device.desire(desired(5, &watch("second?")));
    let changes = json!({"watch": [{"name": "who", "ask": "third?"}]});
    assert_eq!(device.set("s1", &changes)["result"]["version"], 6);
    assert_eq!(device.asked(), ["third?"]);
    // The same command once more is answered and not done.
    assert_eq!(device.set("s1", &changes)["result"]["version"], 6);
    assert_eq!(device.reported()["version"], 6);
    let refused = device.set("s2", &json!({"watch": [{"name": "who", "when": "noon"}]}));
    assert!(refused["error"].as_str().unwrap().contains("noon"));
    // What the broker has kept comes again and says nothing new.
    assert_eq!(device.desire(desired(5, &watch("second?"))), (6, None));
    // One that was refused has its version for itself, and says nothing new when it comes again.
    assert!(
        device
            .desire(desired(8, &json!({"broker": {}})))
            .1
            .is_some()
    );
    assert_eq!(device.set("s3", &json!({}))["result"]["version"], 9);
    assert_eq!(device.desire(desired(8, &json!({"broker": {}}))), (9, None));
    assert_eq!(device.desire(desired(9, &watch("x"))).0, 9);
    assert_eq!(device.set("s4", &json!({}))["result"]["version"], 10);
    // An older one is no way back.
    assert!(device.desire(desired(5, &watch("second?"))).1.is_some());
    assert_eq!(device.asked(), ["third?"]);
    device.end();
}

#[test]
fn where_commands_are_signed_shadows_are_too() {
    let folder = tempfile::tempdir().unwrap();
    let key = PrivateKey::generate().unwrap();
    let device = device(folder.path(), Some(&key));
    let refused = device.desire(desired(1, &watch("second?"))).1.unwrap();
    assert!(refused.contains("not signed"), "{refused}");
    let kept: Option<Kept> = device.shadow.parts.state.get(NAME).unwrap();
    assert_eq!(kept, None, "not worth a write");

    let signed = |version, ask: &str, expires: i64| {
        let args = json!({"version": version, "config": watch(ask)});
        let expires = OffsetDateTime::from_unix_timestamp(expires).unwrap();
        let args = args.as_object().unwrap().clone();
        Order::new(TOPIC, args, expires)
            .unwrap()
            .sign(&key)
            .unwrap()
    };
    let far = NOW + 86_400 * 365;
    device.source.set(0, false);
    let refused = device.desire(signed(1, "second?", far)).1.unwrap();
    assert!(refused.contains("unsynchronised"), "{refused}");
    // It is not forgotten.
    device.source.set(NOW, true);
    let (sender, changes) = std::sync::mpsc::channel();
    sender.send(Change::Clock).unwrap();
    drop(sender);
    device.shadow.run(&changes);
    assert_eq!(device.reported()["version"], 1);
    assert_eq!(device.asked(), ["second?"]);
    // It may stay on the broker and come again, even when it has expired.
    let again = signed(2, "third?", NOW + 10);
    assert_eq!(device.desire(again.clone()), (2, None));
    device.source.set(NOW + 20, true);
    assert_eq!(device.desire(again), (2, None));
    let refused = device.desire(signed(3, "late?", NOW + 15)).1.unwrap();
    assert!(refused.contains("expired"), "{refused}");
    device.end();
}

#[test]
fn what_others_know_of_the_watches_follows() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(folder.path(), None);
    assert_eq!(device.shadow.retained()[0], message("who", json(&"first?")));
    device.desire(desired(1, &watch("second?")));
    let sent = device.sent();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[1], ("who".to_owned(), json(&"second?")));
    device.desire(desired(2, &json!({"watch": []})));
    assert_eq!(device.sent()[1], ("who".to_owned(), Vec::new()));
    assert_eq!(device.shadow.watches(), Vec::<String>::new());
    // Another model may be known by another name.
    device.shadow.announce();
    assert_eq!(device.sent(), []);
    device.labels.lock().unwrap().push("new model".to_owned());
    device.shadow.announce();
    assert_eq!(device.sent(), [("new model".to_owned(), json(&""))]);
    device.end();
}
