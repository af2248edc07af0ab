//! `kinglet run` against a real broker.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use base64::Engine;
use kinglet_tests::device::start;
use kinglet_tests::{Mosquitto, Running, SHOWN, Viewer, broker, kinglet, scene, truth};
use serde_json::{Value, json};
use tempfile::TempDir;

fn device(port: u16, when: &str) -> TempDir {
    kinglet_tests::device(&format!("url = \"mqtt://127.0.0.1:{port}\""), when)
}

const STATUS: &str = "kinglet/porch/status";
const EVENT: &str = "kinglet/porch/event";

fn event(viewer: &Viewer) -> Value {
    viewer.json(EVENT)
}

#[test]
fn a_frame_becomes_an_answer_and_numbers_go_on_after_a_kill() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "motion");
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());

    let status = viewer.json(STATUS);
    assert_eq!(status["state"], "online");
    assert_eq!(status["model"]["name"], "kinglet-tiny");
    let mut next = 1;
    for expected in &truth()[..3] {
        let event = event(&viewer);
        assert_eq!(event["answer"], **expected);
        assert_eq!(event["seq"], next);
        assert_eq!(
            (&event["type"], &event["watch"]),
            (&json!("new"), &json!("who"))
        );
        let id = event["id"].as_str().unwrap();
        assert_eq!(event["picture"], format!("kinglet/porch/image/{id}"));
        next += 1;
    }

    // The broker notices and says so in the device's name.
    agent.kill();
    assert_eq!(viewer.json(STATUS)["state"], "offline");
    let late = Viewer::connect(broker.port, "late viewer");
    assert_eq!(
        late.json(STATUS)["state"],
        "offline",
        "the status is retained"
    );

    // What was stored before the kill may come now; then the numbers go on without a gap.
    let agent = start(folder.path());
    assert_eq!(viewer.json(STATUS)["state"], "online");
    for _ in 0..2 {
        let seq = event(&viewer)["seq"].as_u64().unwrap();
        assert!(
            seq == next || seq + 1 == next,
            "{seq} is neither new nor a repeat"
        );
        next = next.max(seq + 1);
    }
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(viewer.json(STATUS)["state"], "offline");
}

#[test]
fn a_scene_that_is_followed_ends_when_another_one_takes_its_place() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "motion");
    let file = folder.path().join("kinglet.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("\nfollow = '1h'\nlimit = '3/h'\n");
    std::fs::write(&file, text).unwrap();
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());

    let truth = truth();
    let mut id = Value::Null;
    for (i, kind) in ["new", "end", "new", "end", "new"].into_iter().enumerate() {
        let event = event(&viewer);
        assert_eq!(event["type"], kind);
        assert_eq!(event["seq"], i + 1);
        assert_eq!(event["answer"], *truth[i / 2]);
        assert_eq!(event["id"] == id, kind == "end");
        assert_eq!(event.get("picture").is_some(), kind == "new");
        id = event["id"].clone();
    }
    // Three new events are all that there may be in an hour.
    assert!(viewer.nothing_for(Duration::from_secs(5), |p| p.topic == EVENT));
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_rule_in_words_makes_an_event_when_the_model_says_yes() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, r#"says:\"is there a penguin?\" every:300ms"#);
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());
    // A cat and a bus come before it in the clip; it may still be coming, and the bus leaving, when it is seen.
    let answer = event(&viewer)["answer"].to_string();
    assert!(answer.contains("a penguin"), "{answer}");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn events_wait_on_disk_for_a_broker_that_is_not_there_yet() {
    let port = broker::free_port();
    let folder = device(port, "every:200ms");
    let agent = start(folder.path());
    // Long enough for some events; nobody takes them.
    let outbox = folder.path().join("state/outbox.redb");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !outbox.exists() {
        assert!(Instant::now() < deadline, "there is no outbox");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    agent.kill();

    let broker = Mosquitto::on(port);
    let viewer = Viewer::connect(broker.port, "viewer");
    let _agent = start(folder.path());
    for expected in 1..=8 {
        assert_eq!(event(&viewer)["seq"], expected);
    }
}

#[test]
fn after_a_broker_died_the_events_go_on_without_a_gap() {
    let broker = Mosquitto::start();
    let port = broker.port;
    let folder = device(port, "every:100ms");
    let viewer = Viewer::connect(port, "viewer");
    let _agent = start(folder.path());
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(event(&viewer)["seq"].as_u64().unwrap());
    }
    drop(viewer);
    drop(broker);
    std::thread::sleep(Duration::from_secs(1));
    let broker = Mosquitto::on(port);
    // Whatever was acknowledged between the last look and the broker's end is gone with the broker,
    // which keeps nothing on disk here; what comes now must continue without a gap.
    let viewer = Viewer::connect(broker.port, "viewer");
    let first = event(&viewer)["seq"].as_u64().unwrap();
    assert!(first >= *seen.last().unwrap());
    let mut last = first;
    for _ in 0..10 {
        let seq = event(&viewer)["seq"].as_u64().unwrap();
        assert!(
            seq == last + 1 || seq == last,
            "{last} is followed by {seq}"
        );
        last = seq;
    }
}

