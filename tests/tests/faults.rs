//! Nothing stored is lost: a device under load while its broker is killed or stopped, its connection cut
//! or frozen, its disk full, or itself killed, at random points.
//!
//! `KINGLET_FAULTS` sets how many faults (50), `KINGLET_FAULTS_SEED` which ones. The broker's own memory
//! does not outlive it here, so what has arrived is what it has acknowledged, as a proxy between both reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kinglet_model::Picture;
use kinglet_tests::disk::Disk;
use kinglet_tests::proxy::{Arrived, Proxy};
use kinglet_tests::{Mosquitto, Running, broker, device, kinglet};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

const EVENT: &str = "kinglet/porch/event";
/// Room for the outbox, in MiB; far more than it needs unless nothing is taken away from it.
const DISK: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fault {
    BrokerKilled,
    BrokerStopped,
    Cut,
    Frozen,
    AgentKilled,
    DiskFull,
}

const FAULTS: [Fault; 6] = [
    Fault::BrokerKilled,
    Fault::BrokerStopped,
    Fault::Cut,
    Fault::Frozen,
    Fault::AgentKilled,
    Fault::DiskFull,
];

#[test]
fn nothing_stored_is_lost() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
    };
    let (faults, seed) = (
        number("KINGLET_FAULTS", 50),
        number("KINGLET_FAULTS_SEED", 1),
    );
    let mut random = ChaCha8Rng::seed_from_u64(seed);

    let mut broker = Some(Mosquitto::on(broker::free_port()));
    let port = broker.as_ref().unwrap().port;
    let proxy = Proxy::start(port);
    let url = format!("url = \"mqtt://127.0.0.1:{}\"", proxy.port);
    let folder = device::device(&url, "every:200ms");
    let config = folder.path().join("kinglet.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let clip = text.split('"').find(|s| s.starts_with("folder:")).unwrap();
    let frames = folder.path().join("frames");
    noise(&frames, &mut random);
    let source = format!("folder:{}?fps=20", frames.display());
    std::fs::write(&config, text.replace(clip, &source)).unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let disk = Disk::mount(&state, DISK);
    if disk.is_none() {
        println!("NOT CHECKED: a full disk (the system allows no namespaces)");
    }
    let log = folder.path().join("log");
    let start = || {
        let mut command = kinglet(&["run", "--config", config.to_str().unwrap()]);
        if let Some(disk) = &disk {
            command = disk.inside(&command);
        }
        let log = File::options().create(true).append(true).open(&log);
        Running::start(command.stderr(log.unwrap()))
    };
    let mut agent = Some(start());
    wait_for_more(&proxy, &log, 3);

    let mut counts: BTreeMap<Fault, usize> = BTreeMap::new();
    for _ in 0..faults {
        pause(&mut random, 20, 700);
        let fault = FAULTS[random.random_range(0..FAULTS.len())];
        match (fault, &disk) {
            (Fault::BrokerKilled, _) => {
                drop(broker.take());
                pause(&mut random, 0, 1200);
                broker = Some(Mosquitto::on(port));
            }
            (Fault::BrokerStopped, _) => {
                let pid = broker.as_ref().unwrap().pid();
                signal("-STOP", pid);
                pause(&mut random, 100, 1500);
                signal("-CONT", pid);
            }
            (Fault::Cut, _) => proxy.cut(),
            (Fault::Frozen, _) => {
                proxy.freeze(true);
                pause(&mut random, 100, 1500);
                // What was on its way is lost in half of the cases.
                if random.random() {
                    proxy.cut();
                }
                proxy.freeze(false);
            }
            (Fault::AgentKilled, _) => {
                agent.take().unwrap().kill();
                agent = Some(start());
            }
            (Fault::DiskFull, Some(disk)) => {
                // Nothing leaves meanwhile, so what is to be stored finds no room.
                disk.fill();
                proxy.freeze(true);
                pause(&mut random, 500, 1500);
                proxy.freeze(random.random());
                pause(&mut random, 500, 1500);
                disk.empty();
                proxy.freeze(false);
            }
            (Fault::DiskFull, None) => continue,
        }
        *counts.entry(fault).or_default() += 1;
    }
    // After all of it the device works as before, and has sent what it kept.
    wait_for_more(&proxy, &log, 5);
    assert_eq!(agent.take().unwrap().terminate(), Some(0));
    let last = start();
    wait_for_more(&proxy, &log, 1);
    drop(last);
    report(&counts, &proxy.arrived());
}

/// A camera's frames that make large pictures: a second of them fills what room a file has to spare.
fn noise(folder: &Path, random: &mut ChaCha8Rng) {
    std::fs::create_dir(folder).unwrap();
    for i in 0..4 {
        let (width, height) = (400, 300);
        let rgb = (0..width * height * 3).map(|_| random.random()).collect();
        let picture = Picture::from_rgb(width, height, rgb).unwrap();
        std::fs::write(folder.join(format!("{i}.png")), picture.to_png().unwrap()).unwrap();
    }
}

fn pause(random: &mut ChaCha8Rng, from: u64, to: u64) {
    std::thread::sleep(Duration::from_millis(random.random_range(from..to)));
}

/// Waits until so many more events have arrived.
fn wait_for_more(proxy: &Proxy, log: &Path, more: usize) {
    let events = || proxy.arrived().iter().filter(|m| m.topic == EVENT).count();
    let wanted = events() + more;
    let deadline = Instant::now() + Duration::from_secs(120);
    while events() < wanted {
        if Instant::now() > deadline {
            let log = std::fs::read_to_string(log).unwrap();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            panic!("no event arrives any more; the device's log ends so:\n{last}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(name: &str, pid: u32) {
    let pid = pid.to_string();
    assert!(
        Command::new("kill")
            .args([name, &pid])
            .status()
            .unwrap()
            .success()
    );
}

/// Checks what has arrived and prints the counts.
fn report(counts: &BTreeMap<Fault, usize>, arrived: &[Arrived]) {
    let mut contents: HashMap<String, &[u8]> = HashMap::new();
    let mut pictures: HashSet<String> = HashSet::new();
    let (mut in_order, mut named, mut repeats) = (Vec::new(), Vec::new(), 0);
    for message in arrived {
        if message.topic.starts_with("kinglet/porch/image/") {
            pictures.insert(message.topic.clone());
        }
        if message.topic != EVENT {
            continue;
        }
        let event: Value = serde_json::from_slice(&message.payload).expect("an event is JSON");
        let id = event["id"].as_str().expect("it has an id").to_owned();
        if let Some(first) = contents.get(&id) {
            assert_eq!(*first, &*message.payload, "a repeat is another message");
            repeats += 1;
            continue;
        }
        contents.insert(id, &message.payload);
        in_order.push(event["seq"].as_u64().expect("it has a number"));
        named.push(
            event["picture"]
                .as_str()
                .expect("it names a picture")
                .to_owned(),
        );
    }
    let stored = in_order.last().copied().unwrap_or(0);
    let lost: Vec<u64> = (1..=stored).filter(|n| !in_order.contains(n)).collect();
    for (fault, count) in counts {
        println!("{fault:?}: {count}");
    }
    println!(
        "faults: {}; events stored: {stored}; lost: {}; arrived more than once: {repeats}",
        counts.values().sum::<usize>(),
        lost.len()
    );
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(in_order.is_sorted(), "out of order");
    for picture in named {
        assert!(pictures.contains(&picture), "{picture} has not arrived");
    }
}
