//! What `kinglet doctor` says of this machine and of captured trees: one of each profile lies in tests/boards. No such board
//! was here: the files' forms are those of the kernel's documentation and the vendors' tools, their values are made up
//! within them.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use kinglet_tests::program::{refused, run};
use kinglet_tests::root;
use serde_json::Value;
use tempfile::TempDir;

/// The files of a board: "==> path", then its lines; `\0` stands for a zero byte.
fn tree(name: &str) -> TempDir {
    let text = std::fs::read_to_string(root().join(format!("tests/boards/{name}.tree"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in text.split("==> ").skip(1) {
        let (path, content) = file.split_once('\n').unwrap();
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = content.replace("\\0\n", "\0").replace("\\0", "\0");
        std::fs::write(path, content).unwrap();
    }
    folder
}

fn doctor(folder: &Path) -> (String, Value) {
    let place = folder.to_str().unwrap();
    let (code, text, stderr) = run(&["doctor", "--root", place]);
    assert_eq!((code, &stderr[..]), (0, ""), "{text}");
    let (_, json, _) = run(&["--json", "doctor", "--root", place]);
    (text, serde_json::from_str(&json).unwrap())
}

#[test]
fn every_board_is_known_by_its_tree() {
    let (_, _, stderr) = run(&["plan", "--board", "?"]);
    let names = stderr.trim().rsplit_once("there are ").unwrap().1;
    let mut count = 0;
    for name in names.split(", ") {
        let folder = tree(name);
        let (text, said) = doctor(folder.path());
        println!("{text}\n");
        assert_eq!(said["board"], name, "{text}");
        assert_eq!(said["profile"]["name"], name);
        let cores = said["cores"]["clusters"].as_array().unwrap();
        let profile = said["profile"]["core"].as_array().unwrap();
        let sum = |clusters: &[Value]| -> u64 {
            let counts = clusters.iter().map(|c| c["count"].as_u64().unwrap());
            counts.sum()
        };
        assert_eq!(sum(cores), sum(profile), "{text}");
        assert_eq!(said["cores"]["set"], profile[0]["set"], "{text}");
        let gib = said["memory"]["total"].as_f64().unwrap() / f64::from(1u32 << 30);
        let expected = said["profile"]["memory"]["gib"].as_f64().unwrap();
        assert!((gib / expected - 1.0).abs() < 0.05, "{name}: {gib} GiB");
        assert!(!said["cameras"].as_array().unwrap().is_empty(), "{text}");
        assert!(!said["thermal"].as_array().unwrap().is_empty(), "{text}");
        assert!(said["power"].is_string(), "{text}");
        count += 1;
    }
    assert_eq!(count, 10);
}

#[test]
fn what_a_board_lacks_or_has_wrong_is_said() {
    for (board, words) in [
        (
            "rock-5b-16",
            &[
                "librknnrt 2.3.0 wants the RKNPU driver 0.9.2",
                "this one is 0.8.2",
            ][..],
        ),
        (
            "orange-pi-5-16",
            &["Xunlong Orange Pi 5", "neon-dotprod", "/dev/video11"],
        ),
        ("imx8mp-evk", &["Vivante", "Cortex-A53", "neon"]),
        (
            "orin-nano-8",
            &["15W", "Jetson Linux R36", "libcuda.so.1", "--device cuda"],
        ),
        (
            "raspberry-pi-5-8",
            &["Raspberry Pi 5, 8 GB", "Cortex-A76", "imx708", "7.86 GiB"],
        ),
        (
            "pc",
            &["NVIDIA GeForce RTX 3060", "550.54.14", "no libcuda.so"],
        ),
    ] {
        let folder = tree(board);
        let (text, _) = doctor(folder.path());
        for word in words {
            assert!(text.contains(word), "{board}: \"{word}\" is not in {text}");
        }
    }
    // The same board without its drivers.
    let folder = tree("orin-nx-16");
    std::fs::remove_dir_all(folder.path().join("sys/module/nvgpu")).unwrap();
    let (text, _) = doctor(folder.path());
    assert!(text.contains("nvgpu) is not loaded"), "{text}");
    let folder = tree("orange-pi-5-16");
    std::fs::remove_file(folder.path().join("usr/lib/librknnrt.so")).unwrap();
    let (text, _) = doctor(folder.path());
    assert!(text.contains("there is no librknnrt.so"), "{text}");
}

#[test]
fn a_strange_board_is_generic_and_said_to_be() {
    let folder = tree("rock-5b-16");
    std::fs::write(
        folder.path().join("proc/device-tree/compatible"),
        "acme,toaster\0",
    )
    .unwrap();
    let (text, said) = doctor(folder.path());
    assert_eq!(said["board"], Value::Null);
    assert!(
        text.contains("no profile knows this board (acme,toaster)"),
        "{text}"
    );
    let empty = tempfile::tempdir().unwrap();
    let (text, _) = doctor(empty.path());
    assert!(text.contains("no device tree"), "{text}");
    refused(&["doctor", "--root", "/nonexistent"], &["/nonexistent"]);
}

#[test]
fn this_machine_is_described() {
    let (code, here, _) = run(&["doctor"]);
    assert_eq!(code, 0);
    assert!(
        here.contains("threads") && here.contains("memory"),
        "{here}"
    );
}