#[test]
fn a_broker_that_refuses_is_named_and_does_not_end_the_agent() {
    let broker = Mosquitto::with(broker::free_port(), "allow_anonymous false");
    let folder = device(broker.port, "every:1h");
    let config = folder.path().join("kinglet.toml");
    let log = folder.path().join("log");
    let mut command = kinglet(&["run", "--config", &config.to_string_lossy()]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let agent = Running::start(&mut command);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains("refuses this device: NotAuthorized") {
            break;
        }
        assert!(Instant::now() < deadline, "it says only {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_drawing_is_asked_for_watched_and_delivered() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "every:1h");
    let viewer = Viewer::connect(broker.port, "viewer");
    let _agent = start(folder.path());
    viewer.json(STATUS);

    let payload = r#"{"id": "d1", "args": {"prompt": "a cat on a blue background", "steps": 6, "seed": 1, "preview": true}}"#;
    viewer.ask("kinglet/porch/command/draw", payload, "answers/d1", b"me");
    let mut steps = Vec::new();
    let mut picture = None;
    let result = loop {
        let message = viewer.wait("answer", |p| {
            p.topic.starts_with(b"answers/") || p.topic.ends_with(b"/image/d1")
        });
        if message.topic == "kinglet/porch/image/d1" {
            picture = Some(message.payload);
            continue;
        }
        let correlation = message.properties.unwrap().correlation_data;
        assert_eq!(correlation.as_deref(), Some(&b"me"[..]));
        let answer: Value = serde_json::from_slice(&message.payload).unwrap();
        match answer["step"].as_u64() {
            Some(step) => {
                assert_eq!(answer["of"], 6);
                let preview = answer["preview"].as_str().expect("it was asked for");
                let preview = base64::engine::general_purpose::STANDARD.decode(preview);
                let preview = kinglet_model::Picture::decode(&preview.unwrap()).unwrap();
                assert_eq!((preview.width(), preview.height()), (14, 14));
                steps.push(step);
            }
            None => break answer,
        }
    };
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert_eq!(result["result"]["picture"], "kinglet/porch/image/d1");
    let png = picture.expect("the picture comes before the result that names it");
    let picture = kinglet_model::Picture::decode(&png).unwrap();
    assert_eq!((picture.width(), picture.height()), (112, 112));

    // A repeat is answered again, and not done again: the same result, without progress.
    viewer.ask("kinglet/porch/command/draw", payload, "answers/d1", b"me");
    let again = viewer.wait("second answer", |p| p.topic.starts_with(b"answers/"));
    assert_eq!(
        serde_json::from_slice::<Value>(&again.payload).unwrap(),
        result
    );
}

#[test]
fn questions_are_answered_about_the_camera_and_about_a_picture() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "every:1h");
    let viewer = Viewer::connect(broker.port, "viewer");
    let _agent = start(folder.path());
    // The first event says that the camera has delivered.
    event(&viewer);

    viewer.send(
        "kinglet/group/doors/command/see",
        r#"{"id": "q1", "args": {"ask": "what color is the background?"}}"#,
    );
    assert_eq!(
        viewer.json("kinglet/porch/result/q1")["result"]["answer"],
        "gray"
    );

    let scene = std::fs::read(scene()).unwrap();
    let image = base64::engine::general_purpose::STANDARD.encode(scene);
    let payload = json!({ "id": "q2", "args": { "image": image } }).to_string();
    viewer.send("kinglet/porch/command/see", payload);
    assert_eq!(
        viewer.json("kinglet/porch/result/q2")["result"]["answer"],
        SHOWN
    );
}

