//! MQTT 3.1.1: asked for, and where a broker knows no better.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kinglet_tests::device::start;
use kinglet_tests::program::{finished, put};
use kinglet_tests::{Cluster, Mosquitto, Nats, Running, Viewer, device, kinglet, truth};
use serde_json::{Value, json};

fn fleet(port: u16, arguments: &[&str]) -> Command {
    let mut command = kinglet(&[&["fleet"], arguments].concat());
    command.env("KINGLET_BROKER", format!("mqtt://127.0.0.1:{port}"));
    command
}

/// What `kinglet fleet` prints as JSON, a line each.
fn told(port: u16, arguments: &[&str]) -> Vec<Value> {
    let (code, stdout, stderr) = finished(
        fleet(port, &[&["--json"], arguments].concat())
            .output()
            .unwrap(),
    );
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_old_version_is_spoken_where_it_is_asked_for() {
    let broker = Mosquitto::start();
    let lines = format!("url = \"{}\"\nprotocol = \"3.1.1\"", broker.url());
    let folder = device(&lines, "motion");
    let viewer = Viewer::connect(broker.port, "viewer");
    let agent = start(folder.path());
    assert_eq!(viewer.json("kinglet/porch/status")["state"], "online");
    for (seq, expected) in (1..).zip(&truth()[..2]) {
        let event = viewer.json("kinglet/porch/event");
        assert_eq!(
            (&event["seq"], &event["answer"]),
            (&json!(seq), &json!(expected))
        );
    }
    // An old device hears no response topic beside the payload, but one within it.
    let command = json!({ "id": "one", "args": { "ask": "what is in the picture?" } });
    viewer.send("kinglet/porch/command/see", command.to_string());
    let answer = viewer.json("kinglet/porch/result/one");
    assert!(answer["result"]["answer"].is_string(), "{answer}");
    let command = json!({ "id": "two", "response": "answers/two", "args": {} });
    viewer.send("kinglet/porch/command/see", command.to_string());
    assert_eq!(viewer.json("answers/two")["id"], "two");
    agent.kill();
    assert_eq!(viewer.json("kinglet/porch/status")["state"], "offline");
}

#[test]
fn a_broker_that_knows_no_better_is_found_out_and_nothing_is_lost_when_it_is_killed() {
    let Some(mut broker) = Nats::start() else {
        println!("NOT CHECKED: a broker that knows MQTT 3.1.1 alone (there is no nats-server)");
        return;
    };
    let url = format!("url = \"mqtt://127.0.0.1:{}\"", broker.port);
    let folder = device(&url, "every:200ms");
    let seqs = reader(&("127.0.0.1".to_owned(), broker.port));
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let config = folder.path().join("kinglet.toml");
    let mut command = kinglet(&["run", "--config", &config.to_string_lossy()]);
    let agent = Running::start(command.env("KINGLET_LOG", "info").stderr(log));
    assert_eq!(seqs.recv_timeout(Duration::from_secs(60)), Ok(1));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("MQTT 3.1.1"), "{log}");

    let port = broker.port;
    let devices = told(port, &["ls"]);
    assert!(devices[0].to_string().contains("porch"), "{devices:?}");
    let question = ["see", "porch", "--ask", "what is in the picture?"];
    let answer = &told(port, &question)[0];
    assert!(
        answer["answers"]["porch"]["result"]["answer"].is_string(),
        "{answer}"
    );
    let group = [
        "see",
        "--group",
        "doors",
        "--ask",
        "what is in the picture?",
    ];
    assert!(told(port, &group)[0].to_string().contains("porch"));
    let picture = put(folder.path(), "porch.jpg", b"");
    std::fs::remove_file(&picture).unwrap();
    told(port, &["snapshot", "porch", "-o", &picture]);
    assert!(std::fs::metadata(&picture).unwrap().len() > 1000);

    let told = told(port, &["watch", "--events", "3"]);
    assert!(
        told.iter().any(|line| line.to_string().contains("\"seq\"")),
        "{told:?}"
    );
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(2000));
        broker.kill_and_start();
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.terminate(), Some(0));
    let (mut all, mut last) = (BTreeMap::from([(1, 1)]), Instant::now());
    while last.elapsed() < Duration::from_secs(5) {
        if let Ok(seq) = seqs.recv_timeout(Duration::from_millis(500)) {
            *all.entry(seq).or_insert(0) += 1;
            last = Instant::now();
        }
    }
    let newest = *all.keys().max().unwrap();
    let twice = all.values().filter(|n| **n > 1).count();
    println!(
        "NATS killed 4 times: {newest} events stored, {} arrived, {twice} twice",
        all.len()
    );
    assert!(newest > 10, "{newest}");
    assert_eq!(all.len() as u64, newest, "{all:?}");
}

#[test]
fn a_device_goes_to_another_node_when_its_own_is_killed() {
    let Some(cluster) = Cluster::start() else {
        println!("NOT CHECKED: a cluster of brokers (there is no nats-server)");
        return;
    };
    // How a node goes, and how it comes back.
    goes_on_without(cluster, "killed", |cluster, node, gone| {
        if gone {
            cluster.kill(node);
        } else {
            cluster.start_again(node);
        }
    });
}

