//! Bytes of the host that a processor in the same memory reads where they are.
//!
//! Pages are registered with the driver, which keeps them in memory; pages that two weights share belong to the one that
//! came first. All of them stay registered, and what they are pages of stays held, until nobody uses any.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_void;

use bytes::Bytes;
use cudarc::driver::sys;

/// What is smaller is copied: it is not worth its pages.
const LEAST: usize = 128 << 10;

/// Registered pages.
#[derive(Default)]
pub(super) struct Registry {
    /// Ends by beginnings.
    pages: BTreeMap<usize, usize>,
    held: Vec<Bytes>,
    users: usize,
}

impl Registry {
    /// The address of these bytes for the processor; none if the driver does not take them, or has another address for
    /// them: they may lie in pages of several registrations, which then would not lie one after another.
    ///
    /// The current context is that of the processor.
    pub(super) fn share(&mut self, bytes: &Bytes) -> Option<u64> {
        if bytes.len() < LEAST {
            return None;
        }
        let (at, page) = (bytes.as_ptr() as usize, rustix::param::page_size());
        let (from, to) = (at / page * page, (at + bytes.len()).next_multiple_of(page));
        for (from, to) in self.missing(from, to) {
            if !register(from, to - from) {
                self.forget();
                return None;
            }
            self.pages.insert(from, to);
        }
        self.held.push(bytes.clone());
        self.users += 1;
        Some(at as u64)
    }

    /// One user less. The caller waited for what the processor does with its bytes.
    pub(super) fn release(&mut self) {
        self.users = self.users.saturating_sub(1);
        self.forget();
    }

    /// Gives everything back if nobody uses any of it.
    fn forget(&mut self) {
        if self.users > 0 {
            return;
        }
        for from in std::mem::take(&mut self.pages).into_keys() {
            unregister(from);
        }
        self.held.clear();
    }

    /// The parts of a range that are not registered.
    fn missing(&self, mut from: usize, to: usize) -> Vec<(usize, usize)> {
        let mut missing = Vec::new();
        for (begin, end) in &self.pages {
            if *end <= from || *begin >= to {
                continue;
            }
            if *begin > from {
                missing.push((from, *begin));
            }
            from = *end;
        }
        if from < to {
            missing.push((from, to));
        }
        missing
    }
}

/// Registers pages for reading.
fn register(at: usize, bytes: usize) -> bool {
    let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP | sys::CU_MEMHOSTREGISTER_READ_ONLY;
    let page = at as *mut c_void;
    let mut address = 0;
    // SAFETY: the pages hold bytes that the registry holds as long as they are registered; the processor only reads
    // them. Where a part of them is not there the driver refuses.
    unsafe {
        if sys::cuMemHostRegister_v2(page, bytes, flags)
            .result()
            .is_err()
        {
            return false;
        }
        let code = sys::cuMemHostGetDevicePointer_v2(&raw mut address, page, 0);
        if code.result().is_ok() && address == at as u64 {
            return true;
        }
    }
    unregister(at);
    false
}

fn unregister(at: usize) {
    // SAFETY: it was registered here.
    let _ = unsafe { sys::cuMemHostUnregister(at as *mut c_void) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_registered_once() {
        let mut registry = Registry::default();
        assert_eq!(registry.missing(10, 20), [(10, 20)]);
        registry.pages = BTreeMap::from([(10, 20), (30, 40)]);
        assert_eq!(registry.missing(0, 50), [(0, 10), (20, 30), (40, 50)]);
        assert_eq!(registry.missing(12, 35), [(20, 30)]);
        assert_eq!(registry.missing(15, 20), []);
        assert_eq!(registry.missing(20, 30), [(20, 30)]);
        assert_eq!(registry.missing(35, 45), [(40, 45)]);
    }
}
