//! Many devices in one process: the agent's own code, with an engine that answers at once. Says what they
//! cost and what arrives; exit 1 if an event is lost or a device is missing.
//!
//! # Layout
//! - [`engine`]: the engine; [`fleet`]: the devices.
//! - [`observer`]: a client that reads along and counts gaps.
//! - [`rollout`]: a signed model for all of them.
//! - [`process`]: what a process costs.

mod engine;
mod fleet;
mod observer;
mod process;
mod rollout;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use kinglet_tests::{Mosquitto, broker};
use serde_json::json;

use fleet::Fleet;
use observer::Observer;
use process::Cost;
use rollout::Rollout;

/// How long the last events may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// Many devices on one mosquitto, which is started on a free port.
#[derive(Debug, Parser)]
#[command(name = "kinglet-simulator")]
struct Args {
    /// How many.
    #[arg(long, default_value_t = 50)]
    devices: usize,
    /// How long they run once all are there.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seconds from one event of a device to its next.
    #[arg(long, default_value_t = 2.0)]
    every: f64,
    /// Where their states go, for the time of the run; left out: the folder for temporary files.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Brings a signed model to all of them, by this program: kinglet.
    #[arg(long, value_name = "PROGRAM")]
    rollout: Option<PathBuf>,
    /// How long that may take, as the program reads it.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    within: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.to_string()),
    };
    match runtime.block_on(run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => failed("events were lost, or devices are missing"),
        Err(reason) => failed(&reason),
    }
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("kinglet-simulator: {reason}");
    ExitCode::FAILURE
}

async fn run(args: &Args) -> Result<bool, String> {
    let words = |e: std::io::Error| e.to_string();
    let folder = match &args.state {
        Some(state) => tempfile::tempdir_in(state),
        None => tempfile::tempdir(),
    };
    let folder = folder.map_err(words)?;
    let mosquitto = Mosquitto::with(
        broker::free_port(),
        "allow_anonymous true\nmax_queued_messages 0",
    );
    let before = Cost::of("self")?;
    let observer = Observer::start(mosquitto.port);

    let started = Instant::now();
    let (rollout, signer) = match &args.rollout {
        None => (None, None),
        Some(program) => {
            let rollout = Rollout::new(program, folder.path())?;
            let signer = rollout.signer();
            (Some(rollout), Some(signer))
        }
    };
    let mut fleet = Fleet::new(folder.path(), &mosquitto.url(), args.every, signer)?;
    // Evenly over a period, or as fast as they start: else all events come at once.
    let pause = Duration::from_secs_f64(args.every / args.devices.max(1) as f64);
    for number in 0..args.devices {
        if let Err(reason) = fleet.add(number) {
            eprintln!("device {number} does not start: {reason}");
            break;
        }
        let due = started + pause * (number as u32 + 1);
        tokio::time::sleep_until(due.into()).await;
    }
    let deadline = Instant::now() + PATIENCE;
    while observer.online() < fleet.len() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let starting = started.elapsed();
    let online = observer.online();
    eprintln!(
        "{online} of {} devices are online after {starting:.1?}",
        args.devices
    );

    let (working, events, made) = (Instant::now(), observer.events(), fleet.made());
    let (broker_before, self_before) = (Cost::of(&mosquitto.pid().to_string())?, Cost::of("self")?);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let took = working.elapsed().as_secs_f64();
    let (events, made) = (observer.events() - events, fleet.made() - made);
    let (costs, broker) = (Cost::of("self")?, Cost::of(&mosquitto.pid().to_string())?);

    let mut rolled = None;
    if let Some(rollout) = &rollout {
        let (started, before, told) = (Instant::now(), Cost::of("self")?, observer.progress());
        let took = rollout.run(&mosquitto.url(), &args.within).await?;
        let (after, told) = (Cost::of("self")?, observer.progress() - told);
        let seconds = took.as_secs_f64();
        rolled = Some(json!({
            "seconds": seconds,
            "progress_messages": told,
            "progress_messages_a_second": told as f64 / seconds,
            "processors_busy": (after.seconds - before.seconds) / started.elapsed().as_secs_f64(),
            "resident_mib": after.resident >> 20,
        }));
    }

    let devices = fleet.len();
    fleet.stop().await;
    let all_made = fleet.made();
    let deadline = Instant::now() + PATIENCE;
    let all_here = || observer.events() >= all_made && observer.offline() >= devices;
    while !all_here() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seen = observer.summary();
    let each = devices.max(1) as f64;
    let share = |after: &Cost, before: &Cost| (after.seconds - before.seconds) / took;
    let result = json!({
        "devices": devices,
        "online": online,
        "offline_at_the_end": seen.offline,
        "seconds_to_start": starting.as_secs_f64(),
        "seconds": took,
        "events_made_a_second": made as f64 / took,
        "events_arrived_a_second": events as f64 / took,
        "events_made": all_made,
        "events_arrived": observer.events(),
        "rollout": rolled,
        "repeated": seen.repeated,
        "lost": seen.lost,
        "lag_ms_median": seen.lag(0.5),
        "lag_ms_99": seen.lag(0.99),
        "of_a_device": {
            "resident_kib": (costs.resident - before.resident) as f64 / 1024.0 / each,
            "threads": (costs.threads as f64 - before.threads as f64) / each,
            "files": (costs.files as f64 - before.files as f64) / each,
        },
        "processors_busy": { "devices": share(&costs, &self_before), "broker": share(&broker, &broker_before) },
        "resident_mib": { "devices": costs.resident >> 20, "broker": broker.resident >> 20 },
    });
    println!("{result:#}");
    let whole = devices == args.devices && online == devices && seen.offline == devices;
    Ok(whole && seen.lost == 0 && observer.events() == all_made && all_made > 0)
}
