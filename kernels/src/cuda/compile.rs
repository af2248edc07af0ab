//! The kernels, compiled for the chip at the first start and kept in a folder: the next start loads them.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use cudarc::driver::{result, sys};
use cudarc::nvrtc;

use super::error::{said, trouble};
use super::source;
use crate::error::Result;

/// What a file of compiled kernels begins with, before the hash of what follows.
const MARK: &[u8; 8] = b"kinglet1";

/// The compiled kernels: kept ones, or new ones, which are kept.
pub(super) fn module(chip: (i32, i32), driver: i32, cache: Option<&Path>) -> Result<sys::CUmodule> {
    let text = source::whole();
    let mut hash = DefaultHasher::new();
    (&text, chip, driver).hash(&mut hash);
    let (major, minor) = chip;
    let file =
        cache.map(|folder| folder.join(format!("sm_{major}{minor}-{:016x}.cubin", hash.finish())));
    // What is damaged is compiled anew.
    if let Some(kept) = file.as_deref().and_then(kept)
        && let Ok(module) = load(&kept)
    {
        return Ok(module);
    }
    let compiled = compile(&text, chip)?;
    let module = load(&compiled).map_err(|e| trouble("loading the kernels", e))?;
    if let Some(file) = file {
        // Without it the next start compiles again: no reason to fail.
        let _ = keep(&file, &compiled);
    }
    Ok(module)
}

fn load(compiled: &[u8]) -> std::result::Result<sys::CUmodule, result::DriverError> {
    // SAFETY: the driver reads a whole ELF file, whose size is in it; it was compiled here, or its hash was right.
    unsafe { result::module::load_data(compiled.as_ptr().cast()) }
}

fn sum(bytes: &[u8]) -> [u8; 8] {
    let mut hash = DefaultHasher::new();
    bytes.hash(&mut hash);
    hash.finish().to_le_bytes()
}

/// A kept file without its mark and hash, if they are right.
fn kept(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let (mark, rest) = bytes.split_first_chunk::<8>()?;
    let (hash, compiled) = rest.split_first_chunk::<8>()?;
    (mark == MARK && *hash == sum(compiled)).then(|| compiled.to_vec())
}

fn keep(file: &Path, compiled: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let part = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, [&MARK[..], &sum(compiled), compiled].concat())?;
    std::fs::rename(part, file)
}

/// Where kernels are kept if nobody says otherwise: `$XDG_CACHE_HOME/kinglet/cuda`, or `~/.cache/...`.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    base.map(|base| base.join("kinglet/cuda"))
}

/// Compiles the kernels for a chip.
///
/// # Errors
/// [`crate::KernelError::Gpu`] if the compiler is missing, does not know the chip, or refuses the text.
pub fn compile(text: &str, (major, minor): (i32, i32)) -> Result<Vec<u8>> {
    // SAFETY: libraries of these names are the compiler's; their start code is trusted as the system's.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err(said(
            "there is no compiler for kernels: libnvrtc.so is not found; install the CUDA toolkit's NVRTC",
        ));
    }
    let text = CString::new(text).map_err(|_| said("the kernels' text"))?;
    let trouble = |what: &str, e: nvrtc::result::NvrtcError| said(&format!("{what}: {e:?}"));
    let program = nvrtc::result::create_program(&text, Some(c"kinglet.cu"));
    let program = program.map_err(|e| trouble("the compiler", e))?;
    let options = [
        format!("--gpu-architecture=sm_{major}{minor}"),
        "--std=c++17".to_owned(),
    ];
    // SAFETY: the program was just made, and is destroyed below.
    let compiled = unsafe { nvrtc::result::compile_program(program, &options) };
    let result = match compiled {
        Ok(()) => cubin(program).map_err(|e| trouble("the compiled kernels", e)),
        Err(e) => {
            // SAFETY: as above.
            let log = unsafe { nvrtc::result::get_program_log(program) }.unwrap_or_default();
            let log: Vec<u8> = log
                .iter()
                .map(|c: &c_char| *c as u8)
                .take_while(|b| *b != 0)
                .collect();
            let log = String::from_utf8_lossy(&log);
            let first = log.lines().next().unwrap_or("no reason is given");
            let version = compiler_version();
            Err(said(&format!(
                "NVRTC {version} does not compile the kernels for sm_{major}{minor} ({e:?}): {first}"
            )))
        }
    };
    // SAFETY: it was made above, and is not used after this.
    let _ = unsafe { nvrtc::result::destroy_program(program) };
    result
}

fn cubin(
    program: nvrtc::sys::nvrtcProgram,
) -> std::result::Result<Vec<u8>, nvrtc::result::NvrtcError> {
    let mut size = 0;
    // SAFETY: the program was compiled; the compiler writes a number.
    unsafe { nvrtc::sys::nvrtcGetCUBINSize(program, &raw mut size) }.result()?;
    let mut bytes = vec![0u8; size];
    // SAFETY: so many bytes are written.
    unsafe { nvrtc::sys::nvrtcGetCUBIN(program, bytes.as_mut_ptr().cast()) }.result()?;
    Ok(bytes)
}

fn compiler_version() -> String {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: the compiler writes two numbers.
    let code = unsafe { nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    code.result()
        .map_or_else(|_| "(unknown)".to_owned(), |()| format!("{major}.{minor}"))
}
