//! Small things that are uploaded again and again: positions, ids, frequencies, tables. What was uploaded before is not
//! uploaded again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::gpu::Gpu;
use super::memory::Memory;
use crate::error::Result;

/// The most that are kept, and their bytes all together.
const MOST: usize = 1024;
const MOST_BYTES: usize = 8 << 20;

/// Memory by its content, which nobody changes.
#[derive(Default)]
pub(super) struct Uploads(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    memory: HashMap<Vec<u8>, Arc<Memory>>,
    bytes: usize,
}

impl Uploads {
    /// Memory with these bytes, to be read only.
    pub(super) fn get(&self, gpu: &Arc<dyn Gpu>, bytes: Vec<u8>) -> Result<Arc<Memory>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = kept.memory.get(&bytes) {
            return Ok(Arc::clone(memory));
        }
        if kept.memory.len() >= MOST || kept.bytes + bytes.len() > MOST_BYTES {
            // What is in use stays until it is not.
            *kept = Kept::default();
        }
        let memory = Arc::new(Memory::of(gpu, &bytes)?);
        kept.bytes += bytes.len();
        kept.memory.insert(bytes, Arc::clone(&memory));
        Ok(memory)
    }
}
