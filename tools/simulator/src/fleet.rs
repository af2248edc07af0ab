//! The devices: an agent each, with a camera, a watch and a state of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kinglet_agent::clock::ClockTrust;
use kinglet_agent::config::{CameraConfig, WatchConfig};
use kinglet_agent::keys::PublicKey;
use kinglet_agent::update::manifest::Keys;
use kinglet_agent::update::{Updater, Web};
use kinglet_agent::{Agent, Config, Engine};

use crate::engine::{Stub, Stubs};

/// Width and height of what the cameras see.
const SIDE: u32 = 8;
/// The largest model, in bytes.
const LARGEST: u64 = 1 << 20;

/// Devices that run.
pub(crate) struct Fleet {
    agents: Vec<Agent>,
    engine: Arc<dyn Engine>,
    /// Who may sign models for them, if they take any.
    signer: Option<PublicKey>,
    made: Arc<AtomicU64>,
    folder: PathBuf,
    url: String,
    source: String,
}

impl Fleet {
    /// None yet; their states go below `folder`. An event a device every so many seconds.
    pub(crate) fn new(
        folder: &Path,
        url: &str,
        every: f64,
        signer: Option<PublicKey>,
    ) -> Result<Self, String> {
        let pictures = folder.join("pictures");
        std::fs::create_dir(&pictures).map_err(|e| e.to_string())?;
        let picture = image::RgbImage::new(SIDE, SIDE);
        picture
            .save(pictures.join("0.png"))
            .map_err(|e| e.to_string())?;
        let made = Arc::new(AtomicU64::new(0));
        Ok(Fleet {
            agents: Vec::new(),
            engine: Arc::new(Stub::new(Arc::clone(&made))),
            signer,
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
        let agent = match &self.signer {
            None => Agent::start(&config, &self.folder, &state, Arc::clone(&self.engine)),
            Some(signer) => {
                // What is signed expires.
                config.device.clock = ClockTrust::System;
                let keys = Keys {
                    keys: vec![*signer],
                    threshold: 1,
                };
                let loader = Arc::new(Stubs(Arc::clone(&self.made)));
                Web::new(None, None)
                    .and_then(|web| Updater::start(&state, keys, LARGEST, loader, web))
                    .and_then(|updater| {
                        Agent::start_updating(&config, &self.folder, &state, updater)
                    })
            }
        };
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
