//! A device to be tried: its configuration in a folder of its own.

use std::path::Path;

use tempfile::TempDir;

use crate::program::{Running, kinglet};
use crate::root;

/// A folder with kinglet.toml: the device "porch" of the group "doors", with these lines in `[broker]`, a
/// camera that plays the demo's clip and a watch that looks `when` it should.
pub fn device(broker: &str, when: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let clip = root().join("runtime/assets/clip").canonicalize().unwrap();
    let text = format!(
        r#"
        [device]
        name = "porch"
        groups = ["doors"]
        state = "state"
        [broker]
        {broker}
        [[camera]]
        name = "door"
        source = "folder:{}?fps=5"
        [[watch]]
        name = "who"
        camera = "door"
        when = "{when}"
        ask = "what is in the picture?"
        publish = ["answer", "picture"]
        "#,
        clip.display()
    );
    std::fs::write(folder.path().join("kinglet.toml"), text).unwrap();
    folder
}

/// Starts the agent of the device in this folder.
pub fn start(folder: &Path) -> Running {
    let config = folder.join("kinglet.toml");
    Running::start(&mut kinglet(&[
        "run",
        "--config",
        &config.to_string_lossy(),
    ]))
}