#[test]
fn a_watch_looks_when_it_is_asked() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "command");
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());
    viewer.json(STATUS);
    assert!(viewer.nothing_for(Duration::from_secs(2), |p| p.topic == EVENT));

    let url = broker.url();
    let see = ["fleet", "see", "porch", "--watch", "who", "--broker", &url];
    let (code, answer, errors) = kinglet_tests::program::run(&see);
    assert_eq!((code, &errors[..]), (0, ""));
    let asked = event(&viewer);
    assert_eq!(asked["answer"], answer.trim());
    assert_eq!((&asked["type"], &asked["seq"]), (&json!("new"), &json!(1)));
    assert!(asked["trigger"]["command"].is_string());
    let id = asked["id"].as_str().unwrap();
    assert_eq!(asked["picture"], format!("kinglet/porch/image/{id}"));

    let scene = std::fs::read(scene()).unwrap();
    let image = base64::engine::general_purpose::STANDARD.encode(scene);
    let args = json!({ "watch": "who", "image": image });
    let payload = json!({ "id": "q1", "args": args }).to_string();
    viewer.send("kinglet/porch/command/see", payload);
    let asked = event(&viewer);
    assert_eq!(asked["answer"], SHOWN);
    assert_eq!(asked["trigger"], json!({ "command": "q1", "image": true }));
    let reply = viewer.json("kinglet/porch/result/q1");
    assert_eq!(reply["event"], asked["id"]);
    assert_eq!(reply["result"]["answer"], SHOWN);

    let (code, _, errors) =
        kinglet_tests::program::run(&[&see[..4], &["what", "--broker", &url]].concat());
    assert_eq!(code, 1);
    assert!(errors.contains("what"), "{errors}");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_drawing_is_looked_at_and_drawn_again() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "every:1h");
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());
    viewer.json(STATUS);
    let draw = |id: &str, prompt: &str| {
        let args = format!(r#""prompt": "{prompt}", "steps": 4, "seed": 3, "tries": 3"#);
        let payload = format!(r#"{{"id": "{id}", "args": {{{args}}}}}"#);
        viewer.send("kinglet/porch/command/draw", payload);
        loop {
            let reply = viewer.json(&format!("kinglet/porch/result/{id}"));
            assert_eq!(reply.get("error"), None);
            match reply.get("result") {
                Some(_) => return reply["check"].clone(),
                None => assert_eq!(reply["of"], 12, "the steps of all tries"),
            }
        }
    };
    // What it draws it recognizes; what it cannot draw it tries as often as it may.
    let check = draw("can", "an apple on a blue background");
    assert_eq!((&check["tries"], &check["shown"]), (&json!(1), &json!(1.0)));
    let check = draw("cannot", "a xylophone");
    assert_eq!((&check["tries"], &check["shown"]), (&json!(3), &json!(0.0)));
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_drawing_is_called_off_whether_it_waits_or_is_being_done() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "every:1h");
    let viewer = Viewer::connect(broker.port, "viewer");
    let _agent = start(folder.path());
    viewer.json(STATUS);

    for id in ["first", "second"] {
        let long = format!(r#"{{"id": "{id}", "args": {{"prompt": "a cat", "steps": 900}}}}"#);
        viewer.send("kinglet/porch/command/draw", long);
    }
    viewer.json("kinglet/porch/result/first");
    // Messages come in order: the second one waits now.
    for (id, of) in [("c1", "second"), ("c2", "first")] {
        let cancel = format!(r#"{{"id": "{id}", "args": {{"id": "{of}"}}}}"#);
        viewer.send("kinglet/porch/command/cancel", cancel);
        let answer = viewer.json(&format!("kinglet/porch/result/{id}"));
        assert_eq!(answer["result"]["cancelled"], of);
    }
    for id in ["first", "second"] {
        let topic = format!("kinglet/porch/result/{id}");
        let answer = loop {
            let answer = viewer.json(&topic);
            if answer["step"].is_null() {
                break answer;
            }
        };
        assert_eq!(answer["error"], "cancelled");
    }
    // Nothing is left to be called off, and the device goes on.
    viewer.send(
        "kinglet/porch/command/cancel",
        r#"{"id": "c3", "args": {"id": "first"}}"#,
    );
    let answer = viewer.json("kinglet/porch/result/c3");
    assert!(
        answer["error"].as_str().unwrap().contains("first"),
        "{answer}"
    );
    viewer.send(
        "kinglet/porch/command/draw",
        r#"{"id": "d", "args": {"prompt": "a cat", "steps": 1}}"#,
    );
    viewer.wait("picture", |p| p.topic == "kinglet/porch/image/d");
}

#[test]
fn a_snapshot_is_the_newest_frame() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "every:1h");
    let viewer = Viewer::connect(broker.port, "viewer");
    let _agent = start(folder.path());
    // The first event says that the camera has delivered.
    event(&viewer);
    viewer.send(
        "kinglet/porch/command/snapshot",
        r#"{"id": "s1", "args": {"camera": "door"}}"#,
    );
    let picture = viewer.wait("picture", |p| p.topic == "kinglet/porch/image/s1");
    let picture = kinglet_model::Picture::decode(&picture.payload).unwrap();
    assert_eq!((picture.width(), picture.height()), (112, 112));
    let answer = viewer.json("kinglet/porch/result/s1");
    assert_eq!(answer["result"]["picture"], "kinglet/porch/image/s1");
    viewer.send(
        "kinglet/porch/command/snapshot",
        r#"{"id": "s2", "args": {"camera": "roof"}}"#,
    );
    let answer = viewer.json("kinglet/porch/result/s2");
    assert!(
        answer["error"].as_str().unwrap().contains("roof"),
        "{answer}"
    );
}

