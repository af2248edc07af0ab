//! The devices: an agent each, with a camera, a watch and a state of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kinglet_agent::config::{CameraConfig, WatchConfig};
use kinglet_agent::{Agent, Config, Engine};

use crate::engine::Stub;

/// Width and height of what the cameras see.
const SIDE: u32 = 8;

/// Devices that run.
pub(crate) struct Fleet {
    agents: Vec<Agent>,
    engine: Arc<dyn Engine>,
    made: Arc<AtomicU64>,
    folder: PathBuf,
    url: String,
    source: String,
}

impl Fleet {
    /// None yet; their states go below `folder`. An event a device every so many seconds.
    pub(crate) fn new(folder: &Path, url: &str, every: f64) -> Result<Self, String> {
        let pictures = folder.join("pictures");
        std::fs::create_dir(&pictures).map_err(|e| e.to_string())?;
        let picture = image::RgbImage::new(SIDE, SIDE);
        picture
            .save(pictures.join("0.png"))
            .map_err(|e| e.to_string())?;
        let made = Arc::new(AtomicU64::new(0));
        Ok(Fleet {
            agents: Vec::new(),
            engine: Arc::new(Stub {
                made: Arc::clone(&made),
            }),
            made,
            folder: folder.to_owned(),
            url: url.to_owned(),
            source: format!("folder:pictures?fps={}", 1.0 / every),
        })
    }

    /// Starts one more.
    pub(crate) fn add(&mut self, number: usize) -> Result<(), String> {
        let name = format!("d{number}");
        let mut config = Config::new(&name, &self.url);
        config.camera = vec![CameraConfig::new("c", &self.source)];
        // Every frame.
        config.watch = vec![WatchConfig::new("w", "c", "every:10ms", "what is it?")];
        let state = self.folder.join(&name);
        let engine = Arc::clone(&self.engine);
        let agent = Agent::start(&config, &self.folder, &state, engine);
        self.agents.push(agent.map_err(|e| e.to_string())?);
        Ok(())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.agents.len()
    }

    /// How many events they have made.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Stops all; what they have made is sent.
    pub(crate) async fn stop(&mut self) {
        let stopping: Vec<_> = self
            .agents
            .drain(..)
            .map(|agent| tokio::spawn(agent.stop()))
            .collect();
        for stopped in stopping {
            let _ = stopped.await;
        }
    }
}
