//! safetensors files.
#![no_main]

use bytes::Bytes;
use kinglet_container::tensors::SafeTensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = SafeTensors::parse(Bytes::copy_from_slice(data), "fuzz");
});
