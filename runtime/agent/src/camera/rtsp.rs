//! A stream of H.264 over RTSP, interleaved in its TCP connection.
//!
//! A picture of H.264 needs those before it, so none can be left out before it is decoded. A board that is
//! too slow for that leaves out everything up to the next key picture.

use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_core::Stream;
use retina::client::{
    Credentials, Demuxed, PlayOptions, Session, SessionOptions, SetupOptions, TcpTransportOptions,
    Transport,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef, VideoFrame};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::address::Address;
use super::feed::Feed;
use super::h264::{self, H264};
use super::http::block_on;
use super::source::{Parsed, Source, refuse_unused};
use crate::config::CameraConfig;
use crate::error::Result;
use crate::frame::Picture;

/// Frames a second if none are asked for.
const RATE: f64 = 5.0;
/// How long the camera may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may send no picture.
const SILENCE: Duration = Duration::from_secs(10);
/// Access units that may wait for the decoder, and their bytes.
const WAITING: usize = 60;
const WAITING_BYTES: usize = 16 << 20;

struct Rtsp {
    address: Address,
}

/// Reads `rtsp://...`, or `//...` of a source that is the URL itself.
pub(super) fn parse(rest: &str, config: &CameraConfig) -> Result<Parsed> {
    refuse_unused(config, &["width", "height", "ca"])?;
    let whole = if rest.starts_with("//") {
        format!("rtsp:{rest}")
    } else {
        rest.to_owned()
    };
    let address = Address::read(&whole, &["rtsp"], config)?;
    Ok(Parsed {
        source: Box::new(Rtsp { address }),
        rate: RATE,
    })
}

impl Source for Rtsp {
    fn prepare(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn session(&mut self, feed: &mut Feed) -> std::result::Result<(), String> {
        let ended = feed.ended();
        block_on(ended, stream(&self.address, feed))
    }
}

async fn stream(address: &Address, feed: &mut Feed) -> std::result::Result<(), String> {
    let (mut session, video) = play(address).await?;
    let mut decoder = Decoder::default();
    let mut since = Instant::now();
    loop {
        tokio::select! {
            item = timeout(SILENCE.saturating_sub(since.elapsed()), next(&mut session)) => {
                let item = item.map_err(|_| {
                    format!("{address} sent no picture for {} s", SILENCE.as_secs())
                })?;
                let item = item.ok_or_else(|| format!("{address} ended the stream"))?;
                let CodecItem::VideoFrame(frame) = item.map_err(|e| words(address, &e))? else {
                    continue;
                };
                since = Instant::now();
                check_size(address, &session, video)?;
                decoder.take(frame, feed);
            }
            decoded = decoder.decoded(), if decoder.busy() => {
                let (picture, problems) = decoded?;
                for problem in problems {
                    feed.damaged(&format!("{address}: {problem}"));
                }
                if let Some(picture) = picture {
                    feed.put(picture);
                }
            }
        }
        decoder.go_on();
    }
}

/// Asks for the camera's first video stream in H.264, and for it alone.
async fn play(address: &Address) -> std::result::Result<(Demuxed, usize), String> {
    let late = |_| format!("{address} does not answer within {} s", ANSWER.as_secs());
    let credentials = address.credentials.clone();
    let options = SessionOptions::default()
        .creds(credentials.map(|(username, password)| Credentials { username, password }))
        .user_agent(concat!("kinglet/", env!("CARGO_PKG_VERSION")).to_owned());
    let mut session = timeout(ANSWER, Session::describe(address.url.clone(), options))
        .await
        .map_err(late)?
        .map_err(|e| words(address, &e))?;
    let streams = session.streams();
    let video = streams
        .iter()
        .position(|s| s.media() == "video" && s.encoding_name() == "h264");
    let Some(video) = video else {
        let others: Vec<String> = streams
            .iter()
            .map(|s| {
                format!("{} {}", s.media(), s.encoding_name())
                    .escape_default()
                    .to_string()
            })
            .collect();
        return Err(format!(
            "{address} has no video in H.264; it has: {}",
            others.join(", ")
        ));
    };
    let setup = SetupOptions::default()
        .transport(Transport::Tcp(TcpTransportOptions::default()))
        .frame_format(FrameFormat::SIMPLE);
    timeout(ANSWER, session.setup(video, setup))
        .await
        .map_err(late)?
        .map_err(|e| words(address, &e))?;
    let playing = timeout(ANSWER, session.play(PlayOptions::default()))
        .await
        .map_err(late)?
        .map_err(|e| words(address, &e))?;
    let demuxed = playing.demuxed().map_err(|e| words(address, &e))?;
    Ok((demuxed, video))
}

async fn next(session: &mut Demuxed) -> Option<std::result::Result<CodecItem, retina::Error>> {
    std::future::poll_fn(|context| Pin::new(&mut *session).poll_next(context)).await
}

/// Refuses pictures before a decoder makes room for them.
fn check_size(
    address: &Address,
    session: &Demuxed,
    video: usize,
) -> std::result::Result<(), String> {
    let parameters = session.streams().get(video).and_then(|s| s.parameters());
    if let Some(ParametersRef::Video(parameters)) = parameters {
        let (width, height) = parameters.coded_pixel_dimensions();
        if u64::from(width) * u64::from(height) > h264::LARGEST {
            return Err(format!(
                "{address}: pictures of {width}x{height} are too large; at most {} pixels are decoded",
                h264::LARGEST
            ));
        }
    }
    Ok(())
}

/// What the library says, in one line and without the URL's query, which may be a secret.
fn words(address: &Address, e: &retina::Error) -> String {
    let text = e.to_string();
    let line = text.lines().next().unwrap_or("").to_owned();
    let line = match address.url.query() {
        Some(query) if !query.is_empty() => line.replace(query, "..."),
        _ => line,
    };
    format!("{address}: {}", line.escape_debug())
}

/// An access unit, and whether its picture is wanted.
type Unit = (Vec<u8>, bool);
type Decoded = (H264, Option<Picture>, Vec<String>);

/// Decodes beside the thread that reads.
struct Decoder {
    /// There while nothing is being decoded.
    idle: Option<H264>,
    running: Option<JoinHandle<Decoded>>,
    waiting: Vec<Unit>,
    waiting_bytes: usize,
    /// Nothing can be decoded before the next key picture.
    need_key: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            idle: Some(H264::default()),
            running: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            need_key: true,
        }
    }
}

