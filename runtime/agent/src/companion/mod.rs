//! The microcontroller that wakes the board: `serial` the line, `talk` what is said on it, `wakes` what became
//! of it, for watches that look `when = "companion"`. One thread owns the line.

mod serial;
mod talk;
#[cfg(test)]
mod tests;
mod wakes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kinglet_link::{LONGEST_FRAME, Millis};
use serde::Serialize;
use tokio::sync::Notify;

use crate::agent::thread;
use crate::config::CompanionConfig;
use crate::error::Result;
use serial::Line;
use talk::{News, Talk};
pub(crate) use wakes::{Wakes, Woken};

/// Pauses between tries to open the line.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// How often the thread looks whether the agent stops.
const TURN: Duration = Duration::from_millis(200);
/// How long a companion may take to hear that the agent ends.
const FAREWELL: Duration = Duration::from_millis(500);
/// What is read at once, in bytes. A line that brings more than this every [`READ_PAUSE`] is no companion's: it
/// must not have a core of its own.
const READ: usize = 512;
const READ_PAUSE: Duration = Duration::from_millis(5);

/// Whether it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CompanionState {
    /// The line cannot be used.
    #[default]
    Missing,
    /// Nothing that makes sense is heard.
    Silent,
    /// It is heard, and refuses its settings or speaks another version of the protocol.
    Strange,
    /// All is well.
    Connected,
}

/// How it is, in the status.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CompanionReport {
    /// Whether it is there.
    pub state: CompanionState,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The version of its firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<u32>,
    /// Its inputs by name, and whether they are active.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, bool>,
    /// How bright it is, 0 to 1 of what its sensor can measure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub light: Option<f64>,
    /// How often it has woken the board since it got power.
    pub wakes: u32,
    /// How often it has cut the board's power.
    pub power_cycles: u32,
    /// What did not find room in it.
    pub lost: u32,
    /// Frames that came damaged, or were sent again, since the agent has started.
    pub damaged: u32,
    /// See `damaged`.
    pub again: u32,
}

/// What others know of the companion.
#[derive(Debug)]
pub(crate) struct Companion {
    pub(crate) wakes: Arc<Wakes>,
    report: Mutex<CompanionReport>,
    changed: Arc<Notify>,
}

impl Companion {
    /// Nothing is known yet. `changed` is told of news for the status.
    pub(crate) fn new(wakes: Arc<Wakes>, changed: Arc<Notify>) -> Self {
        Companion {
            wakes,
            report: Mutex::default(),
            changed,
        }
    }

    /// How it is.
    pub(crate) fn report(&self) -> CompanionReport {
        self.lock().clone()
    }

