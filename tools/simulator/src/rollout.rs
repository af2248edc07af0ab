//! A signed model for all devices, brought by `kinglet fleet` as its user would bring it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kinglet_agent::keys::{PrivateKey, PublicKey};
use kinglet_agent::update::manifest::{File, Manifest};

use crate::engine::sha256;

/// What a device's model is: nothing that anybody could load, which its engine does not mind.
const MODEL: &[u8] = b"a model";

/// What is brought.
pub(crate) struct Rollout {
    program: PathBuf,
    folder: PathBuf,
    key: PrivateKey,
}

impl Rollout {
    /// Nothing yet. The program is kinglet.
    pub(crate) fn new(program: &Path, folder: &Path) -> Result<Self, String> {
        let program = program.canonicalize();
        Ok(Rollout {
            program: program.map_err(|e| e.to_string())?,
            folder: folder.to_owned(),
            key: PrivateKey::generate().map_err(|e| e.to_string())?,
        })
    }

    /// Who signs.
    pub(crate) fn signer(&self) -> PublicKey {
        self.key.public()
    }

    /// Brings a signed model to all devices of this broker: to a hundredth first. Returns how long that took.
    pub(crate) async fn run(&self, url: &str, within: &str) -> Result<Duration, String> {
        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(self.folder.join(name), bytes).map_err(|e| e.to_string())
        };
        put("model", MODEL)?;
        let signed = self.manifest().sign(std::slice::from_ref(&self.key))?;
        let signed = serde_json::to_vec(&signed).map_err(|e| e.to_string())?;
        put("manifest.json", &signed)?;
        let started = Instant::now();
        let base = self.folder.to_string_lossy().into_owned();
        let said = self
            .fleet(&[
                "--broker",
                url,
                "rollout",
                "manifest.json",
                "--base",
                &base,
                "--canary",
                "0.01",
                "--within",
                within,
            ])
            .await?;
        eprintln!("{}", said.lines().last().unwrap_or_default());
        Ok(started.elapsed())
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            name: "stub".to_owned(),
            version: 1,
            minimum_program: None,
            expires: "2100-01-01T00:00:00Z".to_owned(),
            allow_downgrade: false,
            files: vec![File {
                path: "model".to_owned(),
                length: MODEL.len() as u64,
                sha256: sha256(MODEL),
            }],
            smoke: None,
            keys: None,
        }
    }

    async fn fleet(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command
            .arg("fleet")
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        let done = tokio::task::spawn_blocking(move || command.output()).await;
        let output = done.map_err(|e| e.to_string())?;
        let output = output.map_err(|e| format!("{}: {e}", self.program.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = errors.lines().rev().take(3).collect();
        Err(format!(
            "kinglet fleet {}: {}",
            arguments.join(" "),
            last.join("; ")
        ))
    }
}
