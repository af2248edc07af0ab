//! What a machine is and has now: read from the files in which Linux says it, of the machine that this runs on or
//! of a captured tree of such files.
//!
//! Whatever a file says is doubted: what is missing, too long or impossible is left out or said, and nothing
//! here fails.

mod accelerators;
mod cores;
mod files;
mod health;

use std::path::Path;

use serde::Serialize;

use crate::profile::Profile;
pub(crate) use accelerators::numbers;
pub use accelerators::{Gpu, Npu};
pub use cores::{Cluster, Cores};
use files::Tree;
pub use health::{Memory, Zone};

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    /// The board's own words about itself, from its device tree or its firmware.
    pub model: Option<String>,
    /// The profile that knows it.
    pub board: Option<String>,
    /// Cores.
    pub cores: Cores,
    /// Memory.
    pub memory: Memory,
    /// Sensors.
    pub thermal: Vec<Zone>,
    /// The power mode, as the board's tools call it.
    pub power: Option<String>,
    /// Graphics processors with a driver that is loaded.
    pub gpu: Vec<Gpu>,
    /// Neural processors with a driver that is loaded.
    pub npu: Vec<Npu>,
    /// Cameras: their devices and names.
    pub cameras: Vec<Camera>,
    /// What is missing, does not go together or cannot be believed, in words.
    pub notes: Vec<String>,
}

/// A video device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Camera {
    /// `/dev/video0`
    pub device: String,
    /// What its driver calls it.
    pub name: String,
}

/// How a machine does at a moment: what changes, and is quickly read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Health {
    /// Degrees Celsius of the hottest sensor.
    pub degrees: Option<f64>,
    /// Per cent of the last minute in which some program waited for memory.
    pub pressure: Option<f64>,
    /// The part of its highest clock that the core is allowed which is held back most.
    pub clock: Option<f64>,
}

impl Health {
    /// Of the tree at `root`: `/` is this machine.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let tree = Tree::new(root);
        let mut notes = Vec::new();
        let zones = health::zones(&tree, &mut notes).into_iter();
        Health {
            degrees: zones.map(|zone| zone.degrees).max_by(f64::total_cmp),
            pressure: Memory::read(&tree, &mut notes).pressure,
            clock: health::clock(&tree),
        }
    }
}

impl Probe {
    /// Probes the tree at `root`: `/` is this machine.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let tree = Tree::new(root);
        let mut notes = Vec::new();
        let profiles = Profile::all().unwrap_or_default();
        let compatible = tree.strings("proc/device-tree/compatible");
        let memory = Memory::read(&tree, &mut notes);
        let cores = Cores::read(&tree, &mut notes);
        let board = board(&profiles, &compatible, memory.total, &cores);
        if board.is_none() {
            let names = match &compatible[..] {
                [] => "it has no device tree".to_owned(),
                names => names.join(", "),
            };
            notes.push(format!(
                "no profile knows this board ({names}): generic values are taken"
            ));
        }
        let npu = accelerators::npus(&tree, &mut notes);
        if let Some(expected) = board.and_then(|b| b.npu.as_ref())
            && npu.is_empty()
        {
            notes.push(format!(
                "this board has a neural processor ({}), but no driver of it is loaded; Kinglet uses the cores",
                expected.name
            ));
        }
        let gpu = accelerators::gpus(&tree, &mut notes);
        if let Some(expected) = board.and_then(|b| b.gpu.as_ref())
            && expected.compute.is_some()
            && gpu.is_empty()
        {
            notes.push(format!(
                "this board has a CUDA processor ({}), but no driver of it is loaded; Kinglet uses the cores",
                expected.name
            ));
        }
        Probe {
            model: tree
                .strings("proc/device-tree/model")
                .into_iter()
                .next()
                .or_else(|| tree.line("sys/class/dmi/id/product_name")),
            board: board.map(|b| b.name.clone()),
            thermal: health::zones(&tree, &mut notes),
            power: health::power(&tree),
            cameras: cameras(&tree),
            cores,
            memory,
            gpu,
            npu,
            notes,
        }
    }
}

/// The profile that knows a board: by its device tree, where several do by the memory that is nearest. An
/// x86-64 machine is a PC.
fn board<'a>(
    profiles: &'a [Profile],
    compatible: &[String],
    memory: Option<u64>,
    cores: &Cores,
) -> Option<&'a Profile> {
    let knows = |p: &&Profile| p.compatible.iter().any(|c| compatible.contains(c));
    let gib = memory.map_or(0.0, |bytes| bytes as f64 / (1u64 << 30) as f64);
    let distance = |p: &Profile| (p.memory.gib - gib).abs();
    let known = profiles
        .iter()
        .filter(knows)
        .min_by(|a, b| distance(a).total_cmp(&distance(b)));
    known.or_else(|| profiles.iter().find(|p| p.name == "pc" && cores.x86))
}

fn cameras(tree: &Tree) -> Vec<Camera> {
    let mut found: Vec<Camera> = tree
        .children("sys/class/video4linux")
        .into_iter()
        .filter(|name| name.starts_with("video"))
        .map(|name| Camera {
            name: tree
                .line(&format!("sys/class/video4linux/{name}/name"))
                .unwrap_or_else(|| "without a name".to_owned()),
            device: format!("/dev/{name}"),
        })
        .collect();
    found.sort_by_key(|c| (c.device.len(), c.device.clone()));
    found
}

#[cfg(test)]
mod tests;
