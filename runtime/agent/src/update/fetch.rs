//! Where a model's files come from: a web server, or a folder of the device.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_RANGE, HOST, LOCATION, RANGE, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::config;
use crate::error::Result;
use crate::security;

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;

/// How long a connection may take, with its encryption.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// The least that a server must send in this time, or the connection is given up; the next one goes on where it was.
const PACE: Pace = Pace {
    window: Duration::from_secs(60),
    least: 64 << 10,
};
/// The most redirections that are followed.
const REDIRECTIONS: usize = 5;
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
    /// Where files may come from; none: from anywhere.
    from: Option<Vec<Place>>,
    pace: Pace,
}

/// A rate that must be kept.
#[derive(Debug, Clone, Copy)]
struct Pace {
    window: Duration,
    least: u64,
}

impl Web {
    /// Servers with encryption are checked against the authorities in the PEM file `ca`, else the system's. Only
    /// what lies below one of the places in `from` is fetched.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`] if they cannot be read.
    pub fn new(ca: Option<&Path>, from: Option<&[String]>) -> Result<Self> {
        let places = from.map(|from| from.iter().map(|text| Place::read(text)).collect());
        Ok(Web {
            tls: Arc::new(security::trusting("update.ca", ca)?),
            from: places.transpose()?,
            pace: PACE,
        })
    }

    fn allows(&self, url: &Url) -> std::result::Result<(), FetchError> {
        let within = |places: &Vec<Place>| places.iter().any(|place| place.has(url));
        match self.from.as_ref().is_none_or(within) {
            true => Ok(()),
            false => Err(not_from(&shown(url))),
        }
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
            let within = |places: &Vec<Place>| places.iter().any(|p| p.has_folder(Path::new(base)));
            if !self.from.as_ref().is_none_or(within) {
                return Err(not_from(base));
            }
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
        runtime.block_on(async {
            for _ in 0..=REDIRECTIONS {
                self.allows(&url)?;
                match self.web(&url, from, &mut *sink).await? {
                    Some(next) => url = next,
                    None => return Ok(()),
                }
            }
            let reason = format!("more than {REDIRECTIONS} redirections");
            Err(FetchError::Later(format!("{}: {reason}", shown(&url))))
        })
    }
}

fn not_from(place: &str) -> FetchError {
    let place = place.escape_default();
    FetchError::Wrong(format!("{place}: [update] from does not name it"))
}

/// A URL without what may be a password.
fn shown(url: &Url) -> String {
    format!(
        "{}{}",
        &url[..url::Position::BeforeUsername],
        &url[url::Position::BeforeHost..url::Position::AfterPath]
    )
}

/// A place of `[update] from`.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// What lies below this address.
    Web(Url),
    /// What lies in this folder of the device, or below it.
    Folder(PathBuf),
}

impl Place {
    /// Reads one.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`] if it is none.
    pub(crate) fn read(text: &str) -> Result<Self> {
        if Path::new(text).is_absolute() {
            return Ok(Place::Folder(PathBuf::from(text)));
        }
        let refuse = || {
            let expected =
                "is not accepted: https://HOST/..., http://HOST/... or an absolute path is";
            config::error("update.from", text, expected)
        };
        let url = Url::parse(text).map_err(|_| refuse())?;
        let plain = url.query().is_none() && url.fragment().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        match matches!(url.scheme(), "http" | "https") && plain && nobody {
            true => Ok(Place::Web(url)),
            false => Err(refuse()),
        }
    }

    fn has(&self, url: &Url) -> bool {
        let Place::Web(place) = self else {
            return false;
        };
        // Whole levels of the path: .../models is no place for .../models-of-others. What servers may read as two
        // dots or as a slash is no part of a name.
        let path = place.path().trim_end_matches('/');
        let below = url.path().strip_prefix(path);
        let below = below.is_some_and(|rest| rest.starts_with('/'));
        let lower = url.path().to_ascii_lowercase();
        let hidden = ["%2e", "%2f", "%5c"]
            .iter()
            .any(|code| lower.contains(code));
        place.origin() == url.origin() && below && !hidden
    }

    fn has_folder(&self, folder: &Path) -> bool {
        let up = |c: std::path::Component<'_>| c == std::path::Component::ParentDir;
        matches!(self, Place::Folder(place) if folder.starts_with(place))
            && !folder.components().any(up)
    }
}

impl Web {
    async fn web(
        &self,
        url: &Url,
        from: u64,
        sink: Sink<'_>,
    ) -> std::result::Result<Option<Url>, FetchError> {
        let at = shown(url);
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
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                let to = response.headers().get(LOCATION);
                let to = to.and_then(|to| url.join(to.to_str().ok()?).ok());
                let to = to.ok_or_else(|| later(&"it redirects to nowhere"))?;
                return match (url.scheme(), to.scheme()) {
                    ("https" | "http", "https") | ("http", "http") => Ok(Some(to)),
                    _ => Err(later(&format_args!(
                        "it redirects to {}: never from https to anything else",
                        shown(&to)
                    ))),
                };
            }
            status => return Err(later(&status)),
        };
        let mut body = response.into_body();
        let (mut since, mut came) = (Instant::now(), 0);
        loop {
            let frame = timeout(SILENCE.min(self.pace.window), body.frame()).await;
            let Some(frame) = frame.map_err(|_| later(&"silence"))? else {
                return Ok(None);
            };
            let Ok(data) = frame.map_err(|e| later(&e))?.into_data() else {
                continue;
            };
            came += data.len() as u64;
            if since.elapsed() >= self.pace.window {
                if came < self.pace.least {
                    let (least, window) = (self.pace.least, self.pace.window);
                    return Err(later(&format_args!(
                        "less than {least} bytes in {window:?}"
                    )));
                }
                (since, came) = (Instant::now(), 0);
            }
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
