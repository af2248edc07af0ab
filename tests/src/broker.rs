//! A real mosquitto on a free port of loopback.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::program::Running;

/// A running mosquitto. It is stopped by its process id when it is dropped.
pub struct Mosquitto {
    process: Running,
    _folder: TempDir,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Mosquitto {
    /// Starts one on a free port.
    pub fn start() -> Self {
        Self::on(free_port())
    }

    /// Starts one on this port.
    pub fn on(port: u16) -> Self {
        Self::with(port, "allow_anonymous true")
    }

    /// Starts one on this port with these lines in its configuration.
    pub fn with(port: u16, lines: &str) -> Self {
        Self::first(port, "", lines)
    }

    /// The same with lines before those of the listener.
    pub fn first(port: u16, before: &str, lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mosquitto.conf");
        let text = format!("{before}\nlistener {port} 127.0.0.1\n{lines}\n");
        std::fs::write(&config, text).unwrap();
        // Debian puts it where ordinary users' PATH does not look.
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&config).env("PATH", path);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = command.spawn();
        let process = Running(spawned.expect("mosquitto is installed (tools/check installs it)"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "mosquitto does not listen on {port}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Mosquitto {
            process,
            _folder: folder,
            port,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
