//! Pictures, as they come from a camera or with a command.
#![no_main]

use kinglet_model::Picture;
use kinglet_model::config::PictureRule;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(picture) = Picture::decode(data) {
        let rule = PictureRule {
            max: 112,
            min: 28,
            stride: 14,
            max_pixels: 1_806_336,
        };
        let _ = picture.resized(&rule);
    }
});
