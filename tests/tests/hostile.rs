//! Brokers that mean no good, and strangers who write through a good one.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use kinglet_tests::{Mosquitto, Running, Viewer, broker, device, kinglet};

const EVENT: &str = "kinglet/porch/event";
/// The agent with the bundled model takes 50 MB.
const MOST_MEMORY: u64 = 300 << 20;

fn start(folder: &Path) -> Running {
    let config = folder.join("kinglet.toml");
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = kinglet(&["run", "--config", &config.to_string_lossy()]);
    Running::start(command.env("KINGLET_LOG", "info").stderr(log))
}

/// Bytes that a process has taken at most.
fn memory(agent: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.0.id())).unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    kib * 1024
}

/// A packet of MQTT 5: its first byte, and what comes after its length.
fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = rest.len();
    loop {
        let more = length >= 128;
        bytes.push((length % 128) as u8 | if more { 128 } else { 0 });
        length /= 128;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(rest);
    bytes
}

fn publish(topic: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = (topic.len() as u16).to_be_bytes();
    packet(0x30, &[&length[..], topic, &[0], payload].concat())
}

/// What a hostile broker says to a device that has connected; nothing: it never answers.
fn scripts() -> Vec<(&'static str, Vec<u8>)> {
    let accepted = packet(0x20, &[0, 0, 0]);
    let after = |bytes: &[u8]| [&accepted[..], bytes].concat();
    let command = b"kinglet/porch/command/see";
    vec![
        ("no word", Vec::new()),
        ("no MQTT", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        (
            "a length without an end",
            vec![0x20, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        (
            "a packet of 256 MB that never comes",
            after(&[0x30, 0xff, 0xff, 0xff, 0x7f]),
        ),
        (
            "a topic that is no UTF-8",
            after(&publish(b"kinglet/porch/command/\xff\xfe", b"{}")),
        ),
        ("a topic of 64 KiB", after(&publish(&[b'a'; 65_535], b"{}"))),
        (
            "a topic that is longer than its packet",
            after(&packet(0x30, &[0xff, 0xff, b'a'])),
        ),
        ("no topic", after(&publish(b"", b"{}"))),
        (
            "a command that is no JSON",
            after(&publish(command, &[0xff; 1000])),
        ),
        (
            "JSON without a bottom",
            after(&publish(command, &b"[".repeat(100_000))),
        ),
        (
            "answers to what was never asked",
            after(&[0x40, 2, 0x12, 0x34, 0x90, 4, 0, 1, 0, 0x80].repeat(1000)),
        ),
        ("a second acceptance", after(&accepted)),
        (
            "a packet that only devices send",
            after(&packet(0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\0")),
        ),
        (
            "noise",
            after(
                &(0..100_000u32)
                    .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
                    .collect::<Vec<u8>>(),
            ),
        ),
    ]
}

/// Plays one script to one connection.
fn play(listener: &TcpListener, name: &str, bytes: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    listener.set_nonblocking(true).unwrap();
    let mut device: TcpStream = loop {
        match listener.accept() {
            Ok((device, _)) => break device,
            Err(_) => assert!(
                Instant::now() < deadline,
                "{name}: the device does not come again"
            ),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    device.set_nonblocking(false).unwrap();
    device
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut said = [0; 4096];
    let _ = device.read(&mut said);
    // A device that has heard enough hangs up.
    let _ = device.write_all(bytes);
    let _ = device.read(&mut said);
    if bytes.is_empty() {
        // It gives up by itself, sooner or later: five seconds are its patience.
        device
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        assert!(
            matches!(device.read(&mut said), Ok(0)),
            "{name}: it waits for ever"
        );
    }
}

/// Lets a device meet these brokers one after the other on one port, and then an honest one.
fn meets(scripts: &[(&'static str, Vec<u8>)]) -> String {
    let port = broker::free_port();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let lines = format!("url = \"mqtt://127.0.0.1:{port}\"\nprotocol = \"5\"");
    let folder = device(&lines, "motion");
    let agent = start(folder.path());
    for (name, bytes) in scripts {
        play(&listener, name, bytes);
    }
    drop(listener);
    // Everything that was seen meanwhile comes, from the first event on.
    let broker = Mosquitto::on(port);
    let viewer = Viewer::connect(broker.port, "viewer");
    for seq in 1..=3 {
        assert_eq!(viewer.json(EVENT)["seq"], seq);
    }
    let taken = memory(&agent);
    println!(
        "{} hostile brokers: {} MB at most",
        scripts.len(),
        taken / 1_000_000
    );
    assert!(taken < MOST_MEMORY, "{taken} bytes");
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(agent.terminate(), Some(0));
    log
}

#[test]
fn whatever_a_broker_says_the_device_goes_on_to_the_next_one() {
    // A device waits ever longer for the next connection: several have a few each.
    let scripts = scripts();
    let logs: Vec<String> = std::thread::scope(|scope| {
        let meet = |few| scope.spawn(move || meets(few));
        let devices: Vec<_> = scripts.chunks(4).map(meet).collect();
        devices.into_iter().map(|d| d.join().unwrap()).collect()
    });
    assert!(logs[0].contains("does not answer"), "{}", logs[0]);
}

#[test]
fn what_strangers_leave_with_an_honest_broker_holds_nothing_up() {
    // mosquitto's own bound is far above.
    let broker = Mosquitto::with(
        broker::free_port(),
        "allow_anonymous true\nmax_queued_messages 0",
    );
    let stranger = Viewer::connect(broker.port, "stranger");
    // A flood of retained commands, with names that nobody knows.
    for n in 0..1500 {
        stranger.keep(&format!("kinglet/porch/command/x{n}"), "{}");
    }
    stranger.keep(
        &format!("kinglet/porch/command/{}", "a".repeat(65_000)),
        "{}",
    );
    stranger.keep("kinglet/porch/command/see", "9".repeat(20 << 20));
    stranger.keep("kinglet/porch/shadow/desired", "[".repeat(1 << 20));
    stranger.keep("kinglet/porch/job", "{\"id\":".repeat(10_000));
    let folder = device(&format!("url = \"{}\"", broker.url()), "motion");
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());
    for seq in 1..=3 {
        assert_eq!(viewer.json(EVENT)["seq"], seq);
    }
    // A question is answered still.
    viewer.send(
        "kinglet/porch/command/snapshot",
        r#"{"id":"mine","args":{}}"#,
    );
    let answer = viewer.json("kinglet/porch/result/mine");
    assert!(answer.get("result").is_some(), "{answer}");
    let taken = memory(&agent);
    println!("{} MB at most", taken / 1_000_000);
    assert!(taken < MOST_MEMORY, "{taken} bytes");
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(agent.terminate(), Some(0));
}
