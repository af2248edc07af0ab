//! The driver of NVIDIA's processors, opened at run time.
//!
//! What repeats is launched as graphs (`queue`); `KINGLET_CUDA_GRAPHS=off` has everything launched by itself.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::CString;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cudarc::driver::{result, sys};

use super::compile::module;
pub use super::compile::{cache_folder, compile};
use super::error::{lost, said, trouble};
use super::gpu::{Argument, Gpu};
use super::graph::{Graph, MOST_PUT};
use super::pieces::{PIECE, Pieces};
use super::queue::{Queue, Task};
use super::registry::Registry;
use crate::error::{KernelError, Result};

/// The oldest driver: that of CUDA 11.4, which Jetson Linux 35 has.
const OLDEST: i32 = 11_040;
/// The oldest chips: dp4a, and memory that is read in order (sm_72, Xavier).
const OLDEST_CHIP: (i32, i32) = (7, 2);
/// The oldest driver whose graphs are used: CUDA 12.0.
const OLDEST_GRAPHS: i32 = 12_000;

/// What can be said of the processors of this machine without using one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The CUDA version of the driver: 12_020 is 12.2.
    pub version: i32,
    /// Name, chip (`sm_87` is (8, 7)) and bytes of memory of each.
    pub devices: Vec<(String, (i32, i32), usize)>,
}

impl Found {
    /// What the first processor is called, with its chip, and so are those after it.
    ///
    /// # Errors
    /// [`KernelError::Gpu`]: there is none, or the first one is too old.
    pub fn usable(&self) -> Result<Vec<String>> {
        let Some((name, chip, _)) = self.devices.first() else {
            return Err(said("the NVIDIA driver knows no processor here"));
        };
        if *chip < OLDEST_CHIP {
            let ((a, b), (c, d)) = (*chip, OLDEST_CHIP);
            return Err(said(&format!(
                "{name} is an sm_{a}{b}; sm_{c}{d} or later is needed"
            )));
        }
        let describe = |(name, (major, minor), memory): &(String, (i32, i32), usize)| {
            format!(
                "{name} (sm_{major}{minor}, {} MiB, driver for CUDA {})",
                memory >> 20,
                dotted(self.version)
            )
        };
        Ok(self.devices.iter().map(describe).collect())
    }
}

/// A processor of this machine.
pub struct Driver {
    name: String,
    pub(super) context: sys::CUcontext,
    module: sys::CUmodule,
    kernels: Mutex<HashMap<String, sys::CUfunction>>,
    pieces: Mutex<Pieces>,
    queue: Mutex<Queue<Graph>>,
    /// What it reads of the host's memory, if that is its own too.
    registry: Option<Mutex<Registry>>,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs; every use here sets it.
unsafe impl Send for Driver {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for Driver {}

/// Looks for processors.
///
/// # Errors
/// [`KernelError::Gpu`]: no driver, one that is too old or does not work.
pub fn find() -> Result<Found> {
    // SAFETY: libraries of these names are the driver's; their start code is trusted as the system's.
    if !unsafe { sys::is_culib_present() } {
        return Err(said("there is no NVIDIA driver: libcuda.so is not found"));
    }
    result::init().map_err(|e| trouble("the driver does not start", e))?;
    let mut version = 0;
    // SAFETY: the driver writes a number.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    code.result().map_err(|e| trouble("its version", e))?;
    if version < OLDEST {
        return Err(said(&format!(
            "the NVIDIA driver is for CUDA {}; {} or later is needed",
            dotted(version),
            dotted(OLDEST)
        )));
    }
    let count = result::device::get_count().map_err(|e| trouble("counting processors", e))?;
    let mut devices = Vec::new();
    for ordinal in 0..count {
        let device = result::device::get(ordinal).map_err(|e| trouble("a processor", e))?;
        let name = result::device::get_name(device).map_err(|e| trouble("its name", e))?;
        let chip = (
            attribute(
                device,
                sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            )?,
            attribute(
                device,
                sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )?,
        );
        // SAFETY: the device was just got.
        let memory = unsafe { result::device::total_mem(device) };
        devices.push((name, chip, memory.map_err(|e| trouble("its memory", e))?));
    }
    Ok(Found { version, devices })
}

impl Driver {
    /// The first processor, with kernels that are kept in `cache` (a folder, made if it is missing).
    ///
    /// # Errors
    /// [`KernelError::Gpu`]: as [`find`]; no processor, one that is too old, no compiler, kernels that do not compile.
    pub fn first(cache: Option<&Path>) -> Result<Arc<Self>> {
        let found = find()?;
        let names = found.usable()?;
        let (Some(name), Some((_, chip, _))) = (names.first(), found.devices.first().cloned())
        else {
            return Err(said("the NVIDIA driver knows no processor here"));
        };
        let device = result::device::get(0).map_err(|e| trouble("the processor", e))?;
        // SAFETY: the context is released when this is dropped, and used by nobody else.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(|e| trouble("a context", e))?;
        // SAFETY: the context was just made.
        unsafe { result::ctx::set_current(context) }.map_err(|e| trouble("a context", e))?;
        let module = module(chip, found.version, cache)?;
        let integrated = attribute(
            device,
            sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED,
        )? != 0;
        let off = std::env::var_os("KINGLET_CUDA_GRAPHS").is_some_and(|v| v == "off");
        let graphs = !off && found.version >= OLDEST_GRAPHS;
        Ok(Arc::new(Driver {
            name: name.clone(),
            context,
            module,
            kernels: Mutex::default(),
            pieces: Mutex::default(),
            queue: Mutex::new(Queue::new(graphs)),
            registry: integrated.then(Mutex::default),
        }))
    }

