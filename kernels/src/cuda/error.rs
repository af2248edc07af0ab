//! The driver's words.

use cudarc::driver::{result, sys};

use crate::error::KernelError;

pub(super) fn said(text: &str) -> KernelError {
    KernelError::Gpu(text.to_owned())
}

pub(super) fn trouble(what: &str, e: result::DriverError) -> KernelError {
    KernelError::Gpu(words(what, e))
}

/// The driver's own words for an error, after what was tried.
fn words(what: &str, e: result::DriverError) -> String {
    let name = e.error_name().map(|n| n.to_string_lossy().into_owned());
    let words = e.error_string().map(|s| s.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|_| format!("{:?}", e.0));
    let words = words.unwrap_or_else(|_| "an error".to_owned());
    format!("{what}: {words} ({name})")
}

/// An error after the start. What says nothing of one request alone is the end of the context: the driver gives
/// the same error to everything that comes later.
pub(super) fn lost(what: &str, e: result::DriverError) -> KernelError {
    use sys::CUresult as Code;
    let words = words(what, e);
    match e.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY
        | Code::CUDA_ERROR_INVALID_VALUE
        | Code::CUDA_ERROR_NOT_FOUND
        | Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => KernelError::Gpu(words),
        _ => KernelError::Lost(words),
    }
}
