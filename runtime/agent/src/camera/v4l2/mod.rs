//! A camera of this machine, through Video for Linux (V4L2): webcams, and sensors whose driver gives
//! YUYV or JPEG frames.

mod abi;
mod door;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use self::abi::{
    CAP_DEVICE_CAPS, CAP_STREAMING, CAP_VIDEO_CAPTURE, Capability, FIELD_NONE, JPEG, MJPG,
    PixelFormat, YUYV,
};
use self::door::{Device, Filled, Mapping};
use super::feed::Feed;
use super::source::{Parsed, Source, refuse_unused};
use super::yuyv::Yuyv;
use crate::config::{CameraConfig, error};
use crate::error::Result;
use crate::frame::{LONGEST_SIDE, Picture};

/// Frames a second if none are asked for.
const RATE: f64 = 5.0;
/// Width and height if none are asked for.
const SIZE: (u32, u32) = (640, 480);
/// Frames larger than this are better fetched as JPEG: uncompressed ones do not get through USB 2 at a
/// useful rate.
const LARGEST_YUYV: u32 = 640 * 480;
/// Buffers that the driver fills in turn.
const BUFFERS: u32 = 4;
/// How long the camera may be silent.
const SILENCE: Duration = Duration::from_secs(5);
/// How often somebody looks whether frames are wanted any more.
const LOOK_UP: Duration = Duration::from_millis(100);

struct V4l2 {
    path: PathBuf,
    size: (u32, u32),
}

/// Reads `/dev/videoN`.
pub(super) fn parse(rest: &str, config: &CameraConfig) -> Result<Parsed> {
    refuse_unused(config, &["ca"])?;
    if rest.is_empty() {
        let expected = "names no device; v4l2:/dev/video0 is the first camera of most machines";
        return Err(error("camera.source", &config.source, expected));
    }
    let size = match (config.width, config.height) {
        (None, None) => SIZE,
        (Some(width), Some(height)) => {
            for (key, side) in [("width", width), ("height", height)] {
                if side == 0 || side > LONGEST_SIDE {
                    let expected = format!("is no side: 1 to {LONGEST_SIDE} pixels are accepted");
                    return Err(error(
                        &format!("camera.{key}"),
                        &side.to_string(),
                        &expected,
                    ));
                }
            }
            (width, height)
        }
        (one, other) => {
            let side = one.or(other).unwrap_or(0).to_string();
            return Err(error(
                "camera",
                &side,
                "is one side; width and height belong together",
            ));
        }
    };
    Ok(Parsed {
        source: Box::new(V4l2 {
            path: rest.into(),
            size,
        }),
        rate: RATE,
    })
}

impl Source for V4l2 {
    fn prepare(&mut self, folder: &Path) -> Result<()> {
        self.path = folder.join(&self.path);
        Ok(())
    }

    fn session(&mut self, feed: &mut Feed) -> std::result::Result<(), String> {
        let path = self.path.display().to_string();
        self.capture(feed).map_err(|trouble| match trouble {
            Trouble::System(what, Errno::NODEV | Errno::NXIO) => {
                format!("{path} is gone ({what}); is the camera still plugged in?")
            }
            Trouble::System(what, Errno::NOENT) => {
                format!(
                    "{path} is not there ({what}); `ls /dev/video*` shows this machine's cameras"
                )
            }
            Trouble::System(what, Errno::ACCESS) => {
                format!("{path} may not be used ({what}); add this user to the group video")
            }
            Trouble::System(what, Errno::BUSY) => {
                format!("{path} is in use by another program ({what})")
            }
            Trouble::System(what, Errno::NOTTY) => format!("{path} is no camera ({what})"),
            Trouble::System(what, e) => format!("{path}: {what}: {e}"),
            Trouble::Words(words) => format!("{path} {words}"),
        })
    }
}

enum Trouble {
    /// What was tried, and what the system said.
    System(&'static str, Errno),
    /// What is wrong, as the rest of a sentence about the device.
    Words(String),
}

/// Says what was tried when a call fails.
trait Trying<T> {
    fn trying(self, what: &'static str) -> std::result::Result<T, Trouble>;
}

impl<T> Trying<T> for rustix::io::Result<T> {
    fn trying(self, what: &'static str) -> std::result::Result<T, Trouble> {
        self.map_err(|e| Trouble::System(what, e))
    }
}

impl V4l2 {
    fn capture(&self, feed: &mut Feed) -> std::result::Result<(), Trouble> {
        let device = Device::open(&self.path).trying("opening")?;
        let format = self.set_up(&device, feed.rate())?;
        let count = device.request_buffers(BUFFERS).trying("buffers")?;
        let buffers: Vec<Mapping> = (0..count)
            .map(|index| device.map(index))
            .collect::<rustix::io::Result<_>>()
            .trying("mapping buffers")?;
        for index in 0..count {
            device.queue(index).trying("queueing a buffer")?;
        }
        device.stream(true).trying("starting")?;
        let result = frames(&device, &format, &buffers, feed);
        // The camera may be gone already.
        let _ = device.stream(false);
        drop(buffers);
        let _ = device.request_buffers(0);
        result
    }

