//! The first command of the README.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use kinglet_tests::{kinglet, program, truth};
use serde_json::Value;

#[test]
fn the_demo_sees_what_is_there_and_draws() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let output = kinglet(&["--json", "demo", "--events", "3"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let (code, stdout, stderr) = program::finished(output);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stderr, "", "it has nothing to complain about");
    assert!(started.elapsed() < Duration::from_secs(120));
    let result: Value = serde_json::from_str(&stdout).unwrap();
    let events = result["events"].as_array().unwrap();
    for (i, (event, answer)) in events.iter().zip(&truth()).enumerate() {
        assert_eq!(event["answer"], **answer);
        assert_eq!(event["seq"], i as u64 + 1);
    }
    assert!(events.len() >= 3);
    let png = std::fs::read(folder.path().join("kinglet-demo.png")).unwrap();
    kinglet_model::Picture::decode(&png).unwrap();
}

#[test]
fn a_broker_that_is_not_there_is_said_in_one_line() {
    let (code, stdout, stderr) =
        program::run(&["demo", "--events", "1", "--broker", "mqtt://127.0.0.1:1"]);
    assert_eq!((code, &*stdout), (1, ""));
    let line = stderr.lines().last().unwrap();
    assert!(
        line.starts_with("kinglet: ") && line.contains("127.0.0.1:1"),
        "{stderr}"
    );
}
