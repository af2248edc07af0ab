//! Numbers for Prometheus, in its text format (OpenMetrics).

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::Monitor;
use crate::camera::{CameraReport, CameraState};
use crate::engine::ModelInfo;
use crate::link::Connection;

/// What is counted as it happens. What is known elsewhere is read when it is asked for.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Stored events.
    events: Family<EventLabels, Counter>,
    /// Frames that a trigger chose while too many waited.
    missed: Family<WatchLabels, Counter>,
    /// Answered commands.
    commands: Family<CommandLabels, Counter>,
    /// Messages of the outbox that the broker has.
    pub(crate) sent: Counter,
    /// Messages that the broker refused.
    pub(crate) refused: Counter,
    /// Seconds that the model took.
    seconds: Family<StageLabels, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    watch: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    watch: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            events: Family::default(),
            missed: Family::default(),
            commands: Family::default(),
            sent: Counter::default(),
            refused: Counter::default(),
            // 50 ms to 27 minutes.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.05, 2.0, 16))
            }),
        }
    }
}

impl Metrics {
    /// An event was stored.
    pub(crate) fn event(&self, watch: &str, kind: &'static str) {
        let watch = watch.to_owned();
        self.events
            .get_or_create(&EventLabels { watch, kind })
            .inc();
    }

    /// A frame was not looked at.
    pub(crate) fn missed(&self, watch: &str) {
        let watch = watch.to_owned();
        self.missed.get_or_create(&WatchLabels { watch }).inc();
    }

    /// A command was answered.
    pub(crate) fn command(&self, done: bool) {
        let outcome = if done { "done" } else { "refused" };
        self.commands
            .get_or_create(&CommandLabels { outcome })
            .inc();
    }

    /// The model has worked.
    pub(crate) fn took(&self, stage: &'static str, time: Duration) {
        let histogram = self.seconds.get_or_create(&StageLabels { stage });
        histogram.observe(time.as_secs_f64());
    }
}

/// All numbers, as text.
///
/// # Errors
/// [`fmt::Error`] if memory runs out.
pub(super) fn text(
    monitor: &Arc<Monitor>,
    model: &ModelInfo,
    device: &str,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("kinglet");
    let metrics = &monitor.metrics;
    let info = [
        ("device", device.to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("model", model.name.clone()),
        ("model_sha256", model.sha256.clone()),
    ];
    registry.register("agent", "What the device is", Info::new(info.to_vec()));
    registry.register("events", "Events that were stored", metrics.events.clone());
    registry.register(
        "frames_not_looked_at",
        "Frames that a trigger chose while too many others waited",
        metrics.missed.clone(),
    );
    registry.register(
        "commands",
        "Commands that were answered",
        metrics.commands.clone(),
    );
    registry.register(
        "messages_sent",
        "Messages of the outbox that the broker has taken",
        metrics.sent.clone(),
    );
    registry.register(
        "messages_refused",
        "Times that the broker refused a message",
        metrics.refused.clone(),
    );
    registry.register(
        "model_seconds",
        "How long the model took, in seconds",
        metrics.seconds.clone(),
    );
    registry.register_collector(Box::new(Now(Arc::downgrade(monitor))));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// What is read when it is asked for.
#[derive(Debug)]
struct Now(Weak<Monitor>);

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(monitor) = self.0.upgrade() else {
            return Ok(());
        };
        let health = monitor.health();
        let connected = *monitor.connection.borrow() == Connection::Up;
        let gauges = [
            (
                "healthy",
                "Whether nothing hangs",
                u64::from(health.healthy),
            ),
            (
                "broker_connected",
                "Whether the broker is there",
                u64::from(connected),
            ),
            (
                "model_works",
                "Whether the model computes",
                u64::from(monitor.pulse.works()),
            ),
            (
                "outbox_messages",
                "Messages that wait",
                health.outbox.messages as u64,
            ),
            (
                "outbox_bytes",
                "Bytes of the messages that wait",
                health.outbox.bytes,
            ),
        ];
        for (name, help, value) in gauges {
            gauge(&mut encoder, name, help, value)?;
        }
        if let Some(memory) = resident() {
            gauge(
                &mut encoder,
                "resident_memory_bytes",
                "Memory that the process holds",
                memory,
            )?;
        }
        let dropped = ConstCounter::new(health.outbox.dropped);
        let help = "Messages that were dropped because the outbox was full";
        let into =
            encoder.encode_descriptor("outbox_dropped", help, None, dropped.metric_type())?;
        dropped.encode(into)?;
        cameras(&mut encoder, &monitor)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    let into = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    gauge.encode(into)
}

/// A number of a camera: its name, what it is, and how it is read.
type Number = (&'static str, &'static str, fn(&CameraReport) -> u64);

fn cameras(encoder: &mut DescriptorEncoder<'_>, monitor: &Monitor) -> fmt::Result {
    const COUNTERS: [Number; 4] = [
        ("camera_frames", "Frames that came", |c| c.frames),
        (
            "camera_dropped",
            "Frames that nobody had time for, or that were lost",
            |c| c.dropped,
        ),
        ("camera_errors", "Damaged frames", |c| c.errors),
        (
            "camera_reconnects",
            "Connections that were lost or could not be made",
            |c| c.reconnects,
        ),
    ];
    let sources = monitor.sources(Instant::now());
    for (name, help, read) in COUNTERS {
        let kind = ConstCounter::new(0u64).metric_type();
        let mut into = encoder.encode_descriptor(name, help, None, kind)?;
        for (camera, report) in &sources {
            let labels = [("camera", camera.as_str())];
            let counter = ConstCounter::new(read(report));
            counter.encode(into.encode_family(&labels)?)?;
        }
    }
    let mut gauges = |name, help, read: fn(&CameraReport) -> f64| -> fmt::Result {
        let kind = ConstGauge::new(0.0).metric_type();
        let mut into = encoder.encode_descriptor(name, help, None, kind)?;
        for (camera, report) in &sources {
            let labels = [("camera", camera.as_str())];
            ConstGauge::new(read(report)).encode(into.encode_family(&labels)?)?;
        }
        Ok(())
    };
    gauges("camera_fps", "Frames a second that came lately", |c| c.fps)?;
    gauges("camera_delivers", "Whether frames come", |c| {
        f64::from(u8::from(c.state == CameraState::Delivering))
    })
}

/// Bytes of memory that this process holds, as Linux counts them.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
