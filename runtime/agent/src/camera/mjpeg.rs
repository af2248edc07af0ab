//! A stream of JPEG pictures over HTTP (`multipart/x-mixed-replace`).
//!
//! The stream is always read as fast as it comes, or old frames would pile up on the way: while a frame
//! is being decoded, only the newest of those that come waits.

use std::path::Path;
use std::time::Instant;

use tokio::task::{JoinHandle, spawn_blocking};

use super::feed::Feed;
use super::http::{Client, Target, block_on, bytes, content_type};
use super::multipart::{Multipart, boundary};
use super::snapshot::{LARGEST_FILE, SLOWEST};
use super::source::{Parsed, Source};
use crate::config::CameraConfig;
use crate::error::Result;
use crate::frame::Picture;

/// Frames a second if none are asked for.
const RATE: f64 = 5.0;

struct Mjpeg {
    target: Target,
}

/// Reads `http://...` or `https://...`.
pub(super) fn parse(rest: &str, config: &CameraConfig) -> Result<Parsed> {
    let target = Target::read(rest, config)?;
    Ok(Parsed {
        source: Box::new(Mjpeg { target }),
        rate: RATE,
    })
}

impl Source for Mjpeg {
    fn prepare(&mut self, folder: &Path) -> Result<()> {
        self.target.prepare(folder)
    }

    fn session(&mut self, feed: &mut Feed) -> std::result::Result<(), String> {
        let ended = feed.ended();
        block_on(ended, stream(&self.target, feed))
    }
}

async fn stream(target: &Target, feed: &mut Feed) -> std::result::Result<(), String> {
    let address = &target.address;
    let response = Client::new(target).get().await?;
    let kind = content_type(&response);
    let Some(boundary) = boundary(kind) else {
        return Err(format!(
            "{address} is no stream (multipart/x-mixed-replace) but \"{}\"; snapshot:URL fetches single pictures",
            kind.escape_default()
        ));
    };
    let mut body = response.into_body();
    let mut multipart = Multipart::new(&boundary, LARGEST_FILE);
    let mut decoder = Decoder::default();
    let mut since = Instant::now();
    loop {
        tokio::select! {
            data = bytes(&mut body, address) => {
                let Some(data) = data? else {
                    return Err(format!("{address} ended the stream"));
                };
                multipart.push(&data);
                while let Some(frame) = multipart.next_frame().map_err(|e| format!("{address}: {e}"))? {
                    since = Instant::now();
                    if feed.wants(since) {
                        decoder.take(frame, feed);
                    }
                }
                if since.elapsed() > SLOWEST {
                    let seconds = SLOWEST.as_secs();
                    return Err(format!("{address}: a frame takes more than {seconds} s"));
                }
            }
            decoded = decoder.decoded(), if decoder.busy() => match decoded {
                Ok(picture) => feed.put(picture),
                Err(e) => feed.damaged(&format!("{address}: {e}")),
            },
        }
    }
}

/// Decodes one frame at a time, beside the thread that reads.
#[derive(Default)]
struct Decoder {
    running: Option<JoinHandle<std::result::Result<Picture, String>>>,
    waiting: Option<Vec<u8>>,
}

impl Decoder {
    fn busy(&self) -> bool {
        self.running.is_some()
    }

    fn take(&mut self, frame: Vec<u8>, feed: &Feed) {
        if self.busy() {
            let older = self.waiting.replace(frame);
            feed.dropped(u64::from(older.is_some()));
        } else {
            self.running = Some(spawn_blocking(move || super::decode(&frame)));
        }
    }

    /// The picture that is being decoded. Safe to be given up and asked again.
    async fn decoded(&mut self) -> std::result::Result<Picture, String> {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let decoded = running.await;
        let next = self.waiting.take();
        self.running = next.map(|frame| spawn_blocking(move || super::decode(&frame)));
        decoded.map_err(|_| "a frame could not be decoded; this is a bug of Kinglet".to_owned())?
    }
}