impl Decoder {
    fn busy(&self) -> bool {
        self.running.is_some()
    }

    fn take(&mut self, frame: VideoFrame, feed: &mut Feed) {
        let key = frame.is_random_access_point();
        if frame.loss() > 0 {
            feed.dropped(1);
            self.need_key = true;
        }
        let unit = frame.into_data();
        let full = self.waiting.len() >= WAITING || self.waiting_bytes + unit.len() > WAITING_BYTES;
        if full {
            feed.dropped(self.waiting.len() as u64);
            self.waiting.clear();
            self.waiting_bytes = 0;
            self.need_key = true;
        }
        if self.need_key && !key {
            feed.dropped(1);
            return;
        }
        self.need_key = false;
        self.waiting_bytes += unit.len();
        self.waiting.push((unit, feed.wants(Instant::now())));
    }

    /// Decodes what waits.
    fn go_on(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(decoder) = self.idle.take() {
            let units = std::mem::take(&mut self.waiting);
            self.waiting_bytes = 0;
            self.running = Some(spawn_blocking(move || decode(decoder, &units)));
        }
    }

    /// The newest picture of those that are being decoded. Safe to be given up and asked again.
    async fn decoded(&mut self) -> std::result::Result<(Option<Picture>, Vec<String>), String> {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let decoded = running.await;
        self.running = None;
        let (decoder, picture, problems) = decoded
            .map_err(|_| "the decoder stopped unexpectedly at a damaged stream".to_owned())?;
        if !problems.is_empty() {
            self.need_key = true;
        }
        self.idle = Some(decoder);
        Ok((picture, problems))
    }
}

/// Decodes these units; only the newest picture that is wanted is made.
fn decode(mut decoder: H264, units: &[Unit]) -> Decoded {
    let newest = units.iter().rposition(|(_, wanted)| *wanted);
    let mut picture = None;
    let mut problems = Vec::new();
    for (i, (unit, _)) in units.iter().enumerate() {
        match decoder.decode(unit, Some(i) == newest) {
            Ok(None) => {}
            Ok(decoded) => picture = decoded,
            Err(e) => problems.push(e),
        }
    }
    (decoder, picture, problems)
}
