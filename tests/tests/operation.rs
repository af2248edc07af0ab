//! What whoever looks after a device relies on: numbers, health, systemd, and a broker that refuses.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kinglet_tests::{Mosquitto, Running, Viewer, broker, device, kinglet, root};
use serde_json::Value;

/// Appends these lines to a device's configuration. They begin a table of their own.
fn append(folder: &Path, lines: &str) {
    let file = folder.join("kinglet.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n{lines}\n")).unwrap();
}

fn agent(folder: &Path) -> Command {
    let config = folder.join("kinglet.toml");
    kinglet(&["run", "--config", &config.to_string_lossy()])
}

/// Status line and body of a page.
fn get(port: u16, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The value of a number, with its labels.
fn number(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|l| l.starts_with(&format!("{name} ")));
    let line = line.unwrap_or_else(|| panic!("{name} is not in {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn numbers_and_health_are_there_to_be_fetched() {
    let broker = Mosquitto::start();
    let folder = device(&format!("url = \"{}\"", broker.url()), "motion");
    let port = broker::free_port();
    append(
        folder.path(),
        &format!("[metrics]\nlisten = \"127.0.0.1:{port}\""),
    );
    let viewer = Viewer::connect(broker.port, "viewer");
    let running = Running::start(&mut agent(folder.path()));
    for _ in 0..3 {
        viewer.json("kinglet/porch/event");
    }
    let snapshot = "kinglet/porch/command/snapshot";
    viewer.send(snapshot, r#"{"id": "s1"}"#);
    viewer.json("kinglet/porch/result/s1");
    viewer.send(snapshot, r#"{"id": "s2", "args": {"camera": "none"}}"#);
    viewer.json("kinglet/porch/result/s2");

    let (status, metrics) = get(port, "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    let number = |name: &str| number(&metrics, name);
    assert!(number("kinglet_events_total{watch=\"who\",kind=\"new\"}") >= 3.0);
    assert!(number("kinglet_camera_frames_total{camera=\"door\"}") >= 3.0);
    assert!(number("kinglet_messages_sent_total") >= 9.0);
    assert!(number("kinglet_model_seconds_count{stage=\"see\"}") >= 3.0);
    assert!(number("kinglet_resident_memory_bytes") > 1e6);
    assert_eq!(number("kinglet_commands_total{outcome=\"done\"}"), 1.0);
    assert_eq!(number("kinglet_commands_total{outcome=\"refused\"}"), 1.0);
    assert_eq!(number("kinglet_broker_connected"), 1.0);
    assert_eq!(number("kinglet_camera_delivers{camera=\"door\"}"), 1.0);
    assert_eq!(number("kinglet_messages_refused_total"), 0.0);

    let (status, health) = get(port, "/health");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let health: Value = serde_json::from_str(&health).unwrap();
    assert_eq!(health["healthy"], true);
    assert_eq!(health["broker"], "connected");
    assert_eq!(health["cameras"]["door"], "delivering");
    assert!(get(port, "/other").0.contains("404"));
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn numbers_are_for_this_machine_alone() {
    let folder = device("url = \"mqtt://127.0.0.1:1\"", "motion");
    append(folder.path(), "[metrics]\nlisten = \"0.0.0.0:0\"");
    let config = folder.path().join("kinglet.toml");
    let config = config.to_string_lossy();
    kinglet_tests::program::refused(
        &["run", "--config", &config],
        &["metrics.listen", "this machine"],
    );
}

#[test]
fn systemd_is_told_that_it_is_ready_that_nothing_hangs_and_that_it_ends() {
    let broker = Mosquitto::start();
    let folder = device(&format!("url = \"{}\"", broker.url()), "every:1s");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let said = || {
        let mut message = [0; 1024];
        let length = socket.recv(&mut message).expect("something is said");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let mut command = agent(folder.path());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "1000000");
    let running = Running::start(&mut command);
    assert_eq!(said().trim(), "READY=1");
    let start = Instant::now();
    let mut fed = 0;
    let mut status = String::new();
    while fed < 8 {
        match said().trim() {
            "WATCHDOG=1" => fed += 1,
            other => status = other.to_owned(),
        }
    }
    assert_eq!(status, "STATUS=broker: connected");
    // Every half second, the first at once.
    assert!(start.elapsed() > Duration::from_secs(3));
    assert_eq!(running.terminate(), Some(0));
    let last = (0..100).map(|_| said()).find(|s| s.trim() == "STOPPING=1");
    assert!(last.is_some());
}

/// systemd itself reads the unit.
#[test]
fn the_unit_is_one_that_systemd_accepts() {
    let unit = std::fs::read_to_string(root().join("packaging/kinglet.service")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kinglet.service");
    // The program is not installed where the unit expects it.
    let program = kinglet_tests::program::program().canonicalize().unwrap();
    let unit = unit.replace("/usr/bin/kinglet", &program.to_string_lossy());
    std::fs::write(&file, unit).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--generators=no"])
        .arg(&file)
        .stdin(Stdio::null())
        .output();
    let Ok(verified) = verified else {
        println!("NOT CHECKED: the systemd unit (systemd-analyze is not installed)");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    assert!(!said.contains("kinglet.service:"), "{said}");
}

#[test]
fn what_a_broker_refuses_holds_up_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("acl");
    let allowed = "topic read kinglet/porch/command/#\ntopic write kinglet/porch/status\n\
                   topic write kinglet/porch/event\ntopic write kinglet/porch/result/#\n";
    let viewer_may = "user viewer\ntopic readwrite #\n";
    let write = |porch: &str| {
        std::fs::write(&list, format!("user porch\n{allowed}{porch}\n{viewer_may}")).unwrap();
    };
    write("");
    let passwords = folder.path().join("passwords");
    let password = folder.path().join("password");
    std::fs::write(&passwords, "porch:secret\nviewer:secret\n").unwrap();
    std::fs::write(&password, "secret").unwrap();
    let hashed = Command::new("mosquitto_passwd")
        .arg("-U")
        .arg(&passwords)
        .status();
    assert!(
        hashed
            .expect("mosquitto_passwd comes with mosquitto")
            .success()
    );
    let lines = format!(
        "allow_anonymous false\npassword_file {}\nacl_file {}",
        passwords.display(),
        list.display()
    );
    let port = broker::free_port();
    let broker = Mosquitto::first(port, "user root", &lines);
    let metrics = broker::free_port();
    let device = device(
        &format!(
            "url = \"{}\"\nuser = \"porch\"\npassword_file = \"{}\"",
            broker.url(),
            password.display()
        ),
        "motion",
    );
    append(
        device.path(),
        &format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\""),
    );
    let viewer = Viewer::with_password(broker.port, "viewer", "viewer", "secret");
    let running = Running::start(&mut agent(device.path()));

    // Pictures are refused, events come without a gap.
    for seq in 1..=3 {
        assert_eq!(viewer.json("kinglet/porch/event")["seq"], seq);
    }
    // An answer to a topic that the device may not write on is lost, and nothing behind it.
    viewer.ask(
        "kinglet/porch/command/snapshot",
        r#"{"id": "s"}"#,
        "kinglet/elsewhere",
        b"x",
    );
    viewer.send("kinglet/porch/command/snapshot", r#"{"id": "t"}"#);
    viewer.json("kinglet/porch/result/t");
    let (_, text) = get(metrics, "/metrics");
    assert!(number(&text, "kinglet_messages_refused_total") >= 3.0);
    assert!(
        number(&text, "kinglet_outbox_messages") >= 2.0,
        "pictures wait"
    );
    assert_eq!(number(&text, "kinglet_outbox_dropped_total"), 0.0);
    assert_eq!(running.terminate(), Some(0));

    // Allowed, they come, with what was kept over the restart.
    write("topic write kinglet/porch/image/#\ntopic write kinglet/porch/latest/#\n");
    let reread = Command::new("kill")
        .args(["-HUP", &broker.pid().to_string()])
        .status();
    assert!(reread.unwrap().success());
    let running = Running::start(&mut agent(device.path()));
    viewer.wait("a picture that was refused", |p| {
        p.topic.starts_with(b"kinglet/porch/image/")
    });
    assert_eq!(running.terminate(), Some(0));
}

/// What Home Assistant would find: its discovery messages and some events, as (topic, payload).
fn discovered() -> Vec<(String, Value)> {
    let broker = Mosquitto::start();
    let folder = device(&format!("url = \"{}\"", broker.url()), "every:1s");
    append(folder.path(), "[homeassistant]");
    let viewer = Viewer::connect(broker.port, "home");
    let running = Running::start(&mut agent(folder.path()));
    let mut found = Vec::new();
    while found
        .iter()
        .filter(|(topic, _): &&(String, Value)| topic.ends_with("/event"))
        .count()
        < 2
    {
        let publish = viewer.wait("a message for Home Assistant", |p| {
            p.topic.starts_with(b"homeassistant/") || p.topic.ends_with(b"/event")
        });
        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
        found.push((topic, serde_json::from_slice(&publish.payload).unwrap()));
    }
    assert_eq!(running.terminate(), Some(0));
    // Who comes later finds the same.
    let late = Viewer::connect(broker.port, "late");
    for _ in 0..4 {
        let kept = late.wait("a retained message", |p| {
            p.topic.starts_with(b"homeassistant/")
        });
        assert!(kept.retain);
    }
    found
}

#[test]
fn home_assistant_finds_the_device_its_answers_and_its_pictures() {
    let found = discovered();
    let entity = |topic: &str| {
        let found = found.iter().find(|(t, _)| t == topic);
        &found.unwrap_or_else(|| panic!("{topic} is not there")).1
    };
    let sensor = entity("homeassistant/sensor/kinglet-porch/who/config");
    assert_eq!(sensor["state_topic"], "kinglet/porch/event");
    let image = entity("homeassistant/image/kinglet-porch/who/config");
    assert_eq!(image["image_topic"], "kinglet/porch/latest/who");
    let connection = entity("homeassistant/binary_sensor/kinglet-porch/connection/config");
    assert_eq!(connection["state_topic"], "kinglet/porch/status");
    assert_eq!(connection["device"], sensor["device"]);
    let button = entity("homeassistant/button/kinglet-porch/who/config");
    assert_eq!(button["command_topic"], "kinglet/porch/command/see");
    assert_eq!(button["payload_press"], r#"{"args":{"watch":"who"}}"#);
}

#[test]
fn home_assistant_gets_no_button_where_commands_are_signed() {
    let broker = Mosquitto::start();
    let folder = device(&format!("url = \"{}\"", broker.url()), "command");
    let key = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    append(
        folder.path(),
        &format!("[homeassistant]\n[commands]\nkeys = [\"{key}\"]"),
    );
    let viewer = Viewer::connect(broker.port, "home");
    let running = Running::start(&mut agent(folder.path()));
    let mut topics = Vec::new();
    for _ in 0..3 {
        let found = viewer.wait("a message for Home Assistant", |p| {
            p.topic.starts_with(b"homeassistant/")
        });
        topics.push(String::from_utf8(found.topic.to_vec()).unwrap());
    }
    assert!(!topics.iter().any(|t| t.contains("/button/")), "{topics:?}");
    let other = |p: &rumqttc::v5::mqttbytes::v5::Publish| p.topic.starts_with(b"homeassistant/");
    assert!(viewer.nothing_for(Duration::from_secs(1), other));
    assert_eq!(running.terminate(), Some(0));
}

/// Home Assistant's own rules, in the Python of `KINGLET_HOMEASSISTANT`.
#[test]
#[ignore = "needs Home Assistant's package: tools/check --long installs it"]
fn home_assistant_itself_accepts_every_entity() {
    let python = std::env::var_os("KINGLET_HOMEASSISTANT").expect("the Python is named");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages");
    let mut lines = String::new();
    for (topic, payload) in discovered() {
        let line = serde_json::json!({ "topic": topic, "payload": payload });
        lines.push_str(&format!("{line}\n"));
    }
    std::fs::write(&file, lines).unwrap();
    let script = root().join("tools/peers/homeassistant/check.py");
    let checked = Command::new(python)
        .arg(script)
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
    print!("{}", String::from_utf8_lossy(&checked.stdout));
}
