//! What cameras send: streams of frames over HTTP, and frames in YUYV.
#![no_main]

use kinglet_agent::camera::multipart::{Multipart, boundary};
use kinglet_agent::camera::yuyv::Yuyv;
use libfuzzer_sys::fuzz_target;

/// The largest frame of the streams here.
const LARGEST: usize = 4096;

fuzz_target!(|data: (&str, u8, u8, u8, u8, &[u8])| {
    let (content_type, width, height, stride, piece, bytes) = data;

    let named = boundary(content_type).unwrap_or_default();
    let read = |piece: usize| {
        let mut multipart = Multipart::new(&named, LARGEST);
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece) {
            multipart.push(piece);
            loop {
                match multipart.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(_) => return frames,
                }
            }
        }
        frames
    };
    let frames = read(usize::from(piece) + 1);
    assert!(frames.iter().all(|f| f.len() <= LARGEST));
    // How the network cuts a stream into pieces does not matter, as long as no bound is met.
    if bytes.len() < 512 {
        assert_eq!(frames, read(1));
    }

    let frame = Yuyv {
        bytes,
        width: width.into(),
        height: height.into(),
        stride: stride.into(),
    };
    if let Ok(picture) = frame.to_rgb() {
        assert_eq!(
            picture.rgb.len(),
            usize::from(width) * usize::from(height) * 3
        );
    }
});
