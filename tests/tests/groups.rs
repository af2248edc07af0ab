//! Groups that are changed from afar, against a real mosquitto.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kinglet_tests::device::start;
use kinglet_tests::{Mosquitto, Viewer, device};
use serde_json::{Value, json};

const STATUS: &str = "kinglet/porch/status";
const DESIRED: &str = "kinglet/porch/shadow/desired";
const REPORTED: &str = "kinglet/porch/shadow/reported";
/// What is not answered by then is not answered.
const SILENCE: Duration = Duration::from_secs(2);

/// Waits for a status with these groups.
fn joined(viewer: &Viewer, groups: &[&str]) {
    while viewer.json(STATUS)["groups"] != json!(groups) {}
}

/// Sets the groups; returns the answer.
fn set(viewer: &Viewer, id: &str, groups: &Value) -> Value {
    let payload = json!({"id": id, "args": {"device": {"groups": groups}}});
    viewer.send("kinglet/porch/command/set", payload.to_string());
    viewer.json(&format!("kinglet/porch/result/{id}"))
}

/// Asks a group.
fn ask(viewer: &Viewer, group: &str, id: &str) {
    let payload = json!({"id": id, "args": {"ask": "what is in the picture?"}});
    let topic = format!("kinglet/group/{group}/command/see");
    viewer.send(&topic, payload.to_string());
}

fn answers(viewer: &Viewer, group: &str, id: &str) {
    ask(viewer, group, id);
    let answer = viewer.json(&format!("kinglet/porch/result/{id}"));
    assert!(answer["result"]["answer"].is_string(), "{answer}");
}

fn is_silent(viewer: &Viewer, group: &str, id: &str) {
    ask(viewer, group, id);
    let topic = format!("kinglet/porch/result/{id}");
    assert!(
        viewer.nothing_for(SILENCE, |p| p.topic == topic.as_bytes()),
        "{group}"
    );
}

#[test]
fn a_device_joins_and_leaves_groups_from_afar() {
    let mut broker = Mosquitto::start();
    let port = broker.port;
    let viewer = Viewer::connect(port, "viewer");
    // A status may come before the answer to what it is about.
    let news = Viewer::connect(port, "news");
    let folder = device(&format!("url = \"{}\"", broker.url()), "every:1h");
    let agent = start(folder.path());
    joined(&news, &["doors"]);
    answers(&viewer, "doors", "a1");
    is_silent(&viewer, "gates", "a2");

    let done = set(&viewer, "s1", &json!(["gates", "garden"]));
    assert_eq!(done["result"]["version"], 1, "{done}");
    joined(&news, &["gates", "garden"]);
    answers(&viewer, "gates", "b1");
    answers(&viewer, "garden", "b2");
    is_silent(&viewer, "doors", "b3");

    // What cannot be is refused as a whole, and those from before stay.
    let many: Vec<String> = (0..33).map(|i| format!("g{i}")).collect();
    for (i, (groups, words)) in [
        (json!(["gates", "a/b"]), "device.groups"),
        (json!(["gates", "+"]), "device.groups"),
        (json!(["gates", "gates"]), "twice"),
        (json!(many), "one too many"),
        (json!("gates"), "device"),
    ]
    .iter()
    .enumerate()
    {
        let refused = set(&viewer, &format!("r{i}"), groups);
        let error = refused["error"].as_str().unwrap();
        assert!(error.contains(words), "{error}");
    }
    answers(&viewer, "gates", "c1");

    // They outlive the agent...
    agent.kill();
    let agent = start(folder.path());
    joined(&news, &["gates", "garden"]);
    answers(&viewer, "gates", "d1");
    is_silent(&viewer, "doors", "d2");
    // ... and the broker, which has forgotten everything.
    drop((viewer, news));
    drop(broker);
    broker = Mosquitto::on(port);
    let viewer = Viewer::connect(broker.port, "viewer");
    let news = Viewer::connect(broker.port, "news");
    joined(&news, &["gates", "garden"]);
    answers(&viewer, "garden", "e1");

    // A shadow says the same; and none at all.
    let desired =
        |version: u64, config: Value| json!({"version": version, "config": config}).to_string();
    viewer.keep(DESIRED, desired(2, json!({"device": {"groups": []}})));
    while viewer.json(REPORTED)["config"]["device"]["groups"] != json!([]) {}
    is_silent(&viewer, "gates", "f1");
    viewer.keep(
        DESIRED,
        desired(3, json!({"device": {"groups": ["attic"]}})),
    );
    joined(&news, &["attic"]);
    answers(&viewer, "attic", "f2");

    // A device that has forgotten its state is in the groups of its file; the broker still knows of the attic.
    assert_eq!(agent.terminate(), Some(0));
    viewer.keep(DESIRED, "");
    std::fs::remove_dir_all(folder.path().join("state")).unwrap();
    let agent = start(folder.path());
    joined(&news, &["doors"]);
    is_silent(&viewer, "attic", "g1");
    answers(&viewer, "doors", "g2");
    assert_eq!(agent.terminate(), Some(0));
}
