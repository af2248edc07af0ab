//! Hosts of a test's own on one machine: network namespaces at a bridge, each with an address. Needs root and
//! iproute2. All of it is gone when it is dropped.

use std::process::Command;

/// Some hosts.
pub struct Hosts {
    bridge: String,
    names: Vec<String>,
    /// Their addresses. This machine reaches them.
    pub addresses: Vec<String>,
}

impl Hosts {
    /// Makes so many; the reason, if that cannot be done here.
    ///
    /// # Errors
    /// What the system said.
    pub fn make(count: usize) -> Result<Self, String> {
        // Other tests may run at the same time, and interfaces have short names.
        let own = std::process::id() % 100_000;
        let subnet = format!("10.231.{}", own % 250);
        let mut hosts = Hosts {
            bridge: format!("kgl{own}b"),
            names: Vec::new(),
            addresses: Vec::new(),
        };
        let bridge = hosts.bridge.clone();
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {subnet}.254/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for n in 0..count {
            let name = format!("kgl{own}n{n}");
            ip(&format!("netns add {name}"))?;
            hosts.names.push(name.clone());
            hosts.addresses.push(format!("{subnet}.{}", n + 1));
            ip(&format!(
                "link add {name} type veth peer name eth0 netns {name}"
            ))?;
            ip(&format!("link set {name} master {bridge} up"))?;
            ip(&format!(
                "-n {name} addr add {subnet}.{}/24 dev eth0",
                n + 1
            ))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(hosts)
    }

    /// A program on this host.
    pub fn command(&self, host: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host], program]);
        command
    }

    /// Pulls a host's cable, or plugs it in again.
    pub fn cut(&self, host: usize, cut: bool) {
        let state = if cut { "down" } else { "up" };
        ip(&format!("link set {} {state}", self.names[host])).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("link del {name}"));
            let _ = ip(&format!("netns del {name}"));
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).env("PATH", path);
    let output = command.output().map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {}", error.trim()))
}