    /// Sets how it is, and tells whoever shows that, if it matters.
    fn set(&self, change: impl FnOnce(&mut CompanionReport)) {
        let mut report = self.lock();
        let before = report.clone();
        change(&mut report);
        let told = |r: &CompanionReport| (r.state, r.error.clone(), r.power_cycles, r.lost);
        let news = told(&before) != told(&report);
        let line = match (&report.error, before.error == report.error) {
            (Some(error), false) => Some(error.clone()),
            _ => None,
        };
        let connected = before.state != report.state && report.state == CompanionState::Connected;
        drop(report);
        if let Some(line) = line {
            tracing::warn!("companion: {line}");
        }
        if connected {
            tracing::info!("companion: connected");
        }
        if news {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, CompanionReport> {
        // Nothing that is done with it can panic half-way.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that owns the line, until the flag is set. `alive` says whether the agent does its work: the
/// companion hears of it.
///
/// # Errors
/// [`crate::AgentError`] if the configuration cannot be, or there is no thread.
pub(crate) fn start(
    companion: Arc<Companion>,
    config: CompanionConfig,
    alive: impl Fn() -> bool + Send + 'static,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let settings = config.settings()?;
    thread("companion", move || {
        let started = Instant::now();
        let mut pause = FIRST_RETRY;
        // Goes on from line to line: what the log has told once is not told again.
        let mut talk = Talk::new(settings, random());
        while !stop.load(Ordering::Relaxed) {
            let end = match Line::open(&config.device, config.baud) {
                Ok(line) => {
                    pause = FIRST_RETRY;
                    talk.begin(now(started));
                    hold(
                        &companion, &config, &mut talk, &line, &alive, &stop, started,
                    )
                }
                Err(e) => Err(e),
            };
            if let Err(error) = end {
                companion.set(|report| {
                    report.state = CompanionState::Missing;
                    report.error = Some(format!("{}: {error}", config.device.display()));
                });
                sleep(pause, &stop);
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
    })
}

/// Talks until the line fails or the agent stops.
fn hold(
    companion: &Companion,
    config: &CompanionConfig,
    talk: &mut Talk,
    line: &Line,
    alive: &impl Fn() -> bool,
    stop: &AtomicBool,
    started: Instant,
) -> std::io::Result<()> {
    let mut bytes = [0; READ];
    let mut out = [0; LONGEST_FRAME];
    let mut farewell: Option<Instant> = None;
    loop {
        let at = now(started);
        if stop.load(Ordering::Relaxed) {
            let until = *farewell.get_or_insert_with(|| {
                talk.leave();
                Instant::now() + FAREWELL
            });
            if Instant::now() >= until || talk.has_said_all() {
                return Ok(());
            }
        } else {
            talk.poll(at, alive());
        }
        while let Some(frame) = talk.transmit(at, &mut out) {
            line.write(frame)?;
        }
        let wait = talk.due().map_or(TURN, |due| {
            Duration::from_millis(due.saturating_sub(at)).min(TURN)
        });
        let length = line.read(&mut bytes, wait)?;
        for &byte in &bytes[..length] {
            if let Some(news) = talk.receive(byte, now(started)) {
                take(companion, config, news);
            }
        }
        if length == READ {
            std::thread::sleep(READ_PAUSE);
        }
        let (state, error) = talk.state(now(started));
        let counters = talk.counters();
        companion.set(|report| {
            (report.state, report.error) = (state, error);
            (report.damaged, report.again) = (counters.damaged, counters.again);
        });
    }
}

/// What becomes of news.
fn take(companion: &Companion, config: &CompanionConfig, news: News) {
    match news {
        News::Hello { firmware } => companion.set(|report| report.firmware = Some(firmware)),
        News::Woken(wake) => {
            let woken = Woken {
                input: config.input_name(wake.input),
                count: wake.count,
                light: wake.light.map(fraction),
            };
            tracing::info!(input = woken.input, count = woken.count, "companion: woken");
            companion.wakes.note(woken, Instant::now());
        }
        News::Report(news) => companion.set(|report| {
            let names = (0..).zip(&config.input);
            let active = |(i, input): (u32, &crate::config::InputConfig)| {
                (input.name.clone(), news.inputs >> i & 1 == 1)
            };
            report.inputs = names.map(active).collect();
            report.light = news.light.map(fraction);
            report.wakes = news.wakes;
            report.power_cycles = news.power_cycles;
            report.lost = news.lost;
        }),
        News::Entry(entry) => {
            tracing::info!(
                number = entry.number,
                at_ms = entry.at,
                "companion: {:?}",
                entry.what
            );
        }
    }
}

/// A brightness as a part of what the sensor can measure, to a thousandth.
fn fraction(light: kinglet_link::Light) -> f64 {
    (f64::from(light) / f64::from(kinglet_link::Light::MAX) * 1000.0).round() / 1000.0
}

fn now(started: Instant) -> Millis {
    started.elapsed().as_millis() as Millis
}

/// Tells this run of the agent from the last one.
fn random() -> u16 {
    let mut bytes = [0; 2];
    // Without chance the link still notices a new beginning; it only may take one message for a repeated one.
    let _ = getrandom::fill(&mut bytes);
    u16::from_le_bytes(bytes)
}

fn sleep(pause: Duration, stop: &AtomicBool) {
    let end = Instant::now() + pause;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(TURN.min(pause));
    }
}
