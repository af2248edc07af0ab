//! Fetching from a camera over HTTP: every wait and every length has a bound.
//!
//! Passwords are answered by the scheme that the camera asks for (Basic or Digest) and only to the
//! configured host. A redirection is followed within that host and scheme alone: a camera must not
//! send the agent anywhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_auth::{PasswordClient, PasswordParams};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::address::{Address, shown};
use super::source::refuse_unused;
use crate::config::CameraConfig;
use crate::error::Result;
use crate::security;

/// How long a connection may take, with its encryption.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the camera may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
const REDIRECTIONS: usize = 5;
/// The longest head of a response, in bytes.
const LONGEST_HEAD: usize = 64 << 10;

/// What a camera over HTTP is made of.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    ca: Option<PathBuf>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Target {
    /// Reads `http://` or `https://`.
    pub(super) fn read(text: &str, config: &CameraConfig) -> Result<Self> {
        refuse_unused(config, &["width", "height"])?;
        let address = Address::read(text, &["http", "https"], config)?;
        if address.url.scheme() == "http" {
            refuse_unused(config, &["ca"])?;
        }
        Ok(Target {
            address,
            ca: config.ca.clone(),
            tls: None,
        })
    }

    /// Reads the authorities that a camera with encryption is checked against.
    pub(super) fn prepare(&mut self, folder: &Path) -> Result<()> {
        if self.address.url.scheme() == "https" {
            let ca = self.ca.as_ref().map(|file| folder.join(file));
            self.tls = Some(Arc::new(security::trusting("camera.ca", ca.as_deref())?));
        }
        Ok(())
    }
}

/// Runs a session of a camera that needs the network until it fails or has `ended`.
pub(super) fn block_on(
    ended: impl Future<Output = ()>,
    session: impl Future<Output = std::result::Result<(), String>>,
) -> std::result::Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("the system refused to start the network: {e}"))?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = session => result,
            () = ended => Ok(()),
        }
    });
    // A name that is being looked up, or a picture that is being decoded, need not be waited for.
    runtime.shutdown_background();
    result
}

/// A client of one camera; it keeps its connection while the camera does.
pub(super) struct Client<'a> {
    target: &'a Target,
    connection: Option<(String, SendRequest<Empty<Bytes>>)>,
    password: Option<PasswordClient>,
}

