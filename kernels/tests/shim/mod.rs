//! The kernels of graphics processors, run on the CPU: `kernels/cuda/shim`, built here by a C++ compiler.
//!
//! `KINGLET_CUDA_SHIM` names a library that was built otherwise (with sanitizers, say).
#![allow(unsafe_code, dead_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kinglet_kernels::KernelError;
use kinglet_kernels::cuda::driver::Driver;
use kinglet_kernels::cuda::{Argument, Gpu};
use libloading::Library;

type Launch = unsafe extern "C" fn(*const c_char, *const u32, u32, *mut *mut c_void) -> c_int;

/// Kernels share what stands for a block's memory, those of other libraries too, where a compiler makes such variables
/// unique: one runs at a time.
static ONE: Mutex<()> = Mutex::new(());

/// The stand-in for a processor.
pub(crate) struct Shim {
    library: Library,
    launch: Launch,
    allocate: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    /// Kernels that have run.
    pub(crate) ran: Mutex<std::collections::BTreeSet<String>>,
}

/// Builds the library with these flags of the compiler's; its file.
pub(crate) fn built(name: &str, flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let out = folder.join(format!("{name}-{}.so", std::process::id()));
    let mut all = vec!["-O2", "-g", "-Wall", "-Wextra", "-Werror"];
    all.extend(["-Wno-unused-function", "-Wno-unknown-pragmas"]);
    all.extend(flags);
    build(&all, "table.cpp", &out);
    out
}

/// Whether tests run on this machine's own processor.
pub(crate) fn is_real() -> bool {
    std::env::var_os("KINGLET_GPU").is_some()
}

/// What tests run on: the shim, or with `KINGLET_GPU` set this machine's own processor.
pub(crate) fn processor() -> Arc<dyn Gpu> {
    static OWN: OnceLock<Arc<Driver>> = OnceLock::new();
    if !is_real() {
        return shared();
    }
    let own = OWN.get_or_init(|| {
        let driver = Driver::first(None).expect("a processor: KINGLET_GPU is set");
        println!("on {}", driver.describe());
        driver
    });
    Arc::clone(own) as Arc<dyn Gpu>
}

static SHIM: OnceLock<Arc<Shim>> = OnceLock::new();

/// The library that tests share, if one of them has opened it.
pub(crate) fn opened() -> Option<Arc<Shim>> {
    SHIM.get().cloned()
}

/// Builds a file of the shim's as a library.
pub(crate) fn build(flags: &[&str], file: &str, out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("cuda/shim"), root.join("../../kernels/cuda/shim")];
    let sources = folders.iter().map(|folder| folder.join(file));
    let source = sources.into_iter().find(|s| s.is_file());
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let status = Command::new(compiler)
        .args(["-std=c++17", "-fPIC", "-shared"])
        .args(flags)
        .arg("-o")
        .arg(out)
        .arg(source.expect("the shim's source"))
        .status();
    let status = status.expect("a C++ compiler: install g++");
    assert!(status.success(), "the shim does not build");
}

/// The library that tests share.
pub(crate) fn shared() -> Arc<Shim> {
    let shim = SHIM.get_or_init(|| {
        let given = std::env::var_os("KINGLET_CUDA_SHIM").map(PathBuf::from);
        Arc::new(Shim::open(&given.unwrap_or_else(|| built("shim", &[]))))
    });
    Arc::clone(shim)
}

impl Shim {
    pub(crate) fn open(file: &Path) -> Self {
        // SAFETY: it is the library of shim/table.cpp, whose functions have these types; they live as long as it does.
        unsafe {
            let library = Library::new(file).expect("the shim is opened");
            Shim {
                launch: *library.get(b"shim_launch").unwrap(),
                allocate: *library.get(b"shim_allocate").unwrap(),
                free: *library.get(b"shim_free").unwrap(),
                ran: Mutex::default(),
                library,
            }
        }
    }

    /// How many barriers its kernels have.
    pub(crate) fn barriers(&self) -> i32 {
        // SAFETY: the function has this type.
        unsafe {
            self.library
                .get::<unsafe extern "C" fn() -> i32>(b"shim_barriers")
                .unwrap()()
        }
    }

    /// Leaves this barrier out from now on; -1: none.
    pub(crate) fn remove_barrier(&self, id: i32) {
        // SAFETY: as above.
        unsafe {
            self.library
                .get::<unsafe extern "C" fn(i32)>(b"shim_remove_barrier")
                .unwrap()(id)
        }
    }

    /// The order in which threads run: 0 is by number, others are mixed.
    pub(crate) fn order(&self, order: u32) {
        // SAFETY: as above.
        unsafe {
            self.library
                .get::<unsafe extern "C" fn(u32)>(b"shim_order")
                .unwrap()(order)
        }
    }
}

impl Gpu for Shim {
    fn describe(&self) -> String {
        "the kernels of graphics processors on the CPU, for tests".to_owned()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, KernelError> {
        // SAFETY: it is malloc.
        let at = unsafe { (self.allocate)(bytes) };
        assert!(!at.is_null());
        Ok(at as u64)
    }

    unsafe fn free(&self, at: u64) {
        // SAFETY: the caller's contract.
        unsafe { (self.free)(at as *mut c_void) }
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), KernelError> {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), KernelError> {
        // SAFETY: the caller's contract.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), KernelError> {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn zero(&self, at: u64, bytes: usize) -> Result<(), KernelError> {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        arguments: &[Argument<'_>],
    ) -> Result<(), KernelError> {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // Each argument where it is aligned for anything.
        let mut cells: Vec<Vec<u64>> = arguments.iter().map(Argument::cells).collect();
        let mut pointers: Vec<*mut c_void> = cells
            .iter_mut()
            .map(|cell| cell.as_mut_ptr().cast())
            .collect();
        let name = CString::new(kernel).unwrap();
        // SAFETY: the caller's contract; pointers live through the call.
        let code =
            unsafe { (self.launch)(name.as_ptr(), grid.as_ptr(), threads, pointers.as_mut_ptr()) };
        self.ran
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(kernel.to_owned());
        match code {
            0 => Ok(()),
            1 => Err(KernelError::Gpu(format!("there is no kernel {kernel}"))),
            _ => Err(KernelError::Gpu(format!(
                "the threads of {kernel} do not agree on a barrier"
            ))),
        }
    }
}
