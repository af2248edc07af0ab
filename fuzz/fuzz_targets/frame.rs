//! Frames of cameras in JPEG, with and without tables, as they are decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = kinglet_agent::camera::decode(data);
});
