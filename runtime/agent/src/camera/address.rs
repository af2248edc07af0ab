//! A camera's URL. What could be a secret in it, user, password and query, is never shown.

use std::fmt;

use url::Url;

use crate::config::{CameraConfig, error};
use crate::error::Result;

/// Where a camera is.
#[derive(Clone)]
pub(super) struct Address {
    /// The URL without user and password.
    pub(super) url: Url,
    /// User and password.
    pub(super) credentials: Option<(String, String)>,
}

// By hand: nothing secret may get into a log.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", shown(&self.url))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// A URL without user, password and query: cameras take passwords in all three.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    let query = if url.query().is_some() { "?..." } else { "" };
    format!("{}://{host}{port}{}{query}", url.scheme(), url.path())
}

impl Address {
    /// Reads a URL of one of these schemes.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`]; it does not repeat the URL.
    pub(super) fn read(text: &str, schemes: &[&str], config: &CameraConfig) -> Result<Self> {
        let refuse = |expected: &str| error("camera", &config.name, expected);
        let mut url = Url::parse(text)
            .map_err(|e| refuse(&format!("has a source whose URL cannot be read: {e}")))?;
        if !schemes.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
            return Err(refuse(&format!(
                "has a source whose URL does not begin with {}://",
                schemes.join(":// or ")
            )));
        }
        let decoded = |text: &str| {
            let bytes: Vec<u8> = percent_decoded(text.as_bytes());
            String::from_utf8(bytes).map_err(|_| refuse("has a user or password that is no UTF-8"))
        };
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some((decoded(user)?, decoded(password.unwrap_or(""))?)),
        };
        // Neither can fail on a URL with a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        Ok(Address { url, credentials })
    }
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let hex = |digit: Option<&u8>| digit.and_then(|d| (*d as char).to_digit(16));
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, hex(text.get(at + 1)), hex(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_password_and_query_are_read_and_never_shown() {
        let config: CameraConfig = toml::from_str("name = 'c'\nsource = ''").unwrap();
        let url = "http://us%40er:se%2Fc%ret@cam.local:81/a/b.cgi?pwd=hidden#x";
        let address = Address::read(url, &["http"], &config).unwrap();
        assert_eq!(
            address.credentials,
            Some(("us@er".to_owned(), "se/c%ret".to_owned()))
        );
        assert_eq!(address.to_string(), "http://cam.local:81/a/b.cgi?...");
        assert_eq!(
            format!("{address:?}"),
            "Address(http://cam.local:81/a/b.cgi?...)"
        );
        assert_eq!(
            address.url.as_str(),
            "http://cam.local:81/a/b.cgi?pwd=hidden"
        );
        assert!(Address::read(url, &["rtsp"], &config).is_err());
    }
}