    fn set_up(&self, device: &Device, rate: f64) -> std::result::Result<PixelFormat, Trouble> {
        let words = |words: &str| Err(Trouble::Words(words.to_owned()));
        let capability = device.capability().trying("asking what it is")?;
        let can = abilities(&capability);
        if can & CAP_VIDEO_CAPTURE == 0 || can & CAP_STREAMING == 0 {
            return words("captures no video in buffers of one plane; another /dev/video* may");
        }
        let (width, height) = self.size;
        let listed = device.formats();
        let liked = if width * height <= LARGEST_YUYV {
            [YUYV, MJPG, JPEG]
        } else {
            [MJPG, JPEG, YUYV]
        };
        let Some(pixel_format) = liked.into_iter().find(|f| listed.contains(f)) else {
            let names: Vec<String> = listed.into_iter().map(name).collect();
            return words(&format!(
                "gives neither YUYV nor MJPG; it has: {}",
                names.join(" ")
            ));
        };
        let wanted = PixelFormat {
            width,
            height,
            pixel_format,
            field: FIELD_NONE,
            bytes_per_line: 0,
            size_image: 0,
            ..device.format().trying("asking for its format")?
        };
        let format = device.set_format(wanted).trying("setting the format")?;
        let sides = 1..=LONGEST_SIDE;
        if format.pixel_format != pixel_format
            || !sides.contains(&format.width)
            || !sides.contains(&format.height)
        {
            return words(&format!(
                "takes no {} of {width}x{height}; it offers {} of {}x{}",
                name(pixel_format),
                name(format.pixel_format),
                format.width,
                format.height
            ));
        }
        // Not every driver knows rates; the feed thins what comes too fast.
        let _ = device.set_rate(rate);
        tracing::info!(
            "{}: {} of {}x{}",
            self.path.display(),
            name(format.pixel_format),
            format.width,
            format.height
        );
        Ok(format)
    }
}

/// What a device can do: a driver has several, and not all of them give pictures.
fn abilities(capability: &Capability) -> u32 {
    if capability.capabilities & CAP_DEVICE_CAPS != 0 {
        capability.device_caps
    } else {
        capability.capabilities
    }
}

/// The pixel formats of a device by their four letters, and whether frames of one can be read; none if it is no camera.
///
/// # Errors
/// What the system says if it cannot be opened.
pub fn formats(path: &Path) -> std::io::Result<Option<Vec<(String, bool)>>> {
    let device = Device::open(path)?;
    let Ok(capability) = device.capability() else {
        return Ok(None);
    };
    if abilities(&capability) & CAP_VIDEO_CAPTURE == 0 {
        return Ok(None);
    }
    let formats = device.formats().into_iter();
    let read = |format| [YUYV, MJPG, JPEG].contains(&format);
    Ok(Some(formats.map(|f| (name(f), read(f))).collect()))
}

/// The four letters of a pixel format.
fn name(format: u32) -> String {
    format.to_le_bytes().escape_ascii().to_string()
}

fn frames(
    device: &Device,
    format: &PixelFormat,
    buffers: &[Mapping],
    feed: &mut Feed,
) -> std::result::Result<(), Trouble> {
    let mut expected = None;
    let mut since = Instant::now();
    while !feed.closed() {
        if !device.wait(LOOK_UP).trying("waiting")? {
            if since.elapsed() > SILENCE {
                let seconds = SILENCE.as_secs();
                return Err(Trouble::Words(format!("gave no frame for {seconds} s")));
            }
            continue;
        }
        // The newest of what is there; the older ones go back to be filled again.
        let mut newest: Option<Filled> = None;
        let mut any = false;
        while let Some(filled) = device.dequeue().trying("taking a frame")? {
            any = true;
            since = Instant::now();
            let lost = expected.map_or(0, |e| filled.sequence.saturating_sub(e));
            feed.dropped(lost.into());
            expected = Some(filled.sequence.wrapping_add(1));
            let give_back = if filled.damaged || filled.bytes == 0 {
                feed.damaged("the driver marks a frame as damaged");
                Some(filled)
            } else {
                let older = newest.replace(filled);
                feed.dropped(older.is_some().into());
                older
            };
            if let Some(filled) = give_back {
                device.queue(filled.index).trying("queueing a buffer")?;
            }
        }
        if let Some(filled) = newest {
            let wanted = feed.wants(since);
            let bytes = buffers
                .get(filled.index as usize)
                .filter(|_| wanted)
                .map(|buffer| buffer.copy(filled.bytes));
            device.queue(filled.index).trying("queueing a buffer")?;
            match bytes.map(|bytes| picture(&bytes, format)) {
                Some(Ok(picture)) => feed.put(picture),
                Some(Err(e)) => feed.damaged(&e),
                None => {}
            }
        } else if !any {
            // Something is ready that is no frame; what it is shows when a frame is taken, some day.
            feed.sleep(LOOK_UP);
        }
    }
    Ok(())
}

fn picture(bytes: &[u8], format: &PixelFormat) -> std::result::Result<Picture, String> {
    if format.pixel_format != YUYV {
        return super::decode(bytes);
    }
    let frame = Yuyv {
        bytes,
        width: format.width,
        height: format.height,
        stride: format.bytes_per_line as usize,
    };
    frame.to_rgb()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::feed;

    fn trouble(path: &Path) -> String {
        let mut camera = V4l2 {
            path: path.to_owned(),
            size: SIZE,
        };
        let (mut feed, _, _) = feed::tests::feed(1.0, &[]);
        camera.session(&mut feed).unwrap_err()
    }

    #[test]
    fn what_is_no_camera_is_said_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("video0");
        let said = trouble(&file);
        assert!(said.contains("not there"), "{said}");
        std::fs::write(&file, b"").unwrap();
        let said = trouble(&file);
        assert!(said.contains("is no camera"), "{said}");
        let said = trouble(Path::new("/dev/null"));
        assert!(said.contains("/dev/null"), "{said}");
    }
}
