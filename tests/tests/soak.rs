//! An agent that works for a while: nothing grows, nothing is missed. `KINGLET_SOAK_SECONDS` says for how long
//! (60); from an hour on the slope of memory is judged, too.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kinglet_tests::{Mosquitto, Running, Viewer, device, kinglet};

/// systemd's limit in this test.
const WATCHDOG: Duration = Duration::from_secs(10);
/// From here on a slope says something.
const LONG: u64 = 3600;
/// MiB an hour.
const STEEPEST: f64 = 1.0;
/// MiB that a short run may end above its middle: caches still fill.
const MOST_GROWTH: f64 = 8.0;

/// Seconds since the start, MiB of memory, open files.
struct Sample {
    at: f64,
    memory: f64,
    files: usize,
}

fn sample(pid: u32, at: f64) -> Sample {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    let kib: f64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    Sample {
        at,
        memory: kib / 1024.0,
        files: std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count(),
    }
}

/// Least squares: MiB an hour.
fn slope(samples: &[Sample]) -> f64 {
    let n = samples.len() as f64;
    let mean_at = samples.iter().map(|s| s.at).sum::<f64>() / n;
    let mean = samples.iter().map(|s| s.memory).sum::<f64>() / n;
    let both: f64 = samples
        .iter()
        .map(|s| (s.at - mean_at) * (s.memory - mean))
        .sum();
    let square: f64 = samples.iter().map(|s| (s.at - mean_at).powi(2)).sum();
    both / square * 3600.0
}

/// When the watchdog was fed.
fn fed(socket: UnixDatagram) -> Receiver<Instant> {
    let (sender, times) = channel();
    std::thread::spawn(move || {
        let mut message = [0; 1024];
        while let Ok(length) = socket.recv(&mut message) {
            if message[..length].starts_with(b"WATCHDOG=1") && sender.send(Instant::now()).is_err()
            {
                return;
            }
        }
    });
    times
}

#[test]
fn an_agent_works_on_and_on() {
    let seconds: u64 = std::env::var("KINGLET_SOAK_SECONDS").map_or(60, |s| s.parse().unwrap());
    let broker = Mosquitto::start();
    let folder = device(&format!("url = \"{}\"", broker.url()), "every:500ms");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let viewer = Viewer::connect(broker.port, "viewer");
    let config = folder.path().join("kinglet.toml");
    let mut command = kinglet(&["run", "--config", &config.to_string_lossy()]);
    let microseconds = WATCHDOG.as_micros().to_string();
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", microseconds);
    command.env("KINGLET_LOG", "warn");
    let running = Running::start(&mut command);
    let pid = running.0.id();
    let fed = fed(socket);

    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let (mut samples, mut asked, mut answered, mut events) = (Vec::new(), 0, 0, 0);
    let mut due = start;
    while Instant::now() < end {
        if Instant::now() >= due {
            due += Duration::from_secs(2);
            let at = start.elapsed().as_secs_f64();
            samples.push(sample(pid, at));
            asked += 1;
            let (name, args) = match asked % 5 {
                0 => ("draw", r#""prompt": "a red ball", "steps": 4"#),
                1 => ("snapshot", ""),
                2 => ("see", r#""image": "no picture""#),
                _ => ("see", r#""ask": "what is in the picture?""#),
            };
            let payload = format!(r#"{{"id": "soak-{asked}", "args": {{{args}}}}}"#);
            viewer.send(&format!("kinglet/porch/command/{name}"), payload);
        }
        let publish = viewer.wait("a message", |p| !p.topic.ends_with(b"/status"));
        if publish.topic == "kinglet/porch/event" {
            let event: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
            events += 1;
            assert_eq!(event["seq"], events, "an event is missing");
        } else if publish.topic.starts_with(b"kinglet/porch/result/soak-") {
            let text = String::from_utf8_lossy(&publish.payload);
            answered += usize::from(text.contains("\"result\"") || text.contains("\"error\""));
        }
    }
    let times: Vec<Instant> = fed.try_iter().collect();
    let gaps = times.windows(2).map(|t| t[1].duration_since(t[0]));
    let longest = gaps.max().unwrap_or(Duration::MAX);
    assert_eq!(running.terminate(), Some(0));

    // The beginning fills caches: the first third is left out.
    let samples = &samples[samples.len() / 3..];
    let (first, last) = (&samples[0], &samples[samples.len() - 1]);
    let slope = slope(samples);
    println!(
        "soak: {seconds} s, {events} events, {answered} of {asked} commands answered; memory {:.1} to {:.1} MiB, \
         {slope:+.2} MiB an hour; {} to {} open files; watchdog fed every {:.1} s at the latest",
        first.memory,
        last.memory,
        first.files,
        last.files,
        longest.as_secs_f64()
    );
    assert!(events >= seconds, "two events a second are due");
    assert!(answered + 3 >= asked, "commands are answered");
    assert!(last.files <= first.files + 2, "files stay open");
    assert!(longest < WATCHDOG, "the watchdog was not fed in time");
    assert!(last.memory - first.memory < MOST_GROWTH, "memory grows");
    if seconds >= LONG {
        assert!(slope <= STEEPEST, "memory grows");
    }
}
