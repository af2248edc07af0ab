//! A real NATS server that speaks MQTT 3.1.1, on free ports of loopback.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::free_port;
use crate::program::Running;

/// A running NATS server with JetStream and MQTT. It is stopped by its process id when it is dropped.
pub struct Nats {
    process: Option<Running>,
    folder: TempDir,
    /// Its MQTT port on 127.0.0.1.
    pub port: u16,
}

impl Nats {
    /// Starts one; none if it is not installed.
    pub fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (port, own) = (free_port(), free_port());
        let store = folder.path().join("store");
        let text = format!(
            "listen: \"127.0.0.1:{own}\"\nserver_name: kinglet\njetstream {{ store_dir: \"{}\" }}\nmqtt {{ listen: \"127.0.0.1:{port}\" }}\n",
            store.display()
        );
        std::fs::write(folder.path().join("nats.conf"), text).unwrap();
        let process = Some(run(folder.path(), port)?);
        Some(Nats {
            process,
            folder,
            port,
        })
    }

    /// Kills it without warning and starts it again with what it has on disk.
    pub fn kill_and_start(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        self.process = run(self.folder.path(), self.port);
        assert!(self.process.is_some());
    }
}

fn run(folder: &Path, port: u16) -> Option<Running> {
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("nats-server");
    command
        .arg("-c")
        .arg(folder.join("nats.conf"))
        .env("PATH", path);
    let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let process = Running(spawned.ok()?);
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(
            Instant::now() < deadline,
            "nats-server does not listen on {port}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(process)
}
