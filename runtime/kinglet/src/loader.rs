//! Models for the agent, which knows none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet_agent::Engine;
use kinglet_agent::update::Loader;
use kinglet_model::Part;

use crate::commands::plan;
use crate::device::Chosen;
use crate::engine::ModelEngine;
use crate::failure::Outcome;
use crate::governor::Reins;
use crate::{lock, model};

/// What a model needs beside its weights, in bytes: keys and values, what is being drawn, the rest of the
/// program. `kinglet-tiny` and a picture of 1,024 x 1,024 by the real model both stay below it.
const BESIDE: u64 = 512 << 20;

/// Loads models onto what was chosen.
pub(crate) struct FileLoader {
    pub(crate) device: Chosen,
    /// The model of the configuration; none: the bundled one.
    pub(crate) own: Option<PathBuf>,
    /// Whether models are to stay in memory.
    pub(crate) lock: bool,
    /// What its models are still asked to do.
    pub(crate) reins: Arc<Reins>,
    /// What computes parts of the model of the configuration; they are no other model's.
    pub(crate) graphs: Vec<(Part, PathBuf)>,
}

impl Loader for FileLoader {
    fn check(&self, file: &Path) -> Result<(), String> {
        let source = model::open(Some(file)).map_err(|e| e.to_string())?;
        let damaged = source.not_finite().map_err(|e| e.to_string())?;
        if let Some(problem) = damaged.first() {
            return Err(problem.to_string());
        }
        let weights = std::fs::metadata(file).map_err(|e| e.to_string())?.len();
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let memory = Memory::read(&read("/proc/meminfo"), &read("/proc/self/status"));
        // Weights take about the file's size.
        let needed = weights.saturating_add(BESIDE.min(weights.saturating_mul(4)));
        memory.map_or(Ok(()), |memory| memory.takes(needed))
    }

    fn load(&self, file: &Path) -> Result<Arc<dyn Engine>, String> {
        self.engine(Some(file), &[]).map_err(|e| e.to_string())
    }

    fn own(&self) -> Result<Arc<dyn Engine>, String> {
        self.own_engine().map_err(|e| e.to_string())
    }
}

impl FileLoader {
    /// The model of the configuration.
    pub(crate) fn own_engine(&self) -> Outcome<Arc<dyn Engine>> {
        self.engine(self.own.as_deref(), &self.graphs)
    }

    fn engine(&self, file: Option<&Path>, graphs: &[(Part, PathBuf)]) -> Outcome<Arc<dyn Engine>> {
        let engine = load(file, &self.device, Arc::clone(&self.reins))?;
        engine.works.hand_over(graphs)?;
        if self.lock {
            lock::lock()?;
        }
        Ok(engine)
    }
}

/// Loads a model for the agent, on somebody's reins.
pub(crate) fn load(
    file: Option<&Path>,
    device: &Chosen,
    reins: Arc<Reins>,
) -> Outcome<Arc<ModelEngine>> {
    let source = model::open(file)?;
    let engine = ModelEngine {
        reins,
        works: device.load(&source, &plan::usual(&source))?,
        info: model::info(&source, file)?,
    };
    tracing::info!(
        model = engine.info.name,
        kernels = engine.works.describe(),
        "loaded"
    );
    Ok(Arc::new(engine))
}

/// What a new model may use, in bytes.
#[derive(Debug, PartialEq)]
struct Memory {
    /// What the system could give now.
    available: u64,
    /// What this program holds that the system could not take: the running model leaves before another comes.
    held: u64,
}

impl Memory {
    /// From what Linux says of the machine (`/proc/meminfo`) and of this program (`/proc/self/status`); none, if it
    /// does not. Pages of a file that was mapped are available already, unless they are locked.
    fn read(machine: &str, program: &str) -> Option<Self> {
        let bytes = |text: &str, field: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(field))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        let anonymous = bytes(program, "RssAnon:").unwrap_or(0);
        let locked = bytes(program, "VmLck:").unwrap_or(0);
        let resident = bytes(program, "VmRSS:").unwrap_or(0);
        Some(Memory {
            available: bytes(machine, "MemAvailable:")?,
            // What is locked may be anonymous: it counts once.
            held: anonymous.max(locked.min(resident)),
        })
    }

    fn takes(&self, needed: u64) -> Result<(), String> {
        let room = self.available.saturating_add(self.held);
        if needed > room {
            return Err(format!(
                "memory: it needs about {} MiB; {} are available and the running model gives back at most {}",
                needed >> 20,
                self.available >> 20,
                self.held >> 20
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_use_does_not_count_and_what_the_old_model_holds_does() {
        let machine =
            "MemTotal:        8000000 kB\nMemFree:  100 kB\nMemAvailable:    1024000 kB\n";
        let program = "VmLck:\t       0 kB\nVmRSS:\t 2100000 kB\nRssAnon:\t 2048000 kB\n";
        let memory = Memory::read(machine, program).unwrap();
        assert_eq!((memory.available, memory.held), (1000 << 20, 2000 << 20));
        memory.takes(3000 << 20).unwrap();
        let refused = memory.takes(3001 << 20).unwrap_err();
        for words in ["3001 MiB", "1000 are available", "at most 2000"] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
        let locked = "VmLck:\t 5000000 kB\nVmRSS:\t 4096000 kB\nRssAnon:\t 1024 kB\n";
        assert_eq!(Memory::read(machine, locked).unwrap().held, 4000 << 20);
        assert_eq!(Memory::read("", program), None);
        assert_eq!(Memory::read("MemAvailable: many kB", program), None);
    }
}
