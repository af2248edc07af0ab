//! Where a model's files come from: a web server, or a folder of the device.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_RANGE, HOST, RANGE, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::error::Result;
use crate::security;

/// How long a connection may take, with its encryption.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of a local file that are read at once.
const PIECE: usize = 1 << 20;

/// Why a file could not be fetched.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// The next time it may work.
    Later(String),
    /// It is not what was signed, or cannot be asked for.
    Wrong(String),
}

/// Gets the bytes of a file, piece by piece.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> std::result::Result<(), FetchError>;

/// Fetches files.
pub(crate) trait Fetch: Send + Sync {
    /// Gives the bytes of `name` below `base` from number `from` on to `sink`.
    fn fetch(
        &self,
        base: &str,
        name: &str,
        from: u64,
        sink: Sink<'_>,
    ) -> std::result::Result<(), FetchError>;
}

/// Web servers and folders of the device.
pub struct Web {
    tls: Arc<ClientConfig>,
}

impl Web {
    /// Servers with encryption are checked against the authorities in the PEM file `ca`, else the system's.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`] if they cannot be read.
    pub fn new(ca: Option<&Path>) -> Result<Self> {
        let tls = Arc::new(security::trusting("update.ca", ca)?);
        Ok(Web { tls })
    }
}

impl Fetch for Web {
    fn fetch(
        &self,
        base: &str,
        name: &str,
        from: u64,
        sink: Sink<'_>,
    ) -> std::result::Result<(), FetchError> {
        if Path::new(base).is_absolute() {
            return local(&Path::new(base).join(name), from, sink);
        }
        let wrong = || {
            let expected = "https://, http:// or an absolute path is expected";
            FetchError::Wrong(format!("base: \"{}\": {expected}", base.escape_default()))
        };
        let mut url = Url::parse(base).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong());
        }
        url.path_segments_mut()
            .map_err(|()| wrong())?
            .pop_if_empty()
            .push(name);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|e| FetchError::Later(e.to_string()))?;
        runtime.block_on(self.web(&url, from, sink))
    }
}

impl Web {
    async fn web(
        &self,
        url: &Url,
        from: u64,
        sink: Sink<'_>,
    ) -> std::result::Result<(), FetchError> {
        let at = format!(
            "{}{}",
            &url[..url::Position::BeforeUsername],
            &url[url::Position::BeforeHost..url::Position::AfterPath]
        );
        let later = |e: &dyn std::fmt::Display| FetchError::Later(format!("{at}: {e}"));
        let connected = timeout(CONNECT, self.connect(url)).await;
        let mut sender = connected
            .map_err(|_| later(&"no connection"))?
            .map_err(|e| later(&e))?;
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let request = Request::get(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("kinglet/", env!("CARGO_PKG_VERSION")))
            .header(RANGE, format!("bytes={from}-"))
            .body(Empty::new())
            .map_err(|e| FetchError::Wrong(format!("{at}: {e}")))?;
        let response = timeout(SILENCE, sender.send_request(request)).await;
        let response = response
            .map_err(|_| later(&"no answer"))?
            .map_err(|e| later(&e))?;
        let mut skip = match response.status() {
            // A server that knows no ranges sends all of it.
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE);
                let begins = format!("bytes {from}-");
                if !range.is_some_and(|r| r.as_bytes().starts_with(begins.as_bytes())) {
                    return Err(later(&"it answers another range than was asked for"));
                }
                0
            }
            status => return Err(later(&status)),
        };
        let mut body = response.into_body();
        loop {
            let frame = timeout(SILENCE, body.frame()).await;
            let Some(frame) = frame.map_err(|_| later(&"silence"))? else {
                return Ok(());
            };
            let Ok(data) = frame.map_err(|e| later(&e))?.into_data() else {
                continue;
            };
            let known = skip.min(data.len() as u64);
            skip -= known;
            sink(data.get(known as usize..).unwrap_or_default())?;
        }
    }

    async fn connect(
        &self,
        url: &Url,
    ) -> std::result::Result<http1::SendRequest<Empty<Bytes>>, String> {
        let port = url.port_or_known_default().unwrap_or(443);
        let (name, server) = match url.host() {
            Some(Host::Domain(name)) => {
                (name.to_owned(), ServerName::try_from(name.to_owned()).ok())
            }
            Some(Host::Ipv4(ip)) => (ip.to_string(), Some(ServerName::IpAddress(ip.into()))),
            Some(Host::Ipv6(ip)) => (ip.to_string(), Some(ServerName::IpAddress(ip.into()))),
            None => return Err("the URL has no host".to_owned()),
        };
        let stream = TcpStream::connect((name, port)).await;
        let stream = stream.map_err(|e| e.to_string())?;
        if url.scheme() == "http" {
            return handshake(stream).await;
        }
        let server = server.ok_or("the host's name cannot be on a certificate")?;
        let connected = TlsConnector::from(Arc::clone(&self.tls)).connect(server, stream);
        let stream = connected
            .await
            .map_err(|e| format!("no encrypted connection: {e}"))?;
        handshake(stream).await
    }
}

async fn handshake<S>(stream: S) -> std::result::Result<http1::SendRequest<Empty<Bytes>>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|e| e.to_string())?;
    // It ends with the sender and the body; its errors come out of these too.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn local(path: &Path, from: u64, sink: Sink<'_>) -> std::result::Result<(), FetchError> {
    use std::io::{Seek, SeekFrom};
    let later = |e: std::io::Error| FetchError::Later(format!("{}: {e}", path.display()));
    // A pipe or a device could be read without end, or never.
    if !std::fs::metadata(path).map_err(later)?.is_file() {
        return Err(FetchError::Wrong(format!("{}: is no file", path.display())));
    }
    let mut file = std::fs::File::open(path).map_err(later)?;
    file.seek(SeekFrom::Start(from)).map_err(later)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(later)? {
            0 => return Ok(()),
            n => sink(&piece[..n])?,
        }
    }
}
