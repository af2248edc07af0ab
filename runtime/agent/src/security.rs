//! What a connection to a broker is made safe with: certificates, keys, a name and a password.
//!
//! TLS 1.2 and 1.3 by rustls. The broker's certificate is always checked, against the configured
//! authority or the system's; there is no switch that turns this off.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use crate::config::{BrokerAddress, BrokerConfig, error};
use crate::error::Result;

/// A password longer than this is some other file.
const LONGEST_PASSWORD: usize = 4096;

/// How to reach the broker.
#[derive(Clone)]
pub struct Security {
    /// Where it is.
    pub address: BrokerAddress,
    /// Where else it is, if it is a cluster.
    others: VecDeque<BrokerAddress>,
    /// Encryption; none on a plain connection.
    pub tls: Option<Arc<ClientConfig>>,
    /// User and password.
    pub credentials: Option<(String, String)>,
}

// By hand: no key and no password may get into a log.
impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security")
            .field("address", &self.address)
            .field("tls", &self.tls.is_some())
            .field("user", &self.credentials.as_ref().map(|(user, _)| user))
            .finish_non_exhaustive()
    }
}

impl Security {
    /// Reads everything that the configuration names; paths are relative to `folder`.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`] naming the key, if a file is missing or holds something else.
    pub fn load(config: &BrokerConfig, folder: &Path) -> Result<Self> {
        let mut others = VecDeque::from(config.addresses()?);
        let address = match others.pop_front() {
            Some(address) => address,
            None => config.address()?,
        };
        let credentials = match (&config.user, &config.password_file) {
            (None, None) => None,
            (Some(user), None) => Some((user.clone(), String::new())),
            (Some(user), Some(file)) => Some((user.clone(), password(&folder.join(file))?)),
            (None, Some(file)) => {
                let file = file.display().to_string();
                let expected = "is of no use without broker.user";
                return Err(error("broker.password_file", &file, expected));
            }
        };
        let tls = if address.tls {
            Some(Arc::new(encryption(config, folder)?))
        } else {
            let files = [&config.ca, &config.certificate, &config.key];
            if let Some(file) = files.into_iter().flatten().next() {
                let file = file.display().to_string();
                let expected =
                    "is of no use on a plain connection; broker.url = \"mqtts://...\" encrypts it";
                return Err(error("broker", &file, expected));
            }
            None
        };
        Ok(Security {
            address,
            others,
            tls,
            credentials,
        })
    }

    /// Turns to the next node of a cluster.
    pub fn turn(&mut self) {
        if let Some(next) = self.others.pop_front() {
            self.others
                .push_back(std::mem::replace(&mut self.address, next));
        }
    }
}

fn password(path: &Path) -> Result<String> {
    let name = path.display().to_string();
    let refuse = |e: &str| error("broker.password_file", &name, e);
    let text =
        std::fs::read_to_string(path).map_err(|e| refuse(&format!("cannot be read: {e}")))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > LONGEST_PASSWORD {
        return Err(refuse(&format!(
            "must hold one password of at most {LONGEST_PASSWORD} bytes"
        )));
    }
    Ok(password.to_owned())
}

/// What trusts these authorities, or the system's, and nobody else; `field` names the key of the file.
pub(crate) fn trusting(field: &str, ca: Option<&Path>) -> Result<ClientConfig> {
    Ok(builder(field, ca)?.with_no_client_auth())
}

fn builder(field: &str, ca: Option<&Path>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            let name = file.display().to_string();
            for certificate in certificates(field, file)? {
                roots
                    .add(certificate)
                    .map_err(|e| error(field, &name, &format!("holds no authority: {e}")))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            let (taken, _) = roots.add_parsable_certificates(system.certs);
            if taken == 0 {
                let expected =
                    "is needed: this system has no list of authorities; name a file with one";
                return Err(error(field, "", expected));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| error(field, "", &format!("cannot be used: {e}")))?
        .with_root_certificates(roots))
}

fn encryption(config: &BrokerConfig, folder: &Path) -> Result<ClientConfig> {
    let ca = config.ca.as_ref().map(|file| folder.join(file));
    let builder = builder("broker.ca", ca.as_deref())?;
    match (&config.certificate, &config.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates("broker.certificate", &folder.join(certificate))?;
            let name = key.display().to_string();
            let refuse =
                |e: pem::Error| error("broker.key", &name, &unreadable(&e, "a private key"));
            let key = PrivateKeyDer::from_pem_file(folder.join(key)).map_err(refuse)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| {
                error(
                    "broker.key",
                    &name,
                    &format!("does not go with the certificate: {e}"),
                )
            })
        }
        (one, _) => {
            let file: PathBuf = one.iter().chain(&config.key).cloned().collect();
            let expected = "is one of two: a device's certificate and its key belong together";
            Err(error("broker", &file.display().to_string(), expected))
        }
    }
}

fn certificates(field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let name = path.display().to_string();
    let refuse = |e: pem::Error| error(field, &name, &unreadable(&e, "certificates"));
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(refuse)?
        .collect::<std::result::Result<_, _>>()
        .map_err(refuse)?;
    if all.is_empty() {
        return Err(error(field, &name, "holds no certificate in PEM"));
    }
    Ok(all)
}

fn unreadable(e: &pem::Error, what: &str) -> String {
    format!("cannot be read as {what} in PEM: {e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(lines: &str, folder: &Path) -> Result<Security> {
        let config: BrokerConfig = toml::from_str(lines).unwrap();
        Security::load(&config, folder)
    }

    #[test]
    fn what_is_missing_or_something_else_is_refused_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("text"), "hello\n").unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        let plain = "url = \"mqtt://localhost\"\n";
        let safe = "url = \"mqtts://localhost\"\n";
        for (lines, key) in [
            (format!("{plain}password_file = \"text\""), "password_file"),
            (
                format!("{plain}user = \"a\"\npassword_file = \"none\""),
                "password_file",
            ),
            (
                format!("{plain}user = \"a\"\npassword_file = \"empty\""),
                "password_file",
            ),
            (format!("{plain}ca = \"text\""), "plain connection"),
            (format!("{safe}ca = \"none\""), "broker.ca"),
            (format!("{safe}ca = \"text\""), "broker.ca"),
        ] {
            let refused = load(&lines, folder.path()).unwrap_err().to_string();
            assert!(refused.contains(key), "{lines}: {refused}");
        }
        let lines = format!("{plain}user = \"a\"\npassword_file = \"text\"");
        let security = load(&lines, folder.path()).unwrap();
        assert_eq!(
            security.credentials,
            Some(("a".to_owned(), "hello".to_owned()))
        );
        assert!(!format!("{security:?}").contains("hello"));
    }
}
