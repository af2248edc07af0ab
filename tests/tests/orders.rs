//! Signed commands and configuration from afar, against a real mosquitto.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kinglet_agent::keys::PrivateKey;
use kinglet_agent::signed::Order;
use kinglet_tests::device::start;
use kinglet_tests::{Mosquitto, Viewer};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

const STATUS: &str = "kinglet/porch/status";
const EVENT: &str = "kinglet/porch/event";
const DRAW: &str = "kinglet/porch/command/draw";
const SET: &str = "kinglet/porch/command/set";
const DESIRED: &str = "kinglet/porch/shadow/desired";
const REPORTED: &str = "kinglet/porch/shadow/reported";

/// A device that looks every so often, with these lines in `[device]` and behind `[broker]`.
fn device(port: u16, when: &str, device: &str, lines: &str) -> TempDir {
    let broker = format!("url = \"mqtt://127.0.0.1:{port}\"\n{lines}");
    let folder = kinglet_tests::device(&broker, when);
    let path = folder.path().join("kinglet.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("[device]", &format!("[device]\n{device}"));
    std::fs::write(&path, text).unwrap();
    folder
}

/// One that obeys this key and believes this machine's clock.
fn guarded(port: u16, key: &PrivateKey) -> TempDir {
    let keys = format!("[commands]\nkeys = [\"{}\"]", key.public());
    device(port, "every:1h", "clock = \"system\"", &keys)
}

fn signed(key: &PrivateKey, to: &str, id: &str, args: &Value, seconds: i64) -> Vec<u8> {
    let expires = OffsetDateTime::now_utc() + Duration::from_secs(60);
    let expires = expires + time::Duration::seconds(seconds - 60);
    let mut order = Order::new(to, args.as_object().unwrap().clone(), expires).unwrap();
    order.id = Some(id.to_owned());
    order.sign(key).unwrap()
}

fn result(viewer: &Viewer, id: &str) -> Value {
    loop {
        let answer = viewer.json(&format!("kinglet/porch/result/{id}"));
        if answer["step"].is_null() {
            return answer;
        }
    }
}

fn refusal(viewer: &Viewer, id: &str) -> String {
    let answer = result(viewer, id);
    let error = answer["error"].as_str();
    error.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn a_signed_drawing_is_done_once_even_if_the_device_is_killed() {
    let broker = Mosquitto::start();
    let key = PrivateKey::generate().unwrap();
    let folder = guarded(broker.port, &key);
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());
    let status = viewer.json(STATUS);
    assert_eq!(status["clock"], Value::Null, "{status}");

    let args = json!({"prompt": "a cat", "steps": 1});
    let command = signed(&key, DRAW, "d1", &args, 60);
    viewer.send(DRAW, command.clone());
    viewer.wait("picture", |p| p.topic == "kinglet/porch/image/d1");
    assert_eq!(
        result(&viewer, "d1")["result"]["picture"],
        "kinglet/porch/image/d1"
    );
    viewer.send(DRAW, command.clone());
    assert!(refusal(&viewer, "d1").contains("replayed"));

    agent.kill();
    let agent = start(folder.path());
    while viewer.json(STATUS)["state"] != "online" {}
    viewer.send(DRAW, command);
    assert!(refusal(&viewer, "d1").contains("replayed"));

    // Each of these is refused in words, and answered.
    let plain = json!({"id": "u1", "args": args}).to_string();
    viewer.send(DRAW, plain);
    assert!(refusal(&viewer, "u1").contains("not signed"));
    let see = "kinglet/porch/command/see";
    viewer.send(see, signed(&key, DRAW, "u2", &json!({}), 60));
    assert!(refusal(&viewer, "u2").contains("it is for"));
    let group = "kinglet/group/doors/command/draw";
    viewer.send(DRAW, signed(&key, group, "u3", &args, 60));
    assert!(refusal(&viewer, "u3").contains("it is for"));
    viewer.send(DRAW, signed(&key, DRAW, "u4", &args, -1));
    assert!(refusal(&viewer, "u4").contains("expired"));
    viewer.send(DRAW, signed(&key, DRAW, "u5", &args, 7200));
    assert!(refusal(&viewer, "u5").contains("longest"));
    let other = PrivateKey::generate().unwrap();
    viewer.send(DRAW, signed(&other, DRAW, "u6", &args, 60));
    assert!(refusal(&viewer, "u6").contains("is no key"));
    viewer.keep(DESIRED, desired(1, &watch("?")));
    let refused = reported(&viewer, |r| !r["refused"].is_null());
    let reason = refused["refused"]["reason"].as_str().unwrap();
    assert!(reason.contains("not signed"), "{refused}");
    // And the device still obeys its key.
    viewer.send(group, signed(&key, group, "g1", &args, 60));
    viewer.wait("picture", |p| p.topic == "kinglet/porch/image/g1");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_device_that_does_not_know_the_time_says_so_and_obeys_nobody() {
    let broker = Mosquitto::start();
    let key = PrivateKey::generate().unwrap();
    let folder = guarded(broker.port, &key);
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    // It was switched off tomorrow: now is in its past, like the clock of a board without a battery.
    let tomorrow = OffsetDateTime::now_utc().unix_timestamp() + 86_400;
    let kept = kinglet_agent::state::State::open(&state.join("state.redb")).unwrap();
    kept.set("clock", &tomorrow).unwrap();
    drop(kept);
    let viewer = Viewer::connect(broker.port, "viewer");
    let _agent = start(folder.path());
    assert_eq!(viewer.json(STATUS)["clock"], "unsynchronised");
    assert_eq!(viewer.json(EVENT)["clock"], "unsynchronised");
    let args = json!({"prompt": "a cat", "steps": 1});
    viewer.send(DRAW, signed(&key, DRAW, "d1", &args, 60));
    let answer = result(&viewer, "d1");
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("clock: unsynchronised"), "{answer}");
    assert_eq!(answer["clock"], "unsynchronised");
}

fn watch(ask: &str) -> Value {
    json!({"watch": [{"name": "who", "camera": "door", "when": "every:200ms", "ask": ask}]})
}

fn desired(version: u64, config: &Value) -> Vec<u8> {
    json!({"version": version, "config": config})
        .to_string()
        .into_bytes()
}

/// The next report that is wanted.
fn reported(viewer: &Viewer, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut report = Value::Null;
    while !wanted(&report) {
        report = viewer.json(REPORTED);
    }
    report
}

/// Waits until the watch answers so: what was asked before may still come.
fn answers(viewer: &Viewer, wanted: impl Fn(&str) -> bool) {
    while !wanted(viewer.json(EVENT)["answer"].as_str().unwrap()) {}
}

const COLOURS: [&str; 8] = [
    "red", "green", "blue", "yellow", "gray", "white", "black", "orange",
];

#[test]
fn a_question_changes_while_the_device_runs_and_a_bad_one_leaves_the_last() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "every:200ms", "", "");
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());
    let first = reported(&viewer, |r| r["version"] == 0);
    let ask = &first["config"]["watch"][0]["ask"];
    assert_eq!(ask, "what is in the picture?");
    let colour = |answer: &str| COLOURS.contains(&answer);
    answers(&viewer, |answer| !colour(answer));

    let question = "what color is the background?";
    viewer.keep(DESIRED, desired(1, &watch(question)));
    let report = reported(&viewer, |r| r["version"] == 1);
    assert_eq!(report["config"]["watch"][0]["ask"], question);
    answers(&viewer, colour);

    viewer.keep(DESIRED, desired(2, &json!({"broker": {"url": "x"}})));
    let report = reported(&viewer, |r| !r["refused"].is_null());
    assert_eq!(
        (&report["version"], &report["refused"]["version"]),
        (&json!(1), &json!(2))
    );
    answers(&viewer, colour);

    // A camera is set, which alone starts anew; then a question again, by name.
    let changes = json!({"camera": [{"name": "door", "mask": [[0.0, 0.0, 0.02, 0.02]]}]});
    let command = json!({"id": "s1", "args": changes});
    viewer.send(SET, command.to_string());
    let answer = result(&viewer, "s1");
    assert_eq!(answer["result"]["version"], 3, "{answer}");
    viewer.send(
        SET,
        r#"{"id": "s2", "args": {"watch": [{"name": "who", "camera": "roof"}]}}"#,
    );
    assert!(refusal(&viewer, "s2").contains("roof"));
    answers(&viewer, colour);

    // The same after a restart, before the broker could have said anything.
    agent.kill();
    let agent = start(folder.path());
    while viewer.json(STATUS)["state"] != "online" {}
    let report = reported(&viewer, |r| r["version"] == 3);
    assert_eq!(report["config"]["watch"][0]["ask"], question);
    assert_eq!(report["config"]["camera"], changes["camera"]);
    answers(&viewer, colour);
    for _ in 0..5 {
        let answer = viewer.json(EVENT)["answer"].clone();
        assert!(colour(answer.as_str().unwrap()), "{answer}");
    }
    assert_eq!(agent.terminate(), Some(0));
}
