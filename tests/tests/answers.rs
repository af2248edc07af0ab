//! Answers that keep to a JSON Schema, from outside.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use kinglet_tests::{Mosquitto, Running, Viewer, device, kinglet, program};
use serde_json::{Value, json};

const SCHEMA: &str = r#"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "what": { "type": "string", "maxLength": 20 },
        "count": { "type": "integer", "minimum": 0, "maximum": 9 },
        "colour": { "enum": ["red", "green", "blue", "other"] }
    },
    "required": ["what", "count", "colour"]
}"#;

fn valid(answer: &Value) {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    if let Err(e) = jsonschema::validator_for(&schema).unwrap().validate(answer) {
        panic!("{answer}: {e}");
    }
}

fn scene() -> String {
    kinglet_tests::scene().to_string_lossy().into_owned()
}

fn put(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn see_prints_json_that_the_schema_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let schema = put(folder.path(), "who.json", SCHEMA);
    let (code, stdout, stderr) = program::run(&["see", &scene(), "--schema", &schema]);
    assert_eq!((code, &stderr[..]), (0, ""));
    valid(&serde_json::from_str(&stdout).unwrap());
    // With --json the answer is the object, not a text that holds it.
    let (code, stdout, _) = program::run(&["see", &scene(), "--schema", &schema, "--json"]);
    assert_eq!(code, 0);
    let result: Value = serde_json::from_str(&stdout).unwrap();
    valid(&result["answer"]);
}

#[test]
fn a_schema_that_cannot_be_kept_to_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    for (schema, words) in [
        ("{", "no JSON"),
        (
            r#"{"type": "string", "pattern": "a+"}"#,
            "\"pattern\" is not supported",
        ),
        (
            r#"{"$ref": "https://example.org/who.json"}"#,
            "another document",
        ),
        (
            r#"{"type": "object", "properties": {"a": {"type": "string", "maxLength": 4000}}}"#,
            "longest answer has",
        ),
    ] {
        let path = put(folder.path(), "bad.json", schema);
        let (code, stdout, stderr) = program::run(&["see", &scene(), "--schema", &path]);
        assert_eq!((code, &stdout[..]), (1, ""), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.contains("bad.json") && stderr.contains(words),
            "{stderr}"
        );
    }
    let (code, _, stderr) = program::run(&["see", &scene(), "--schema", "nowhere.json"]);
    assert!(code == 1 && stderr.contains("nowhere.json"), "{stderr}");
    let good = put(folder.path(), "who.json", SCHEMA);
    let (code, _, _) = program::run(&["see", &scene(), "--schema", &good, "--think"]);
    assert_eq!(code, 2, "thinking is no JSON");
}

/// A device whose watch has these lines too.
fn watching(port: u16, when: &str, lines: &str) -> tempfile::TempDir {
    let folder = device(&format!("url = \"mqtt://127.0.0.1:{port}\""), when);
    let path = folder.path().join("kinglet.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n{lines}\n")).unwrap();
    folder
}

fn agent(folder: &Path) -> std::process::Command {
    kinglet(&[
        "run",
        "--config",
        &folder.join("kinglet.toml").to_string_lossy(),
    ])
}

#[test]
fn events_and_results_carry_the_object() {
    let broker = Mosquitto::start();
    let lines = "schema = \"who.json\"\n[[watch.example]]\npicture = \"x.png\"\nanswer = { what = \"a suitcase\", count = 1, colour = \"other\" }";
    let folder = watching(broker.port, "motion", lines);
    put(folder.path(), "who.json", SCHEMA);
    std::fs::copy(scene(), folder.path().join("x.png")).unwrap();
    let viewer = Viewer::connect(broker.port, "viewer");
    let running = Running::start(&mut agent(folder.path()));
    for _ in 0..2 {
        valid(&viewer.json("kinglet/porch/event")["answer"]);
    }

    let see = |id: &str, schema: Value| {
        let payload = json!({ "id": id, "args": { "schema": schema } }).to_string();
        viewer.send("kinglet/porch/command/see", payload);
        viewer.json(&format!("kinglet/porch/result/{id}"))
    };
    let result = see("s1", serde_json::from_str(SCHEMA).unwrap());
    valid(&result["result"]["answer"]);
    for (id, schema, words) in [
        (
            "s2",
            json!({ "type": "string", "format": "date" }),
            "\"format\" is not supported",
        ),
        (
            "s3",
            json!({ "type": "string", "maxLength": 9999 }),
            "longest answer has",
        ),
        ("s4", json!({ "$ref": "#" }), "back to itself"),
        ("s5", json!("who.json"), "a schema is an object"),
    ] {
        let error = see(id, schema)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn an_agent_does_not_start_with_a_schema_that_it_cannot_keep_to() {
    let example = "[[watch.example]]\npicture = \"x.png\"\nanswer = \"a cat\"";
    for (schema, lines, words) in [
        (
            r#"{"oneOf": []}"#,
            "schema = \"who.json\"",
            "\"oneOf\" is not supported",
        ),
        (
            r#"{"type": "string", "maxLength": 600}"#,
            "schema = \"who.json\"",
            "longest answer has 2402 bytes",
        ),
        (
            "{}",
            "schema = \"other.json\"",
            "other.json\" cannot be read",
        ),
        ("{}", example, "x.png\" cannot be read"),
    ] {
        let folder = watching(1, "motion", lines);
        put(folder.path(), "who.json", schema);
        let output = agent(folder.path())
            .env("KINGLET_LOG", "error")
            .output()
            .unwrap();
        let (code, _, stderr) = program::finished(output);
        assert_eq!(code, 1, "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}