#[test]
#[ignore = "needs root for hosts of its own, and three minutes: tools/check --long runs it"]
fn a_device_goes_to_another_node_when_its_own_is_cut_off() {
    let cluster = match Cluster::across_hosts() {
        Ok(cluster) => cluster,
        Err(reason) => {
            println!("NOT CHECKED: a cluster across hosts ({reason})");
            return;
        }
    };
    // A host that says nothing any more is noticed by its silence.
    goes_on_without(cluster, "cut off", |cluster, node, gone| {
        cluster.cut(node, gone);
    });
}

/// A device stores events while the node that it is on goes and comes back; every one arrives.
fn goes_on_without(mut cluster: Cluster, what: &str, change: impl Fn(&mut Cluster, usize, bool)) {
    // A cluster that has just been started takes a while.
    for node in &cluster.addresses {
        until_it_serves(node);
    }
    let lines = format!(
        "url = \"{}\"\nalso = [\"{}\", \"{}\"]\nallow_insecure = true",
        cluster.url(0),
        cluster.url(1),
        cluster.url(2)
    );
    let folder = device(&lines, "every:200ms");
    // Where this one's node goes, its session waits for it to come back.
    let seqs = reader(&cluster.addresses[2]);
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let config = folder.path().join("kinglet.toml");
    let mut command = kinglet(&["run", "--config", &config.to_string_lossy()]);
    let agent = Running::start(command.env("KINGLET_LOG", "info").stderr(log));
    let mut all = BTreeMap::new();
    let mut take = |time: Duration| {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let Ok(seq) = seqs.recv_timeout(left) else {
                break;
            };
            *all.entry(seq).or_insert(0) += 1;
        }
        all.len()
    };
    let began = Instant::now();
    while take(Duration::from_secs(1)) < 5 {
        assert!(began.elapsed() < Duration::from_secs(60), "no event comes");
    }
    let log = folder.path().join("log");
    let nodes = cluster.addresses.clone();
    let connections = || connections(&log, &nodes);
    for _ in 0..3 {
        let before = connections();
        let node = *before.last().unwrap();
        change(&mut cluster, node, true);
        let began = Instant::now();
        // Those that are left choose a leader first; a host that says nothing is missed only after a while.
        while connections().len() == before.len() {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "without node {node}: {}",
                std::fs::read_to_string(&log).unwrap()
            );
            take(Duration::from_secs(1));
        }
        assert_ne!(
            connections().last(),
            Some(&node),
            "it is {what}, and the device is on it"
        );
        take(Duration::from_secs(2));
        change(&mut cluster, node, false);
        // Two of three must be whole before the next one goes.
        until_it_serves(&cluster.addresses[node]);
        take(Duration::from_secs(4));
    }
    // What waits on the device must find its way first.
    take(Duration::from_secs(5));
    assert_eq!(agent.terminate(), Some(0));
    take(Duration::from_secs(5));
    let newest = *all.keys().max().unwrap();
    let twice = all.values().filter(|n| **n > 1).count();
    println!(
        "a node {what}, the device on nodes {:?}: {newest} events stored, {} arrived, {twice} twice",
        connections(),
        all.len()
    );
    assert!(connections().len() > 1);
    // How many depends on the machine; some before, between and after.
    assert!(newest > 10, "{newest}");
    let log = std::fs::read_to_string(&log).unwrap();
    assert_eq!(all.len() as u64, newest, "{all:?}\n{log}");
}

/// The nodes that an agent has been connected to, one after another, as its log says.
fn connections(log: &Path, nodes: &[(String, u16)]) -> Vec<usize> {
    let log = std::fs::read_to_string(log).unwrap();
    let on = |line: &str| {
        let is =
            |(host, port): &(String, u16)| line.contains(&format!("connected to {host}:{port},"));
        nodes.iter().position(is)
    };
    log.lines().filter_map(on).collect()
}

/// Waits until a node lets a client in that wants its session kept.
fn until_it_serves((host, port): &(String, u16)) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut options = rumqttc::MqttOptions::new("probe", host, *port);
    options.set_clean_session(false);
    let (client, mut connection) = rumqttc::Client::new(options, 16);
    for event in connection.iter() {
        if let Ok(rumqttc::Event::Incoming(rumqttc::Packet::ConnAck(_))) = event {
            client.disconnect().unwrap();
        } else if let Ok(rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect)) = event {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{host}:{port} lets nobody in: {event:?}"
        );
        if event.is_err() {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The numbers of the events that come, on a session that the broker keeps.
fn reader((host, port): &(String, u16)) -> Receiver<u64> {
    let mut options = rumqttc::MqttOptions::new("reader", host, *port);
    options.set_clean_session(false);
    let (client, mut connection) = rumqttc::Client::new(options, 16);
    let (sender, seqs) = channel();
    let (subscribed, confirmed) = channel();
    client
        .subscribe("kinglet/porch/event", rumqttc::QoS::AtLeastOnce)
        .unwrap();
    std::thread::spawn(move || {
        for event in connection.iter() {
            match event {
                Ok(rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish))) => {
                    let event: Value = serde_json::from_slice(&publish.payload).unwrap();
                    if sender.send(event["seq"].as_u64().unwrap()).is_err() {
                        return;
                    }
                }
                Ok(rumqttc::Event::Incoming(rumqttc::Packet::SubAck(_))) => {
                    let _ = subscribed.send(());
                }
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
        drop(client);
    });
    confirmed.recv_timeout(Duration::from_secs(60)).unwrap();
    seqs
}
