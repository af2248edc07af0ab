//! A model that is locked in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kinglet_tests::program::finished;
use kinglet_tests::{Mosquitto, Running, device, kinglet};
use tempfile::TempDir;

fn locking(broker: &Mosquitto) -> TempDir {
    let folder = device(&format!("url = \"{}\"", broker.url()), "motion");
    let config = folder.path().join("kinglet.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + "\n[model]\nlock = true\n").unwrap();
    folder
}

#[test]
fn a_locked_model_stays_in_memory() {
    let broker = Mosquitto::start();
    let folder = locking(&broker);
    let config = folder.path().join("kinglet.toml");
    let mut command = kinglet(&["run", "--config", config.to_str().unwrap()]);
    let agent = Running::start(command.stderr(Stdio::null()));
    let status = format!("/proc/{}/status", agent.0.id());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let text = std::fs::read_to_string(&status).unwrap();
        let line = text.lines().find(|l| l.starts_with("VmLck:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        // The bundled model has 14 MB.
        if kib > 14_000 {
            return;
        }
        assert!(Instant::now() < deadline, "{line}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_limit_that_is_too_low_is_named() {
    let broker = Mosquitto::start();
    let folder = locking(&broker);
    let config = folder.path().join("kinglet.toml");
    let program = kinglet(&["run", "--config", config.to_str().unwrap()]);
    // In a user namespace root may not lock more than the limit says either.
    let mut command = Command::new("unshare");
    command.args(["--user", "prlimit", "--memlock=65536:65536"]);
    command.arg(program.get_program()).args(program.get_args());
    let (code, _, error) = finished(command.env("KINGLET_LOG", "error").output().unwrap());
    if error.starts_with("unshare:") {
        println!("NOT CHECKED: a limit of locked memory (the system allows no namespaces)");
        return;
    }
    assert_eq!(code, 1, "{error}");
    assert!(
        error.contains("[model] lock") && error.contains("64 KiB"),
        "{error}"
    );
}