impl<'a> Client<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        Client {
            target,
            connection: None,
            password: None,
        }
    }

    /// Asks for the camera's URL, and returns what comes with status 200.
    pub(super) async fn get(&mut self) -> std::result::Result<Response<Incoming>, String> {
        let mut url = self.target.address.url.clone();
        let mut redirections = 0;
        let mut challenged = false;
        loop {
            let response = self.request(&url).await?;
            let status = response.status();
            if status == StatusCode::OK {
                return Ok(response);
            }
            // What else is in this response is not read.
            self.connection = None;
            if status == StatusCode::UNAUTHORIZED {
                if self.target.address.credentials.is_none() {
                    return Err(format!(
                        "{} wants a user and a password: http://USER:PASSWORD@HOST/...",
                        shown(&url)
                    ));
                }
                if challenged {
                    return Err(format!("{} refuses this user and password", shown(&url)));
                }
                challenged = true;
                let challenges = response.headers().get_all(WWW_AUTHENTICATE);
                let mut builder = PasswordClient::builder();
                for challenge in challenges.iter().filter_map(|c| c.to_str().ok()) {
                    builder = builder.challenges(challenge);
                }
                let client = builder.build().map_err(|_| {
                    format!(
                        "{} wants a password in a way that is neither Basic nor Digest",
                        shown(&url)
                    )
                })?;
                self.password = Some(client);
                continue;
            }
            let location = response
                .headers()
                .get(LOCATION)
                .filter(|_| status.is_redirection());
            let Some(location) = location else {
                return Err(format!("{} answers {status}", shown(&url)));
            };
            let next = location.to_str().ok().and_then(|l| url.join(l).ok());
            let next = next
                .ok_or_else(|| format!("{} redirects to something that is no URL", shown(&url)))?;
            if (next.scheme(), next.host()) != (url.scheme(), url.host()) {
                return Err(format!(
                    "{} redirects to another place, which is not followed: {}",
                    shown(&url),
                    shown(&next)
                ));
            }
            redirections += 1;
            if redirections > REDIRECTIONS {
                return Err(format!(
                    "{} redirects more than {REDIRECTIONS} times",
                    shown(&self.target.address.url)
                ));
            }
            url = next;
        }
    }

    async fn request(&mut self, url: &Url) -> std::result::Result<Response<Incoming>, String> {
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut request = Request::get(&path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("kinglet/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "image/*, multipart/x-mixed-replace");
        if let (Some(client), Some((user, password))) =
            (&mut self.password, &self.target.address.credentials)
        {
            let answer = client.respond(&PasswordParams {
                username: user,
                password,
                uri: &path,
                method: "GET",
                body: Some(&[]),
            });
            let answer = answer.map_err(|_| {
                format!(
                    "{}: its demand for a password cannot be answered",
                    shown(url)
                )
            })?;
            request = request.header(AUTHORIZATION, answer);
        }
        let request = request
            .body(Empty::new())
            .map_err(|_| format!("{} is no address that can be asked for", shown(url)))?;

        let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", shown(url));
        // The camera may have closed the last connection since.
        let open = match self.connection.take() {
            Some((of, mut sender)) if of == host => sender.ready().await.is_ok().then_some(sender),
            _ => None,
        };
        let mut sender = match open {
            Some(sender) => sender,
            None => timeout(CONNECT, self.connect(url))
                .await
                .map_err(|_| fail(&format!("no connection within {} s", CONNECT.as_secs())))?
                .map_err(|e| fail(&e))?,
        };
        let response = timeout(SILENCE, sender.send_request(request))
            .await
            .map_err(|_| fail(&format!("no answer within {} s", SILENCE.as_secs())))?
            .map_err(|e| fail(&cause(&e)))?;
        self.connection = Some((host.to_owned(), sender));
        Ok(response)
    }

    async fn connect(&self, url: &Url) -> std::result::Result<SendRequest<Empty<Bytes>>, String> {
        let port = url.port_or_known_default().unwrap_or(80);
        let (stream, name) = match url.host() {
            Some(Host::Domain(name)) => (
                TcpStream::connect((name, port)).await,
                ServerName::try_from(name.to_owned()).ok(),
            ),
            Some(Host::Ipv4(ip)) => (
                TcpStream::connect((ip, port)).await,
                Some(ServerName::IpAddress(ip.into())),
            ),
            Some(Host::Ipv6(ip)) => (
                TcpStream::connect((ip, port)).await,
                Some(ServerName::IpAddress(ip.into())),
            ),
            None => return Err("the URL has no host".to_owned()),
        };
        let stream = stream.map_err(|e| e.to_string())?;
        match &self.target.tls {
            None => handshake(stream).await,
            Some(tls) => {
                let name = name.ok_or("the host's name cannot be on a certificate")?;
                let stream = TlsConnector::from(Arc::clone(tls))
                    .connect(name, stream)
                    .await
                    .map_err(|e| format!("no encrypted connection: {e}"))?;
                handshake(stream).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> std::result::Result<SendRequest<Empty<Bytes>>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new()
        .ignore_invalid_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .max_buf_size(LONGEST_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| cause(&e))?;
    // It ends with the sender and the body; its errors come out of these too.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// The next bytes of a body, none at its end.
pub(super) async fn bytes(
    body: &mut Incoming,
    from: &Address,
) -> std::result::Result<Option<Bytes>, String> {
    loop {
        let frame = timeout(SILENCE, body.frame())
            .await
            .map_err(|_| format!("{from} was silent for {} s", SILENCE.as_secs()))?;
        match frame {
            None => return Ok(None),
            Some(Err(e)) => return Err(format!("{from}: {}", cause(&e))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// What a response says it is.
pub(super) fn content_type(response: &Response<Incoming>) -> &str {
    let value = response.headers().get(CONTENT_TYPE);
    value.and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// An error of the library with what is behind it.
fn cause(e: &hyper::Error) -> String {
    match std::error::Error::source(e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    }
}
