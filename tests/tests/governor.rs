//! A device that becomes hot: sensors of a test's own, a real broker.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use kinglet_tests::{Mosquitto, Running, Viewer, device, kinglet};
use serde_json::Value;

const STATUS: &str = "kinglet/porch/status";

/// The next status at this step.
fn step(viewer: &Viewer, step: &str) -> Value {
    loop {
        let status = viewer.json(STATUS);
        if status["governor"]["step"] == step {
            println!("{}", status["governor"]);
            return status;
        }
    }
}

#[test]
fn a_hot_device_does_less_and_says_so() {
    let broker = Mosquitto::start();
    let viewer = Viewer::connect(broker.port, "viewer");
    let news = Viewer::connect(broker.port, "news");
    let folder = device(&format!("url = \"{}\"", broker.url()), "every:1h");
    let zone = folder.path().join("sys/class/thermal/thermal_zone0");
    std::fs::create_dir_all(&zone).unwrap();
    let heat = |degrees: u32| std::fs::write(zone.join("temp"), format!("{degrees}000\n")).unwrap();
    heat(50);
    let config = folder.path().join("kinglet.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let root = folder.path().display();
    let governor = format!("[governor]\nroot = \"{root}\"\nquiet = \"1s\"\n");
    std::fs::write(&config, format!("{text}\n{governor}")).unwrap();
    let mut command = kinglet(&["run", "--config", &config.to_string_lossy()]);
    let agent = Running::start(&mut command);
    let draw = |id: &str, steps: usize| {
        let payload =
            format!(r#"{{"id": "{id}", "args": {{"prompt": "a red ball", "steps": {steps}}}}}"#);
        viewer.send("kinglet/porch/command/draw", payload);
        loop {
            let answer = viewer.json(&format!("kinglet/porch/result/{id}"));
            if answer["step"].is_null() || answer["step"] == answer["of"] {
                return answer;
            }
        }
    };
    step(&news, "full");
    assert_eq!(draw("cool", 8)["of"], 8);

    heat(81);
    let status = step(&news, "smaller pictures");
    assert_eq!(status["governor"]["why"], "81 degrees");
    assert_eq!(draw("warm", 8)["of"], 4, "half the steps");
    // Frames at a quarter of five a second.
    let frames = || {
        let started = Instant::now();
        let mut numbers = Vec::new();
        while started.elapsed() < Duration::from_secs(4) {
            viewer.send("kinglet/porch/command/snapshot", r#"{"args": {}}"#);
            let image = viewer.wait("a picture", |p| {
                p.topic.starts_with(b"kinglet/porch/image/")
            });
            if numbers.last() != Some(&image.payload) {
                numbers.push(image.payload);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        numbers.len()
    };
    let hot = frames();
    heat(90);
    step(&news, "no drawing");
    let refused = draw("hot", 8);
    assert_eq!(refused["error"], "drawing is paused: 90 degrees");
    viewer.send("kinglet/porch/command/see", r#"{"id": "look", "args": {}}"#);
    let seen = viewer.json("kinglet/porch/result/look");
    assert!(
        seen["result"]["answer"].is_string(),
        "seeing goes on: {seen}"
    );

    // It cools: step by step back to everything. Statuses that follow each other soon are one.
    heat(50);
    let mut steps = vec!["no drawing".to_owned()];
    while steps.last().is_none_or(|step| step != "full") {
        let status = news.json(STATUS);
        steps.extend(status["governor"]["step"].as_str().map(str::to_owned));
    }
    let ladder = ["no drawing", "smaller pictures", "fewer frames", "full"];
    let rungs = steps
        .iter()
        .map(|step| ladder.iter().position(|name| name == step));
    assert!(rungs.is_sorted(), "{steps:?}");
    let cool = frames();
    println!("pictures in 4 s: {hot} while hot, {cool} while cool");
    assert!(hot * 2 < cool);
    assert_eq!(draw("cool-again", 8)["of"], 8);
    assert_eq!(agent.terminate(), Some(0));
}
