//! The examples of docs/commands.md are taken by the agent as they stand there.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kinglet_agent::command::{Action, Envelope, Received, receive};
use kinglet_agent::shadow::{self, Settings};
use kinglet_agent::{Config, config};

/// The blocks of the page whose first line begins so: the rest of that line, and what they hold.
fn blocks(kind: &str) -> Vec<(String, String)> {
    let page = include_str!("../../../docs/commands.md");
    let block = |block: &str| {
        let (rest, body) = block.strip_prefix(kind)?.split_once('\n')?;
        Some((rest.trim().to_owned(), body.to_owned()))
    };
    let blocks: Vec<_> = page
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(block)
        .collect();
    assert!(!blocks.is_empty(), "the page has no {kind}");
    blocks
}

fn received(topic: &str, payload: &str) -> Received {
    let envelope = Envelope::default();
    receive(topic, payload.as_bytes(), envelope, "new".to_owned()).unwrap()
}

/// A device with the door's camera and the watch that the page speaks of.
fn own() -> Config {
    let mut own = Config::new("porch", "mqtt://127.0.0.1");
    own.camera
        .push(config::CameraConfig::new("door", "folder:a"));
    own.watch
        .push(config::WatchConfig::new("who", "door", "motion", "?"));
    own
}

#[test]
fn the_examples_are_taken() {
    for (topic, payload) in blocks("json command ") {
        received(&topic, &payload).command().unwrap();
    }
    let text = &blocks("toml")[0].1;
    let own = own();
    let broker = "[device]\nname = \"porch\"\n[broker]\nurl = \"mqtt://127.0.0.1\"\n";
    let config: Config = toml::from_str(&format!("{broker}{text}")).unwrap();
    config.check().unwrap();
    let keys = config.commands.keys.unwrap();
    // Signed by OpenSSL.
    for (topic, payload) in blocks("json signed ") {
        let received = received(&topic, &payload);
        received
            .sealed
            .as_ref()
            .unwrap()
            .check(&topic, &keys)
            .unwrap();
        received.command().unwrap();
    }
    for (_, payload) in blocks("json desired") {
        let (desired, _) = shadow::parse(payload.as_bytes()).unwrap();
        Settings::read(desired.config).unwrap().over(&own).unwrap();
    }
    for (_, payload) in blocks("json set") {
        let command = received("kinglet/porch/command/set", &payload).command();
        let Action::Set(changes) = command.unwrap().action else {
            panic!("it is no set")
        };
        let changed = Settings::default().changed(&own, &changes).unwrap();
        changed.over(&own).unwrap();
    }
}
