//! `kinglet compress` as it is used: what it refuses, what it leaves behind, graphs and scores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use kinglet_container::gguf::Gguf;
use kinglet_tests::program::{put, refused};
use kinglet_tests::{program, root};

#[test]
fn compressing_refuses_bad_recipes_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = root().join("tests/golden/checkpoint");
    let checkpoint = checkpoint.to_string_lossy();
    let out = folder.path().join("out.gguf");
    let out = out.to_string_lossy();
    let recipe = put(
        folder.path(),
        "r.toml",
        b"[precision]\ndefault = \"Q8_0\"\n",
    );
    let bad = put(
        folder.path(),
        "bad.toml",
        b"[precision]\ndefalt = \"Q8_0\"\n",
    );
    let unknown = put(
        folder.path(),
        "unknown.toml",
        b"[precision]\ndefault = \"Q9_Z\"\n",
    );
    refused(
        &["compress", &checkpoint, "-o", &out, "--recipe", &bad],
        &["bad.toml", "defalt"],
    );
    refused(
        &["compress", &checkpoint, "-o", &out, "--recipe", &unknown],
        &["Q9_Z"],
    );
    refused(
        &["compress", "nowhere", "-o", &out, "--recipe", &recipe],
        &["nowhere"],
    );
    let nowhere = "/nowhere/out.gguf";
    refused(
        &["compress", &checkpoint, "-o", nowhere, "--recipe", &recipe],
        &[nowhere],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);

    let compress = ["compress", &checkpoint, "-o", &out, "--recipe", &recipe];
    assert_eq!(program::run(&compress).0, 0);
    assert_eq!(program::run(&["inspect", &out]).0, 0);
    let first = std::fs::read(&*out).unwrap();
    assert_eq!(program::run(&compress).0, 0);
    assert!(
        first == std::fs::read(&*out).unwrap(),
        "the same input gives other bytes"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn scores_go_into_the_report_and_no_weight_changes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let checkpoint = root().join("tests/golden/checkpoint");
    let checkpoint = checkpoint.to_string_lossy();
    let recipe = put(
        folder.path(),
        "r.toml",
        b"[precision]\ndefault = \"Q8_0\"\n",
    );
    let (plain, scored) = (at("plain.gguf"), at("scored.gguf"));
    let compress = ["compress", &checkpoint, "-o", &plain, "--recipe", &recipe];
    assert_eq!(program::run(&compress).0, 0);
    let scores = put(folder.path(), "s.json", br#"{"see": {"naming": 43}}"#);
    let mut compress = vec![
        "compress",
        &checkpoint,
        "-o",
        &scored,
        "--recipe",
        &recipe,
        "--scores",
    ];
    compress.push(&scores);
    assert_eq!(program::run(&compress).0, 0);
    let (plain, scored) = (
        Gguf::open(Path::new(&plain)),
        Gguf::open(Path::new(&scored)),
    );
    let (plain, scored) = (plain.unwrap(), scored.unwrap());
    let report = format!("{:?}", scored.find("kinglet.report").unwrap()).replace('\\', "");
    assert!(
        report.contains(r#""scores":{"see":{"naming":43}}"#),
        "{report}"
    );
    for (name, tensor) in plain.tensors() {
        assert!(scored.tensor(name).unwrap().bytes == tensor.bytes, "{name}");
    }

    let list = put(folder.path(), "list.json", b"[1, 2]");
    *compress.last_mut().unwrap() = &list;
    refused(&compress, &["list.json"]);
    *compress.last_mut().unwrap() = "nowhere.json";
    refused(&compress, &["nowhere.json"]);
}

#[test]
fn a_graph_is_exported_whole_or_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = root().join("tests/golden/checkpoint");
    let checkpoint = checkpoint.to_string_lossy();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let out = path("out.onnx");
    let graph = |graph| ["compress", &checkpoint, "-o", &out, "--export-onnx", graph];
    let with = |more: &[&str]| program::run(&[&graph("vision")[..], more].concat());

    for (arguments, word) in [
        (&graph("text")[..], "vision or vae-decoder"),
        (&graph("vision")[..4], "--recipe"),
        (&["compress", "-o", &out, "--pack", "native"], "CHECKPOINT"),
        (
            &[
                &graph("vision")[..4],
                &["--pack", "native", "--size", "14x14"],
            ]
            .concat(),
            "cannot be used with",
        ),
    ] {
        let (code, _, stderr) = program::run(arguments);
        assert!(
            code == 2 && stderr.contains(word),
            "{arguments:?}: {stderr}"
        );
    }
    for more in [
        ["--recipe", "r.toml"],
        ["--pack", "native"],
        ["--size", "14"],
    ] {
        assert_eq!(with(&more).0, 2, "{more:?}");
    }
    let size = |size| [&graph("vision")[..], &["--size", size]].concat();
    refused(&size("30x28"), &["30x28", "multiples of 14 from 14 to 98"]);
    refused(
        &size("112x98"),
        &["112x98", "multiples of 14 from 14 to 98"],
    );
    refused(
        &["compress", "nowhere", "-o", &out, "--export-onnx", "vision"],
        &["nowhere"],
    );
    refused(
        &[
            "compress",
            "-o",
            "/nowhere/out.onnx",
            "--export-onnx",
            "vae-decoder",
        ],
        &["/nowhere/out.onnx"],
    );
    let packed = path("packed.gguf");
    let bundled = root().join("runtime/assets/kinglet-tiny.gguf");
    let pack = [
        "compress",
        &bundled.to_string_lossy(),
        "-o",
        &packed,
        "--pack",
        "native",
    ];
    assert_eq!(program::run(&pack).0, 0);
    refused(
        &["compress", &packed, "-o", &out, "--export-onnx", "vision"],
        &["packed", "the container that it was made of"],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    // The model that would be used, and a directory.
    let (code, stdout, stderr) = program::run(&["compress", "-o", &out, "--export-onnx", "vision"]);
    assert_eq!((code, &stderr[..]), (0, ""));
    assert!(
        stdout.starts_with(&out) && stdout.contains("tokens [1, "),
        "{stdout}"
    );
    assert!(std::fs::metadata(&out).unwrap().len() > 1 << 20);
    let (code, stdout, _) = with(&["--size", "56x42", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, 0);
    assert_eq!(said["onnx"]["input"][1], serde_json::json!([1, 3, 42, 56]));
    let bytes = std::fs::metadata(&out).unwrap().len();
    assert_eq!(said["onnx"]["bytes"], bytes);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}
