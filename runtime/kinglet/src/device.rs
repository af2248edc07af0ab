//! What computes: the cores, or a graphics processor.

use std::sync::Arc;

use clap::ValueEnum;
use kinglet_kernels::plan::Target;
use kinglet_kernels::{Cpu, KernelError};
use kinglet_model::footprint::Request;
use kinglet_model::{Model, Source};
use serde::Serialize;

use crate::commands::plan;
use crate::failure::{Failure, Outcome};
use crate::works::Works;

/// What somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Choice {
    /// The cores.
    #[default]
    Cpu,
    /// An NVIDIA graphics processor (docs/cuda.md); refused where there is none.
    Cuda,
    /// A graphics processor if one can be used, else the cores.
    Auto,
}

/// What there is of it.
#[derive(Clone)]
pub(crate) enum Chosen {
    /// The cores.
    Cpu,
    /// A graphics processor.
    #[cfg(feature = "cuda")]
    Cuda(Arc<kinglet_kernels::cuda::driver::Driver>),
}

impl Choice {
    /// Opens what was asked for.
    ///
    /// # Errors
    /// Why there is no graphics processor.
    pub(crate) fn open(self) -> Outcome<Chosen> {
        match self {
            Choice::Cpu => Ok(Chosen::Cpu),
            Choice::Cuda => graphics()
                .map_err(|e| Failure::new(format_args!("{e}; --device cpu computes on the cores"))),
            Choice::Auto => Ok(graphics().unwrap_or_else(|e| {
                tracing::info!(reason = e.to_string(), "the cores compute");
                Chosen::Cpu
            })),
        }
    }
}

#[cfg(feature = "cuda")]
fn graphics() -> Result<Chosen, KernelError> {
    use kinglet_kernels::cuda::driver::{Driver, cache_folder};
    Driver::first(cache_folder().as_deref()).map(Chosen::Cuda)
}

#[cfg(not(feature = "cuda"))]
fn graphics() -> Result<Chosen, KernelError> {
    let reason = "this program was built without its part for graphics processors (feature cuda)";
    Err(KernelError::Gpu(reason.to_owned()))
}

/// What CUDA says of this machine.
#[derive(Debug, Serialize)]
pub(crate) struct Cuda {
    /// The processors that can be used.
    processors: Vec<String>,
    /// Why there are none.
    reason: Option<String>,
}

impl Cuda {
    pub(crate) fn said(&self) -> String {
        match &self.reason {
            Some(reason) => format!("none: {reason}"),
            None => format!("{} (--device cuda)", self.processors.join("; ")),
        }
    }
}

/// Looks for graphics processors, and uses none.
#[cfg(feature = "cuda")]
pub(crate) fn cuda() -> Cuda {
    let found = kinglet_kernels::cuda::driver::find();
    let usable = found.and_then(|found| found.usable());
    let (processors, reason) = match usable {
        Ok(processors) => (processors, None),
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    Cuda { processors, reason }
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn cuda() -> Cuda {
    Cuda {
        processors: Vec::new(),
        reason: graphics().err().map(|e| e.to_string()),
    }
}

impl Chosen {
    /// What is planned for.
    pub(crate) fn target(&self) -> Outcome<Target> {
        Ok(match self {
            Chosen::Cpu => Target::Cpu(Cpu::from_environment()?.set()),
            #[cfg(feature = "cuda")]
            Chosen::Cuda(_) => Target::Cuda,
        })
    }

    /// Name and free bytes of a memory of its own.
    pub(crate) fn memory(&self) -> Outcome<Option<(String, u64)>> {
        match self {
            Chosen::Cpu => Ok(None),
            #[cfg(feature = "cuda")]
            Chosen::Cuda(driver) => {
                use kinglet_kernels::cuda::Gpu;
                Ok(Some((driver.describe(), driver.memory()?.0 as u64)))
            }
        }
    }

    /// Loads a model onto it, if it has the memory for this request.
    pub(crate) fn load(&self, source: &Source, request: &Request) -> Outcome<Arc<dyn Works>> {
        plan::before_loading(source, request, self)?;
        match self {
            Chosen::Cpu => Ok(Arc::new(Model::on_cpu(source)?)),
            #[cfg(feature = "cuda")]
            Chosen::Cuda(driver) => {
                use kinglet_kernels::Cuda;
                use kinglet_kernels::cpu::CacheFormat;
                use kinglet_model::footprint::cache_format;
                let half_cache = cache_format(source)? == CacheFormat::F16;
                let device = Cuda::new(Arc::clone(driver) as Arc<_>, half_cache);
                let first = Arc::new(Model::load(source, device)?);
                let (source, request) = (source.clone(), request.clone());
                let spare = move || Chosen::Cpu.load(&source, &request);
                Ok(Arc::new(crate::rescue::Rescue::new(first, Box::new(spare))))
            }
        }
    }
}
