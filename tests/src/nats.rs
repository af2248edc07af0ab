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

/// Three NATS servers that are one broker. Each is a process of its own on loopback.
pub struct Cluster {
    nodes: Vec<Option<Running>>,
    folders: Vec<TempDir>,
    /// Their MQTT ports on 127.0.0.1.
    pub ports: Vec<u16>,
}

impl Cluster {
    /// Starts one; none if nats-server is not installed.
    pub fn start() -> Option<Self> {
        let free = || [(); 3].map(|()| free_port());
        let (ports, own, routes) = (free(), free(), free());
        let all: Vec<String> = routes
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        let mut folders = Vec::new();
        for node in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let text = format!(
                "listen: \"127.0.0.1:{}\"\nserver_name: node{node}\njetstream {{ store_dir: \"{}\" }}\n\
                 mqtt {{ listen: \"127.0.0.1:{}\" }}\n\
                 cluster {{ name: kinglet, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                own[node],
                folder.path().join("store").display(),
                ports[node],
                routes[node],
                all.join(", "),
            );
            std::fs::write(folder.path().join("nats.conf"), text).unwrap();
            folders.push(folder);
        }
        let mut cluster = Cluster {
            nodes: (0..3).map(|_| None).collect(),
            folders,
            ports: ports.to_vec(),
        };
        for node in 0..3 {
            cluster.nodes[node] = Some(spawn(cluster.folders[node].path())?);
        }
        Some(cluster)
    }

    /// Kills a node without warning.
    pub fn kill(&mut self, node: usize) {
        if let Some(process) = self.nodes[node].take() {
            process.kill();
        }
    }

    /// Starts a node that was killed.
    pub fn start_again(&mut self, node: usize) {
        self.nodes[node] = spawn(self.folders[node].path());
    }
}

fn spawn(folder: &Path) -> Option<Running> {
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("nats-server");
    command
        .arg("-c")
        .arg(folder.join("nats.conf"))
        .env("PATH", path);
    let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    spawned.ok().map(Running)
}

fn run(folder: &Path, port: u16) -> Option<Running> {
    let process = spawn(folder)?;
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
