//! `kinglet plan` beside what requests really take.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;
use std::time::Duration;

use kinglet_tests::program::{finished, refused, run};
use kinglet_tests::{kinglet, root, scene};
use serde_json::Value;

/// What the pages of a development build take more than those of the one that is planned for: most of its dependencies are
/// not optimised.
const UNOPTIMISED: f64 = 12e6;

fn plan(args: &[&str]) -> Value {
    let (_, stdout, _) = run(&[&["--json", "plan"], args].concat());
    serde_json::from_str(&stdout).unwrap()
}

/// Bytes that a run took at most. The kernel keeps the maximum, so that looking now and then is enough.
fn measured(args: &[&str]) -> f64 {
    let mut command = kinglet(args);
    let mut child = command
        .stdout(Stdio::null())
        .env("KINGLET_LOG", "error")
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0.0f64;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
        most = most.max(kib.unwrap_or(0.0) * 1024.0);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    most
}

#[test]
fn what_is_planned_is_near_what_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = root().join("runtime/assets/kinglet-tiny.gguf");
    let tiny = tiny.to_str().unwrap();
    let picture = scene();
    let out = folder.path().join("x.png");
    let (picture, out) = (picture.to_str().unwrap(), out.to_str().unwrap());
    // Small models are a small part of what a program takes: docs/boards.md has large ones.
    let mut report = Vec::new();
    for size in ["112x112", "192x192", "256x256"] {
        let drawing = [
            "draw", "a cat", "-o", out, "--steps", "2", "--size", size, "--model", tiny,
        ];
        let taken = measured(&drawing);
        let plan = plan(&[
            tiny,
            "--size",
            size,
            "--steps",
            "2",
            "--picture",
            "112x112",
            "--tokens",
            "1",
        ]);
        report.push((size, plan["needed"].as_f64().unwrap(), taken));
    }
    let taken = measured(&["see", picture, "--model", tiny]);
    let seen = plan(&[tiny, "--see-only", "--picture", "112x112", "--tokens", "12"]);
    report.push(("seeing", seen["needed"].as_f64().unwrap(), taken));
    // tools/check --long names the release build.
    let more = match std::env::var_os("KINGLET_PROGRAM") {
        Some(_) => 0.0,
        None => UNOPTIMISED,
    };
    for (what, planned, taken) in report {
        let planned = planned + more;
        let off = planned / taken - 1.0;
        println!(
            "{what}: planned {:.1} MB, taken {:.1} MB ({:+.0} %)",
            planned / 1e6,
            taken / 1e6,
            100.0 * off
        );
        assert!(off.abs() < 0.25, "{what}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let frames = ["--camera", "8000x8000"].repeat(3);
    let args = [&["plan", "--board", "orin-nano-8"][..], &frames].concat();
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, 1);
    assert!(stdout.contains("does not fit"), "{stdout}");
    assert!(
        stderr.contains("5.40 GiB may be taken") && stderr.contains("orin-nano-8-see"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1);
    let planned = plan(&args[1..]);
    assert_eq!(planned["fits"], false);
    assert!(
        planned["would_fit"]
            .as_array()
            .unwrap()
            .iter()
            .any(|w| w.as_str().unwrap().contains("recipes"))
    );
    refused(
        &["plan", "--board", "toaster"],
        &["toaster", "raspberry-pi-5-8"],
    );
    refused(&["plan", "--size", "113x112"], &["113x112"]);
    refused(&["plan", "--see-only", "--steps", "3"], &["--steps"]);
    refused(&["plan", "/nonexistent.gguf"], &["/nonexistent.gguf"]);
}

#[test]
fn every_board_has_a_plan_for_the_bundled_model() {
    let (_, _, stderr) = run(&["plan", "--board", "?"]);
    let names = stderr
        .trim()
        .rsplit_once("there are ")
        .unwrap()
        .1
        .to_owned();
    for board in names.split(", ") {
        let plan = plan(&["--board", board]);
        assert_eq!(
            (&plan["fits"], &plan["board"]),
            (&Value::Bool(true), &board.into())
        );
        let seconds = plan["seconds"].as_f64().unwrap();
        assert!((0.0001..100.0).contains(&seconds), "{board}: {seconds}");
    }
}

#[test]
fn what_has_no_room_is_refused_before_it_is_loaded() {
    let with = |mebibytes: &str, arguments: &[&str]| {
        let mut command = kinglet(arguments);
        finished(command.env("KINGLET_MEMORY", mebibytes).output().unwrap())
    };
    let picture = scene();
    let see = ["see", &picture.to_string_lossy()];
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.png");
    let out = out.to_string_lossy();
    for arguments in [&see[..], &["draw", "a red ball", "-o", &out]] {
        let (code, stdout, stderr) = with("20", arguments);
        assert_eq!((code, &stdout[..]), (1, ""), "{stderr}");
        assert!(stderr.contains("does not fit this machine"), "{stderr}");
        assert!(stderr.contains("0.02 GiB may be taken"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    // A smaller drawing would do, and is named.
    let large = [
        "draw",
        "a red ball",
        "--size",
        "256x256",
        "--steps",
        "1",
        "-o",
        &out,
    ];
    let (_, _, stderr) = with("60", &large);
    assert!(stderr.contains("what would: drawings of "), "{stderr}");
    // An agent says so, too, and does not begin.
    let device = kinglet_tests::device("url = \"mqtt://127.0.0.1:1\"", "motion");
    let config = device.path().join("kinglet.toml");
    let (code, _, stderr) = with("20", &["run", "--config", &config.to_string_lossy()]);
    assert!(code == 1 && stderr.contains("does not fit"), "{stderr}");
    // Whoever knows better may say so; and must say it in numbers.
    assert_eq!(with("100000", &see).0, 0);
    let (code, _, stderr) = with("much", &see);
    assert!(code == 1 && stderr.contains("KINGLET_MEMORY"), "{stderr}");
}
