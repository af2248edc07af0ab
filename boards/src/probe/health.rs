//! Memory, temperatures, power mode.

use serde::Serialize;

use super::files::Tree;

/// Degrees Celsius that a sensor may tell.
const BELIEVABLE: std::ops::Range<f64> = -60.0..200.0;

/// Memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Bytes that the system calls its own.
    pub total: Option<u64>,
    /// Bytes that programs could get now without swapping.
    pub available: Option<u64>,
    /// Bytes of swap.
    pub swap: Option<u64>,
    /// Per cent of the last minute in which some program waited for memory (PSI, `some avg60`).
    pub pressure: Option<f64>,
}

/// A sensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Zone {
    /// What it measures.
    pub name: String,
    /// Degrees Celsius.
    pub degrees: f64,
}

impl Memory {
    pub(super) fn read(tree: &Tree, notes: &mut Vec<String>) -> Self {
        let text = tree.text("proc/meminfo").unwrap_or_default();
        let of = |key: &str| {
            let line = text
                .lines()
                .find(|line| line.split(':').next() == Some(key))?;
            let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            kib.checked_mul(1024)
        };
        let total = of("MemTotal");
        if total.is_none_or(|bytes| bytes == 0) {
            notes.push("/proc/meminfo does not say how much memory there is".to_owned());
        }
        let available = of("MemAvailable");
        if available > total {
            notes.push("more memory is available than there is, which nobody believes".to_owned());
        }
        let pressure = tree.line("proc/pressure/memory").and_then(|line| {
            let (_, rest) = line.split_once("avg60=")?;
            let percent: f64 = rest.split_whitespace().next()?.parse().ok()?;
            (0.0..=100.0).contains(&percent).then_some(percent)
        });
        if let Some(percent) = pressure.filter(|p| *p >= 10.0) {
            notes.push(format!(
                "programs waited for memory {percent} % of the last minute"
            ));
        }
        Memory {
            total: total.filter(|bytes| *bytes > 0),
            available: available.filter(|bytes| Some(*bytes) <= total),
            swap: of("SwapTotal"),
            pressure,
        }
    }
}

pub(super) fn zones(tree: &Tree, notes: &mut Vec<String>) -> Vec<Zone> {
    let mut zones = Vec::new();
    for folder in tree.children("sys/class/thermal") {
        if !folder.starts_with("thermal_zone") {
            continue;
        }
        let name = tree.line(&format!("sys/class/thermal/{folder}/type"));
        let name = name.unwrap_or_else(|| folder.clone());
        // Sensors of parts that are switched off answer with an error.
        let Some(millidegrees) = tree.number(&format!("sys/class/thermal/{folder}/temp")) else {
            continue;
        };
        let degrees = (millidegrees as f64 / 100.0).round() / 10.0;
        if BELIEVABLE.contains(&degrees) {
            zones.push(Zone { name, degrees });
        } else {
            notes.push(format!(
                "the sensor {name} claims {degrees} degrees, which nobody believes"
            ));
        }
    }
    zones
}

/// The part of its highest clock that a core is allowed: of the one that is held back most.
pub(super) fn clock(tree: &Tree) -> Option<f64> {
    let cores = tree.children("sys/devices/system/cpu").into_iter();
    let parts = cores.filter_map(|core| {
        let number = core.strip_prefix("cpu")?;
        number.parse::<u32>().ok()?;
        let of = |file: &str| tree.number(&format!("sys/devices/system/cpu/{core}/cpufreq/{file}"));
        let (now, most) = (of("scaling_max_freq")?, of("cpuinfo_max_freq")?);
        (0 < now && now <= most).then(|| now as f64 / most as f64)
    });
    parts.min_by(f64::total_cmp)
}

/// The power mode: of a Jetson (nvpmodel), else how clocks are chosen.
pub(super) fn power(tree: &Tree) -> Option<String> {
    let mode = || {
        let status = tree.line("var/lib/nvpmodel/status")?;
        let number: u32 = status.split_once(':')?.1.trim().parse().ok()?;
        let text = tree.text("etc/nvpmodel.conf").unwrap_or_default();
        let named = text.lines().find_map(|line| {
            // < POWER_MODEL ID=2 NAME=MAXN >
            let rest = line.trim().strip_prefix("< POWER_MODEL ID=")?;
            let (id, rest) = rest.split_once(' ')?;
            let name = rest
                .trim()
                .strip_prefix("NAME=")?
                .split([' ', '>'])
                .next()?;
            (id.parse() == Ok(number)).then(|| name.to_owned())
        });
        Some(named.unwrap_or_else(|| format!("mode {number}")))
    };
    mode().or_else(|| {
        let governor = tree.line("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")?;
        Some(format!("clocks by {governor}"))
    })
}
