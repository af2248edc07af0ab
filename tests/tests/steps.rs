//! What a watch may do about what it saw, with the bundled model behind it. The model was never trained to
//! choose: what it chooses means nothing here, that it can choose nothing else does.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::HashMap;

use kinglet_agent::Picture;
use kinglet_tests::{Mosquitto, Running, Viewer, conforms, device, kinglet};
use serde_json::Value;

const EVENT: &str = "kinglet/porch/event";

const ALLOWED: [&str; 9] = [
    "look at the left half",
    "look at the right half",
    "look at the upper half",
    "look at the lower half",
    "look at the middle",
    "take a new picture",
    "publish the picture",
    "draw a red circle",
    "set light to on",
];

#[test]
fn a_watch_does_what_it_may_and_tells_it() {
    let broker = Mosquitto::start();
    let folder = device(
        &format!("url = \"mqtt://127.0.0.1:{}\"", broker.port),
        "motion",
    );
    let file = folder.path().join("kinglet.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text = text.replace("\"picture\"", "\"picture\", \"crop\"");
    text.push_str(
        "\n[watch.steps]\nask = \"what is in the picture?\"\nmax = 12\nallow = [\"look\", \"snapshot\", \"publish\", \"draw:a red circle\", \"output:light=on\"]\n\n[[output]]\nname = \"light\"\nfile = \"light\"\nvalues = { on = \"1\", off = \"0\" }\n",
    );
    std::fs::write(&file, text).unwrap();
    let light = folder.path().join("light");
    std::fs::write(&light, "0").unwrap();
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = Running::start(&mut kinglet(&["run", "--config", &file.to_string_lossy()]));

    let (mut steps, mut set) = (0, false);
    for seq in 1..=3 {
        // Pictures and outputs come before the event that tells of them.
        let earlier = RefCell::new(HashMap::new());
        let publish = viewer.wait("an event", |p| {
            earlier.borrow_mut().insert(
                String::from_utf8(p.topic.to_vec()).unwrap(),
                p.payload.clone(),
            );
            p.topic == EVENT
        });
        let earlier = earlier.into_inner();
        let picture = |topic: &Value| Picture::decode(&earlier[topic.as_str().unwrap()]).unwrap();
        let event: Value = serde_json::from_slice(&publish.payload).unwrap();
        conforms(EVENT, &event);
        assert_eq!(event["seq"], seq);
        let id = event["id"].as_str().unwrap();
        // Only from the second scene on it is known what has changed.
        assert_eq!(event.get("crop").is_some(), seq > 1, "{event}");
        if seq > 1 {
            assert_eq!(event["crop"], format!("kinglet/porch/image/{id}-crop"));
            let region = serde_json::from_value::<[f64; 4]>(event["region"].clone()).unwrap();
            let (crop, whole) = (picture(&event["crop"]), picture(&event["picture"]));
            for (part, of, fraction) in [
                (crop.width, whole.width, region[2]),
                (crop.height, whole.height, region[3]),
            ] {
                let off = f64::from(part) / f64::from(of) - fraction;
                assert!(off.abs() < 0.02, "{part} of {of} is not {fraction}");
            }
        }
        let taken = event["steps"].as_array().cloned().unwrap_or_default();
        assert!(taken.len() <= 12);
        for step in taken {
            steps += 1;
            let done = step["do"].as_str().unwrap();
            assert!(ALLOWED.contains(&done), "{done}");
            assert_eq!(step.get("error"), None);
            if step.get("picture").is_some() {
                picture(&step["picture"]);
            }
            if done.starts_with("set") {
                set = true;
                let state = &earlier["kinglet/porch/output/light"];
                let state: Value = serde_json::from_slice(state).unwrap();
                conforms("kinglet/porch/output/light", &state);
                assert_eq!(
                    (&state["value"], &state["event"]),
                    (&Value::from("on"), &event["id"])
                );
            }
        }
    }
    println!("steps: {steps} in three events; light {set}");
    assert_eq!(
        std::fs::read_to_string(&light).unwrap(),
        if set { "1" } else { "0" }
    );
    assert!(steps > 0, "it chose to do nothing at all");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn an_output_that_does_not_exist_is_refused_before_anything_runs() {
    let folder = device("url = \"mqtt://127.0.0.1:1\"", "motion");
    let file = folder.path().join("kinglet.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let steps = "\n[watch.steps]\nask = \"Help.\"\nallow = [\"output:light=on\"]\n";
    std::fs::write(&file, text + steps).unwrap();
    let refused = kinglet(&["run", "--config", &file.to_string_lossy()])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("output:light=on"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}
