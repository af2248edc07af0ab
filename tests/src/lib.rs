//! Tools for testing the product from outside.
//!
//! # Layout
//! - [`program`](mod@program): the program under test, and running it.
//! - [`broker`]: a real mosquitto on a free port; [`nats`]: a real NATS server; [`mod@device`]: a device to be tried.
//! - [`hosts`]: hosts in network namespaces.
//! - [`proxy`]: what breaks the connection between both, and reads along; [`disk`]: a small disk that can
//!   be filled.
//! - [`mod@board`]: an emulated board with a camera; [`microcontroller`]: an emulated companion; [`wire`]: the line
//!   between both, which can be noisy or cut.
//! - [`viewer`]: an MQTT client that waits for messages.
//! - [`shape`], [`shape_files`]: the release's tensors, and a directory of them without its weights.
//!
//! These are test tools: they panic where a test cannot go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod board;
pub mod broker;
pub mod device;
pub mod disk;
pub mod hosts;
pub mod microcontroller;
pub mod nats;
pub mod program;
pub mod proxy;
pub mod shape;
pub mod shape_files;
pub mod viewer;
pub mod wire;

pub use broker::Mosquitto;
pub use device::device;
pub use nats::{Cluster, Nats};
pub use program::{Running, kinglet, program};
pub use viewer::{Viewer, conforms};

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A held-out scene with one thing, of which the bundled model says [`SHOWN`].
pub fn scene() -> PathBuf {
    root().join("tools/eval/scenes/00003-0.png")
}

/// What [`scene`] shows.
pub const SHOWN: &str = "a suitcase";

/// The answers of the demo clip's scenes, in order.
pub fn truth() -> Vec<String> {
    let text = std::fs::read(root().join("runtime/assets/clip/truth.json")).unwrap();
    let truth: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let scenes = truth["scenes"].as_array().unwrap();
    let answer = |scene: &serde_json::Value| scene["answer"].as_str().unwrap().to_owned();
    scenes.iter().map(answer).collect()
}
