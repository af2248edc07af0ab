//! Where the broker is, and who this device is to it.

use std::path::PathBuf;

use serde::Deserialize;

use super::error;
use crate::error::Result;
use crate::wire::Version;

/// The most nodes of a cluster.
const MOST_NODES: usize = 16;

/// `[broker]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// `mqtts://HOST:PORT`, or `mqtt://HOST:PORT` without encryption.
    pub url: String,
    /// Further nodes of the same cluster, tried in turn when one is lost: URLs with the same encryption.
    #[serde(default)]
    pub also: Vec<String>,
    /// The only version of MQTT that is spoken, `5` or `3.1.1`; left out: 5, or 3.1.1 where the broker knows no
    /// better.
    #[serde(default)]
    pub protocol: Option<Version>,
    /// Accepts an unencrypted connection to another machine.
    #[serde(default)]
    pub allow_insecure: bool,
    /// Certificates of the authorities that may vouch for the broker, in PEM; left out: the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// This device's certificate, in PEM, for brokers that ask for one.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The user that this device is to the broker.
    #[serde(default)]
    pub user: Option<String>,
    /// The file that holds the user's password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl BrokerConfig {
    /// Host and port.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`] if the URL is no `mqtts://HOST:PORT` or `mqtt://HOST:PORT`, or would carry
    /// plain text to another machine without `allow_insecure`.
    pub fn address(&self) -> Result<BrokerAddress> {
        self.read("broker.url", &self.url)
    }

    /// Host and port of all nodes, the first one first.
    ///
    /// # Errors
    /// As [`BrokerConfig::address`], and if one is encrypted and another one is not, or there are too many.
    pub fn addresses(&self) -> Result<Vec<BrokerAddress>> {
        let first = self.address()?;
        if self.also.len() >= MOST_NODES {
            let expected = format!("names too many; {} are accepted", MOST_NODES - 1);
            return Err(error(
                "broker.also",
                &self.also.len().to_string(),
                &expected,
            ));
        }
        let mut all = vec![first];
        for url in &self.also {
            let address = self.read("broker.also", url)?;
            if address.tls != all[0].tls {
                let expected = "is encrypted and broker.url is not, or the other way round";
                return Err(error("broker.also", url, expected));
            }
            all.push(address);
        }
        Ok(all)
    }

    fn read(&self, key: &str, url: &str) -> Result<BrokerAddress> {
        let refuse = |expected: &str| error(key, url, expected);
        let not_understood =
            || refuse("is not understood; mqtts://HOST:PORT or mqtt://HOST:PORT is expected");
        let (rest, tls) = match (url.strip_prefix("mqtts://"), url.strip_prefix("mqtt://")) {
            (Some(rest), _) => (rest, true),
            (None, Some(rest)) => (rest, false),
            (None, None) => return Err(not_understood()),
        };
        let rest = rest.trim_end_matches('/');
        let default = if tls { 8883 } else { 1883 };
        let (host, port) = match rest.rsplit_once(':') {
            // An address of IP version 6 has colons of its own and stands in brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (rest, Some(default)),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.filter(|p| *p != 0);
        let (false, Some(port)) = (host.is_empty() || host.contains(['/', '@']), port) else {
            return Err(not_understood());
        };
        let loopback = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        if !tls && !loopback && !self.allow_insecure {
            return Err(refuse(
                "would carry pictures and answers unencrypted to another machine; mqtts:// encrypts them, [broker] allow_insecure = true does without",
            ));
        }
        Ok(BrokerAddress {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str, allow_insecure: bool) -> Result<BrokerAddress> {
        let mut config: BrokerConfig = toml::from_str("url = \"\"").unwrap();
        config.url = url.to_owned();
        config.allow_insecure = allow_insecure;
        config.address()
    }

    #[test]
    fn nodes_of_a_cluster_are_all_encrypted_or_none() {
        let addresses = |also: &str| {
            let text = format!("url = 'mqtts://a'\nalso = [{also}]");
            let config: BrokerConfig = toml::from_str(&text).unwrap();
            config.addresses()
        };
        let hosts: Vec<String> = addresses("'mqtts://b:1', 'mqtts://c'")
            .unwrap()
            .into_iter()
            .map(|a| a.host)
            .collect();
        assert_eq!(hosts, ["a", "b", "c"]);
        for (also, words) in [
            ("'mqtt://localhost'", "the other way"),
            ("'x'", "broker.also"),
            (&"'mqtts://b',".repeat(16)[..], "too many"),
        ] {
            let refused = addresses(also).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn plain_text_to_another_machine_must_be_asked_for() {
        assert_eq!(address("mqtt://localhost:1884", false).unwrap().port, 1884);
        assert_eq!(address("mqtt://127.0.0.1", false).unwrap().port, 1883);
        assert_eq!(address("mqtt://[::1]:99", false).unwrap().host, "::1");
        let six = address("mqtts://[2001:db8::1]", false).unwrap();
        assert_eq!(
            (&six.host[..], six.port, six.tls),
            ("2001:db8::1", 8883, true)
        );
        assert_eq!(address("mqtts://broker.example", false).unwrap().port, 8883);
        let refused = address("mqtt://broker.example:1883", false).unwrap_err();
        assert!(refused.to_string().contains("allow_insecure"), "{refused}");
        assert!(address("mqtt://broker.example:1883", true).is_ok());
        for url in [
            "",
            "http://localhost",
            "mqtt://",
            "mqtt://h:0",
            "mqtt://h:99999",
            "mqtt://a/b",
        ] {
            assert!(address(url, true).is_err(), "{url}");
        }
    }
}
