//! The kernel's door to the state of its clock.
#![allow(unsafe_code)]

/// Whether something keeps the system's clock right: the kernel knows it of whoever disciplines it (NTP,
/// PTP, a receiver). False where the kernel does not say.
pub(super) fn disciplined() -> bool {
    // SAFETY: a `timex` is made of integers alone, for which zeros are valid; no mode is set, so that the
    // call reads and changes nothing.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    state >= 0 && state != libc::TIME_ERROR
}
