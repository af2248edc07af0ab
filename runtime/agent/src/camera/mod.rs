//! Sources of frames, one file a kind.

mod folder;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::{CameraConfig, error};
use crate::error::{AgentError, Result};
use crate::slot::Slot;

/// Where frames come from.
#[derive(Debug, Clone, PartialEq)]
pub enum CameraSource {
    /// The pictures of a folder by name, in a loop.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Time between two frames.
        period: Duration,
    },
}

/// Frames a second that a folder may be played at.
const FRAME_RATES: std::ops::RangeInclusive<f64> = 0.001..=120.0;

impl CameraSource {
    /// Reads `folder:DIR` or `folder:DIR?fps=N`.
    ///
    /// # Errors
    /// [`AgentError::Config`].
    pub fn parse(source: &str) -> Result<Self> {
        let refuse = |expected: &str| error("camera.source", source, expected);
        let rest = source
            .strip_prefix("folder:")
            .ok_or_else(|| refuse("is not understood; folder:DIR is expected"))?;
        let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err(refuse("names no folder"));
        }
        let mut rate = 1.0;
        for option in options.split('&').filter(|o| !o.is_empty()) {
            rate = option
                .strip_prefix("fps=")
                .and_then(|n| n.parse::<f64>().ok())
                .filter(|n| FRAME_RATES.contains(n))
                .ok_or_else(|| refuse("has an option that is not fps=0.001 to fps=120"))?;
        }
        Ok(CameraSource::Folder {
            path: path.into(),
            period: Duration::from_secs_f64(1.0 / rate),
        })
    }

    /// Makes a relative path relative to `folder`.
    #[must_use]
    pub fn relative_to(self, folder: &std::path::Path) -> Self {
        match self {
            CameraSource::Folder { path, period } => CameraSource::Folder {
                path: folder.join(path),
                period,
            },
        }
    }
}

/// Starts a camera's thread. It ends when its slot is closed.
///
/// # Errors
/// [`AgentError::Start`] if the system gives no thread.
pub(crate) fn start(
    config: &CameraConfig,
    source: CameraSource,
    slot: Arc<Slot>,
) -> Result<JoinHandle<()>> {
    let name = config.name.clone();
    std::thread::Builder::new()
        .name(format!("camera-{name}"))
        .spawn(move || match source {
            CameraSource::Folder { path, period } => folder::run(&name, &path, period, &slot),
        })
        .map_err(|e| AgentError::Start {
            what: "a camera",
            reason: e.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_bad_ones_refused() {
        let CameraSource::Folder { path, period } =
            CameraSource::parse("folder:a/b?fps=4").unwrap();
        assert_eq!((path, period), ("a/b".into(), Duration::from_millis(250)));
        for source in [
            "",
            "folder:",
            "tape:x",
            "folder:a?fps=0",
            "folder:a?fps=x",
            "folder:a?x=1",
        ] {
            assert!(CameraSource::parse(source).is_err(), "{source}");
        }
    }
}