    /// Makes this thread use this processor.
    fn here(&self) -> Result<()> {
        // SAFETY: the context lives as long as this.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| self.lost("its context", e))
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Task) -> Result<()> {
        self.queue().push(task, self)
    }

    /// Issues everything that was asked for.
    fn end(&self) -> Result<()> {
        self.queue().end(self)
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Graph>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives memory back to the driver, after what may still use it.
    fn give_back(&self, pieces: &[u64]) -> Result<()> {
        let result = self.end();
        for at in pieces {
            // SAFETY: it came from malloc_sync, nobody has it, and everything that uses it was issued: the driver
            // waits for that.
            let _ = unsafe { result::free_sync(*at) };
        }
        result
    }

    /// What a kernel is called.
    pub(super) fn name_of(&self, kernel: sys::CUfunction) -> String {
        let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let named = kernels.iter().find(|(_, k)| **k == kernel);
        named.map_or_else(|| "a kernel".to_owned(), |(name, _)| name.clone())
    }

    pub(super) fn lost(&self, what: &str, e: result::DriverError) -> KernelError {
        lost(&format!("{}: {what}", self.name), e)
    }

    pub(super) fn kernel(&self, name: &str) -> Result<sys::CUfunction> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(name) {
            return Ok(*kernel);
        }
        let text = CString::new(name).map_err(|_| said("a kernel's name"))?;
        // SAFETY: the module lives as long as this.
        let kernel = unsafe { result::module::get_function(self.module, text) };
        let kernel = kernel.map_err(|e| trouble(&format!("the kernel {name}"), e))?;
        kernels.insert(name.to_owned(), kernel);
        Ok(kernel)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.here().is_err() {
            return;
        }
        let kept = self.pieces().clear();
        let _ = self.give_back(&kept);
        // Graphs go before the kernels in them.
        *self.queue() = Queue::new(false);
        // SAFETY: nothing of the module runs: what waits is done in order before it is unloaded.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

impl Gpu for Driver {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.here()?;
        let size = bytes
            .checked_next_multiple_of(PIECE)
            .ok_or_else(|| said("a size that is no size"))?;
        let mut pieces = self.pieces();
        if let Some(at) = pieces.take(size) {
            return Ok(at);
        }
        // SAFETY: memory of which nothing is known; whoever reads it writes it first.
        let mut at = unsafe { result::malloc_sync(size) };
        if at.is_err() {
            let kept = pieces.clear();
            self.give_back(&kept)?;
            // SAFETY: as above.
            at = unsafe { result::malloc_sync(size) };
        }
        let at = at.map_err(|e| match (e.0, result::mem_get_info()) {
            (sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, Ok((free, total))) => said(&format!(
                "{}: {} MiB were asked for; {} of {} MiB are free: a smaller model or picture, or another program that holds less, would help",
                self.name,
                size.div_ceil(1 << 20),
                free >> 20,
                total >> 20
            )),
            _ => self.lost("memory", e),
        })?;
        pieces.add(at, size);
        Ok(at)
    }

    unsafe fn free(&self, at: u64) {
        if self.pieces().put(at) && self.here().is_ok() {
            // Nobody could be told of an error here; the next request is.
            let _ = self.give_back(&[at]);
        }
    }

    fn share(&self, bytes: &Bytes) -> Option<u64> {
        self.here().ok()?;
        let registry = self.registry.as_ref()?;
        let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.share(bytes)
    }

    unsafe fn release(&self) {
        let Some(registry) = &self.registry else {
            return;
        };
        // What is not issued will not be, if the processor is lost.
        let _ = self.here().and_then(|()| self.end());
        // SAFETY: the stream is the default one.
        let _ = unsafe { result::stream::synchronize(std::ptr::null_mut()) };
        let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.release();
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.here()?;
        if bytes.len() <= MOST_PUT && bytes.len().is_multiple_of(4) {
            let bytes = bytes.to_vec();
            return self.push(Task::Put { to, bytes });
        }
        self.end()?;
        // SAFETY: the caller's contract.
        unsafe { result::memcpy_htod_sync(to, bytes) }.map_err(|e| self.lost("writing", e))
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.here()?;
        self.end()?;
        // SAFETY: the caller's contract.
        unsafe { result::memcpy_dtoh_sync(bytes, from) }.map_err(|e| self.lost("reading", e))
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.here()?;
        self.push(Task::Copy { to, from, bytes })
    }

    unsafe fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.here()?;
        self.push(Task::Zero { at, bytes })
    }

    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        self.here()?;
        let numbers = (0..arguments.len()).filter(|i| matches!(arguments[*i], Argument::F32(_)));
        self.push(Task::Launch {
            kernel: self.kernel(kernel)? as usize,
            grid,
            threads,
            arguments: arguments.iter().map(Argument::cells).collect(),
            numbers: numbers.collect(),
        })
    }
}

impl Driver {
    /// Bytes of its memory: what is free, and all. What this device keeps for later counts as free.
    ///
    /// # Errors
    /// [`KernelError::Lost`].
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.here()?;
        let (free, total) = result::mem_get_info().map_err(|e| self.lost("its memory", e))?;
        Ok((free + self.pieces().kept_bytes(), total))
    }
}

fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<i32> {
    // SAFETY: the device was got from the driver.
    unsafe { result::device::get_attribute(device, attribute) }
        .map_err(|e| trouble("what it is", e))
}

fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}