#[test]
fn hostile_commands_are_answered_in_words_even_during_a_long_drawing() {
    let broker = Mosquitto::start();
    let folder = device(broker.port, "every:1h");
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());
    viewer.json(STATUS);

    let long = r#"{"id": "long", "args": {"prompt": "a cat", "steps": 900}}"#;
    viewer.send("kinglet/porch/command/draw", long);
    viewer.json("kinglet/porch/result/long");

    // These are answered at once, though the model is busy for a while.
    let error = |id: &str| {
        let answer = viewer.json(&format!("kinglet/porch/result/{id}"));
        answer["error"].as_str().unwrap().to_owned()
    };
    let large = format!(
        r#"{{"id": "h1", "args": {{"prompt": "{}"}}}}"#,
        "a".repeat(1 << 20)
    );
    viewer.send("kinglet/porch/command/draw", large);
    assert!(error("h1").contains("prompt"));
    viewer.send("kinglet/porch/command/sing", r#"{"id": "h2"}"#);
    assert!(error("h2").contains("sing"));
    viewer.send(
        "kinglet/porch/command/draw",
        r#"{"id": "h3", "args": {"prompt": "a", "x": 1}}"#,
    );
    assert!(error("h3").contains('x'));
    viewer.send(
        "kinglet/porch/command/see",
        r#"{"id": "h4", "args": {"image": "AAAA"}}"#,
    );
    assert!(error("h4").contains("image"));
    // Without an id the device makes one.
    for garbage in [&b""[..], b"\xff\xfe", b"[[[[[[[[", b"{}"] {
        viewer.send("kinglet/porch/command/draw", garbage);
        let answer = viewer.wait("refusal", |p| {
            p.topic.starts_with(b"kinglet/porch/result/c")
        });
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer["error"].is_string());
    }
    let step = viewer.json("kinglet/porch/result/long");
    assert!(
        step["step"].as_u64().unwrap() < 900,
        "the drawing is still going on"
    );

    // Being told to end gives the drawing up.
    assert_eq!(agent.terminate(), Some(0));
}
