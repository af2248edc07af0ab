//! Networks of others decide which frames are looked at. tools/check fetches them, pictures, and what another program
//! (onnxruntime) finds in these, into the folder `KINGLET_ONNX`.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kinglet_agent::Picture;
use kinglet_agent::config::{ClassesConfig, OnnxConfig, WatchConfig};
use kinglet_agent::trigger::onnx::Network;
use kinglet_tests::{Mosquitto, Running, Viewer, kinglet, program};
use serde_json::{Value, json};

fn prepared() -> PathBuf {
    let folder = std::env::var_os("KINGLET_ONNX").expect("the folder of the networks is named");
    PathBuf::from(folder).canonicalize().unwrap()
}

fn network(folder: &Path, file: &str, lines: &str) -> std::sync::Arc<Network> {
    // As a configuration says it.
    let text = format!(
        "name = 'w'\ncamera = 'c'\nask = '?'\nwhen = 'onnx:{file}'\n[onnx]\n{lines}\nscore = 0.1"
    );
    let watch: WatchConfig = toml::from_str(&text).unwrap();
    let config: OnnxConfig = watch.onnx.unwrap();
    let ClassesConfig::List(classes) = config.classes.clone() else {
        panic!("a list")
    };
    let bytes = std::fs::read(folder.join(file)).unwrap();
    Network::load(file, bytes, &config, classes).unwrap()
}

#[test]
#[ignore = "needs networks of others: tools/check fetches them"]
fn networks_of_others_find_here_what_they_find_elsewhere() {
    let folder = prepared();
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_slice(&expected).unwrap();
    assert_eq!(expected.len(), 10);
    let mut farthest = [0.0f64; 2];
    let mut networks = BTreeMap::new();
    for case in &expected {
        let text = |key: &str| case[key].as_str().unwrap();
        let network = networks
            .entry(text("network"))
            .or_insert_with(|| network(&folder, text("network"), text("lines")));
        let bytes = std::fs::read(folder.join(text("picture"))).unwrap();
        let picture = Picture::decode(&bytes).unwrap();
        let start = Instant::now();
        let found = network.find(&picture).unwrap();
        println!("{} {:?}: {found:?}", text("picture"), start.elapsed());
        // Below a half it is not expected.
        let found = found.filter(|found| found.score >= 0.5);
        let Some(expected) = case["found"].as_object() else {
            assert_eq!(found, None, "{case}");
            continue;
        };
        let found = found.expect("it is found");
        assert_eq!(found.class, expected["class"], "{case}");
        let off = (found.score - expected["score"].as_f64().unwrap()).abs();
        assert!(off < 0.02, "{case}: {found:?}");
        // Of one size with the network's picture both get the same numbers, and say the same up to rounding.
        let same = matches!(
            text("picture"),
            "face-fits.png" | "text-0-0.png" | "text-0-180.png"
        );
        assert!(!same || off < 0.001, "{case}: {found:?}");
        farthest[0] = farthest[0].max(off);
        let sides = expected.get("box").and_then(Value::as_array);
        assert_eq!(found.area.is_some(), sides.is_some());
        for (side, expected) in found.area.iter().flatten().zip(sides.into_iter().flatten()) {
            let off = (side - expected.as_f64().unwrap()).abs();
            assert!(off < 0.01, "{case}: {found:?}");
            farthest[1] = farthest[1].max(off);
        }
    }
    let [scores, sides] = farthest;
    println!("scores are off by {scores:.4} at most, sides by {sides:.4}");
}

/// A device whose camera shows a table, then for a while somebody before it, over and over.
fn device(broker: &str, watches: &str) -> tempfile::TempDir {
    let (folder, networks) = (tempfile::tempdir().unwrap(), prepared());
    let frames = folder.path().join("frames");
    std::fs::create_dir(&frames).unwrap();
    for frame in 0..24 {
        let picture = match frame {
            0..=11 => "nobody.png",
            _ => "face-small.png",
        };
        std::fs::copy(
            networks.join(picture),
            frames.join(format!("{frame:02}.png")),
        )
        .unwrap();
    }
    let text = format!(
        "[device]\nname = 'porch'\nstate = 'state'\n[broker]\nurl = '{broker}'\n\
         [[camera]]\nname = 'door'\nsource = 'folder:frames?fps=4'\n{watches}"
    );
    std::fs::write(folder.path().join("kinglet.toml"), text).unwrap();
    folder
}

fn watch(name: &str, lines: &str) -> String {
    let file = prepared().join("centerface.onnx");
    format!(
        "[[watch]]\nname = '{name}'\ncamera = 'door'\nwhen = 'onnx:{}'\nask = 'who is it?'\n{lines}\n\
         [watch.onnx]\nclasses = ['face']\nsize = [320, 256]\noutput = 'centerface'\nscale = 1\nevery = '200ms'\n",
        file.display()
    )
}

#[test]
#[ignore = "needs networks of others: tools/check fetches them"]
fn a_face_that_comes_and_goes_is_an_event_with_an_end() {
    let broker = Mosquitto::start();
    // The face is in the right half.
    let watches = watch("who", "follow = '1h'\nzone = [[0.5, 0, 0.5, 1]]")
        + &watch("left", "follow = '1h'\nzone = [[0, 0, 0.5, 1]]");
    let folder = device(&broker.url(), &watches);
    let viewer = Viewer::connect(broker.port, "viewer");
    let config = folder.path().join("kinglet.toml");
    let config = config.to_string_lossy();
    let agent = Running::start(&mut kinglet(&["run", "--config", &config]));
    let mut id = Value::Null;
    for (i, kind) in ["new", "end", "new", "end"].into_iter().enumerate() {
        let event = viewer.json("kinglet/porch/event");
        println!("{event}");
        assert_eq!(event["watch"], "who");
        assert_eq!(
            (&event["type"], &event["seq"]),
            (&json!(kind), &json!(i + 1))
        );
        assert_eq!(event["id"] == id, kind == "end");
        let trigger = &event["trigger"];
        assert_eq!(trigger.is_null(), kind == "end");
        if kind == "new" {
            assert_eq!(trigger["class"], "face");
            assert!(trigger["score"].as_f64().unwrap() > 0.7);
            let left = trigger["box"][0].as_f64().unwrap();
            assert!((left - 0.704).abs() < 0.01, "{trigger}");
        }
        id = event["id"].clone();
    }
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
#[ignore = "needs networks of others: tools/check fetches them"]
fn a_network_that_does_not_fit_is_named_at_the_start() {
    let networks = prepared();
    let who = watch("who", "");
    for (from, to, words) in [
        ("size = [320, 256]", "size = [0, 256]", "watch.onnx.size"),
        ("output = 'centerface'", "", "[1, 1]"),
        ("['face']", "['face', 'back']", "[1, 2, H, W]"),
        ("centerface.onnx", "nobody.png", "no ONNX file"),
        ("centerface.onnx", "nothing.onnx", "cannot be read"),
        ("['face']", "'nobody.png'", "nobody.png"),
    ] {
        let watches = who.replace(from, to);
        let folder = device("mqtt://127.0.0.1:1", &watches);
        std::fs::copy(
            networks.join("nobody.png"),
            folder.path().join("nobody.png"),
        )
        .unwrap();
        let config = folder.path().join("kinglet.toml");
        let config = config.to_string_lossy();
        program::refused(&["run", "--config", &config], &[words]);
    }
}
