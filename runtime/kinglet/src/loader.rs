//! Models for the agent, which knows none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet_agent::Engine;
use kinglet_agent::update::Loader;
use kinglet_kernels::Device;

use crate::engine::ModelEngine;
use crate::failure::Outcome;
use crate::{lock, model};

/// What a model needs beside its weights, in bytes: keys and values, what is being drawn, the rest of the
/// program. `kinglet-tiny` and a picture of 1,024 x 1,024 by the real model both stay below it.
const BESIDE: u64 = 512 << 20;

/// Loads models onto the device of this machine.
pub(crate) struct FileLoader {
    /// The model of the configuration; none: the bundled one.
    pub(crate) own: Option<PathBuf>,
    /// Whether models are to stay in memory.
    pub(crate) lock: bool,
}

impl Loader for FileLoader {
    fn check(&self, file: &Path) -> Result<(), String> {
        let source = model::open(Some(file)).map_err(|e| e.to_string())?;
        let damaged = source.not_finite().map_err(|e| e.to_string())?;
        if let Some(problem) = damaged.first() {
            return Err(problem.to_string());
        }
        let weights = std::fs::metadata(file).map_err(|e| e.to_string())?.len();
        let Some(memory) = memory() else {
            return Ok(());
        };
        // The running model leaves before this one comes, so all of the machine's memory counts. Weights take
        // about the file's size.
        let needed = weights.saturating_add(BESIDE.min(weights.saturating_mul(4)));
        if needed > memory {
            return Err(format!(
                "memory: it needs about {} MiB; this machine has {}",
                needed >> 20,
                memory >> 20
            ));
        }
        Ok(())
    }

    fn load(&self, file: &Path) -> Result<Arc<dyn Engine>, String> {
        self.engine(Some(file)).map_err(|e| e.to_string())
    }

    fn own(&self) -> Result<Arc<dyn Engine>, String> {
        self.engine(self.own.as_deref()).map_err(|e| e.to_string())
    }
}

impl FileLoader {
    pub(crate) fn engine(&self, file: Option<&Path>) -> Outcome<Arc<dyn Engine>> {
        let engine = load(file)?;
        if self.lock {
            lock::lock()?;
        }
        Ok(engine)
    }
}

/// Loads a model for the agent.
pub(crate) fn load(file: Option<&Path>) -> Outcome<Arc<ModelEngine<kinglet_kernels::Cpu>>> {
    let source = model::open(file)?;
    let engine = ModelEngine {
        model: model::load(&source)?,
        info: model::info(&source, file)?,
    };
    tracing::info!(
        model = engine.info.name,
        kernels = engine.model.device.describe(),
        "loaded"
    );
    Ok(Arc::new(engine))
}

/// Bytes of memory that this machine has, as Linux counts them.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
