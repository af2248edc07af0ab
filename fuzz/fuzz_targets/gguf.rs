//! GGUF files, and the model's configuration in them.
#![no_main]

use bytes::Bytes;
use kinglet_model::Source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Source::from_bytes(Bytes::copy_from_slice(data), "fuzz");
});
