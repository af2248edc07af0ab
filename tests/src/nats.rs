//! A real NATS server that speaks MQTT 3.1.1, on free ports of loopback.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::free_port;
use crate::hosts::Hosts;
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

/// Three NATS servers that are one broker.
pub struct Cluster {
    nodes: Vec<Option<Running>>,
    folders: Vec<TempDir>,
    /// Where their MQTT is: host and port.
    pub addresses: Vec<(String, u16)>,
    hosts: Option<Hosts>,
}

impl Cluster {
    /// Starts one, each node a process on loopback; none if nats-server is not installed.
    pub fn start() -> Option<Self> {
        Self::on(None)
    }

    /// Starts one, each node on a host of its own; the reason, if there is no nats-server or no hosts can be made
    /// here.
    pub fn across_hosts() -> Result<Self, String> {
        let hosts = Hosts::make(3)?;
        Self::on(Some(hosts)).ok_or_else(|| "there is no nats-server".to_owned())
    }

    fn on(hosts: Option<Hosts>) -> Option<Self> {
        let loopback = || vec!["127.0.0.1".to_owned(); 3];
        let names = hosts
            .as_ref()
            .map_or_else(loopback, |h| h.addresses.clone());
        let free = || [(); 3].map(|()| free_port());
        let (ports, own, routes) = (free(), free(), free());
        let all = names.iter().zip(routes);
        let all: Vec<_> = all
            .map(|(name, port)| format!("nats://{name}:{port}"))
            .collect();
        let mut folders = Vec::new();
        for (node, host) in names.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            // A host that is cut off says nothing: it is asked often.
            let text = format!(
                "listen: \"{host}:{}\"\nserver_name: node{node}\nping_interval: \"2s\"\n\
                 jetstream {{ store_dir: \"{}\" }}\nmqtt {{ listen: \"{host}:{}\" }}\n\
                 cluster {{ name: kinglet, listen: \"{host}:{}\", routes: [{}] }}\n",
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
            addresses: names.into_iter().zip(ports).collect(),
            hosts,
        };
        for node in 0..3 {
            cluster.nodes[node] = Some(cluster.spawn(node)?);
        }
        Some(cluster)
    }

    /// A node's address, for a device.
    pub fn url(&self, node: usize) -> String {
        let (host, port) = &self.addresses[node];
        format!("mqtt://{host}:{port}")
    }

    /// Kills a node without warning.
    pub fn kill(&mut self, node: usize) {
        if let Some(process) = self.nodes[node].take() {
            process.kill();
        }
    }

    /// Starts a node that was killed.
    pub fn start_again(&mut self, node: usize) {
        self.nodes[node] = self.spawn(node);
    }

    /// Cuts a node's host off, or lets it back.
    ///
    /// # Panics
    /// If the nodes have no hosts of their own.
    pub fn cut(&self, node: usize, cut: bool) {
        self.hosts.as_ref().unwrap().cut(node, cut);
    }

    fn spawn(&self, node: usize) -> Option<Running> {
        let folder = self.folders[node].path();
        match &self.hosts {
            None => spawn(folder),
            Some(hosts) => {
                let mut command = hosts.command(node, "nats-server");
                start(command.arg("-c").arg(folder.join("nats.conf")))
            }
        }
    }
}

fn spawn(folder: &Path) -> Option<Running> {
    let mut command = Command::new("nats-server");
    start(command.arg("-c").arg(folder.join("nats.conf")))
}

fn start(command: &mut Command) -> Option<Running> {
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    command.env("PATH", path);
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
