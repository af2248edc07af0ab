//! What a kind of camera is.

use std::path::Path;

use super::feed::Feed;
use crate::config::{CameraConfig, error};
use crate::error::Result;

/// A kind of camera, configured.
pub(super) trait Source: Send {
    /// Reads the files that it needs; relative paths are relative to `folder`.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`] naming the key.
    fn prepare(&mut self, folder: &Path) -> Result<()>;

    /// Opens the camera and delivers its frames until the feed is closed.
    ///
    /// # Errors
    /// Why no frame comes any more, as a line for a person.
    fn session(&mut self, feed: &mut Feed) -> std::result::Result<(), String>;
}

/// What a kind makes of a configuration.
pub(super) struct Parsed {
    /// The camera.
    pub(super) source: Box<dyn Source>,
    /// Frames a second if none are asked for.
    pub(super) rate: f64,
}

/// Reads what stands behind the kind's name in `source`.
pub(super) type Parse = fn(&str, &CameraConfig) -> Result<Parsed>;

/// Refuses keys that this kind has no use for.
pub(super) fn refuse_unused(config: &CameraConfig, unused: &[&str]) -> Result<()> {
    let given: [(&str, Option<String>); 3] = [
        ("width", config.width.map(|w| w.to_string())),
        ("height", config.height.map(|h| h.to_string())),
        ("ca", config.ca.as_ref().map(|f| f.display().to_string())),
    ];
    for (key, value) in given {
        if let (Some(value), true) = (value, unused.contains(&key)) {
            let expected = "is of no use to a source of this kind";
            return Err(error(&format!("camera.{key}"), &value, expected));
        }
    }
    Ok(())
}
