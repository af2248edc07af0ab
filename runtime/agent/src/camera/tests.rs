//! Cameras over HTTP against servers that play good and bad ones, byte by byte.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::report::{CameraState, Report};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answers every request with what the closure makes of the request's head and number; it
/// closes a connection for which the closure says false.
pub(super) struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub(super) fn start(
        answer: impl Fn(&str, usize, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            port: listener.local_addr().unwrap().port(),
            heads: Arc::default(),
            connections: Arc::default(),
        };
        let (heads, connections) = (server.heads.clone(), server.connections.clone());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                connections.fetch_add(1, Ordering::SeqCst);
                let (heads, answer) = (heads.clone(), answer.clone());
                std::thread::spawn(move || {
                    while let Some(head) = head(&mut stream) {
                        let number = {
                            let mut heads = heads.lock().unwrap();
                            heads.push(head.clone());
                            heads.len()
                        };
                        if !answer(&head, number, &mut stream) {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// A camera at work.
pub(super) struct Playing {
    pub(super) slot: Arc<Slot>,
    pub(super) report: Arc<Report>,
    pub(super) seen: u64,
    thread: Option<JoinHandle<()>>,
}

impl Playing {
    pub(super) fn start(lines: &str) -> Self {
        let config: CameraConfig = toml::from_str(&format!("name = 'c'\n{lines}")).unwrap();
        let camera = Camera::read(&config).unwrap();
        let slot = Arc::new(Slot::default());
        let report = Arc::new(Report::new(camera.rate(), Arc::default()));
        let thread = camera.start(Path::new(""), slot.clone(), report.clone());
        Playing {
            slot,
            report,
            seen: 0,
            thread: Some(thread.unwrap()),
        }
    }

    /// The next frame's first brightness.
    pub(super) fn next(&mut self) -> u8 {
        let frame = self.slot.newer_than(self.seen, PATIENCE);
        let frame = frame.unwrap_or_else(|| panic!("{:?}", self.report.read(Instant::now())));
        self.seen = frame.number;
        frame.picture.rgb[0]
    }

    /// Waits until the camera's trouble says this.
    pub(super) fn trouble(&self, expected: &str) -> CameraReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.report.read(Instant::now());
            if report.reason.as_ref().is_some_and(|r| r.contains(expected)) {
                assert_eq!(report.state, CameraState::Failing);
                return report;
            }
            assert!(Instant::now() < deadline, "not {expected} but {report:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.slot.close();
        let since = Instant::now();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
            assert!(since.elapsed() < Duration::from_secs(5), "it ends soon");
        }
    }
}

/// A picture of this brightness.
fn jpeg(brightness: u8) -> Vec<u8> {
    let picture = Picture {
        width: 16,
        height: 8,
        rgb: vec![brightness; 16 * 8 * 3].into(),
    };
    picture.to_jpeg().unwrap()
}

fn send(stream: &mut TcpStream, head: &str, body: &[u8]) -> bool {
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).is_ok()
}

fn part(brightness: u8) -> Vec<u8> {
    let head = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n".to_vec();
    [head, jpeg(brightness), b"\r\n".to_vec()].concat()
}

const STREAM: &[u8] =
    b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=frame\r\n\r\n";

#[test]
fn snapshots_come_at_the_rate_asked_for_over_one_connection() {
    let server =
        Server::start(|_, number, stream| send(stream, "200 OK", &jpeg(number as u8 * 10)));
    let url = server.url("/shot.jpg?channel=1");
    let mut camera = Playing::start(&format!("source = 'snapshot:{url}'\nfps = 20"));
    let since = Instant::now();
    let first = camera.next();
    while camera.seen < 10 {
        camera.next();
    }
    assert!(since.elapsed() >= Duration::from_millis(400), "20 a second");
    assert_eq!(first / 10, 1);
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let head = server.heads.lock().unwrap()[0].clone();
    assert!(
        head.starts_with("GET /shot.jpg?channel=1 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(!head.to_lowercase().contains("authorization"));
}

#[test]
fn passwords_are_answered_as_the_camera_asks_and_shown_to_nobody() {
    // By the examples of RFC 7617: user Aladdin, password "open sesame".
    let basic = Server::start(|head, _, stream| {
        if head.contains("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==") {
            send(stream, "200 OK", &jpeg(200))
        } else {
            send(
                stream,
                "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"",
                b"no",
            )
        }
    });
    let source = basic
        .url("/a")
        .replace("http://", "http://Aladdin:open%20sesame@");
    let mut camera = Playing::start(&format!("source = 'snapshot:{source}'\nfps = 50"));
    assert_eq!(camera.next() / 10, 20);
    camera.next();
    let wrong = basic.url("/a").replace("http://", "http://Aladdin:geheim@");
    let camera = Playing::start(&format!("source = 'snapshot:{wrong}'"));
    let report = camera.trouble("refuses this user and password");
    assert!(!format!("{report:?}").contains("geheim"));
    let camera = Playing::start(&format!("source = 'mjpeg:{}'", basic.url("/a")));
    camera.trouble("wants a user and a password");

    let digest = Server::start(|head, _, stream| {
        if head.contains("Digest username=\"Aladdin\"") && head.contains("uri=\"/a?b=1\"") {
            send(stream, "200 OK", &jpeg(100))
        } else {
            let challenge = "WWW-Authenticate: Digest realm=\"a\", nonce=\"b\", qop=\"auth\"";
            send(stream, &format!("401 Unauthorized\r\n{challenge}"), b"no")
        }
    });
    let source = digest.url("/a?b=1").replace("http://", "http://Aladdin:x@");
    let mut camera = Playing::start(&format!("source = 'snapshot:{source}'\nfps = 50"));
    assert_eq!(camera.next() / 10, 10);
}

#[test]
fn a_redirection_is_followed_within_the_camera_only() {
    let server = Server::start(|head, _, stream| {
        let to = |place: &str| format!("302 Found\r\nLocation: {place}");
        match head.split(' ').nth(1).unwrap() {
            "/good" => send(stream, &to("other/../shot"), b""),
            "/shot" => send(stream, "200 OK", &jpeg(100)),
            "/loop" => send(stream, &to("/loop"), b""),
            "/out" => send(stream, &to("http://localhost/?x=secret"), b""),
            _ => send(stream, "404 Not Found", b"nothing"),
        }
    });
    let snapshot = |path: &str| {
        Playing::start(&format!(
            "source = 'snapshot:{}'\nfps = 50",
            server.url(path)
        ))
    };
    assert_eq!(snapshot("/good").next() / 10, 10);
    snapshot("/loop").trouble("more than 5 times");
    snapshot("/none").trouble("404 Not Found");
    let report = snapshot("/out").trouble("redirects to another place");
    assert!(!report.reason.unwrap().contains("secret"));
}

#[test]
fn a_stream_is_read_and_taken_up_again_when_it_breaks() {
    let server = Server::start(|_, number, stream| {
        let _ = stream.write_all(STREAM);
        for i in 0..3 {
            let _ = stream.write_all(&part(number as u8 * 50));
            // Damaged frames between the good ones.
            let _ = stream.write_all(b"--frame\r\n\r\nno picture\r\n");
            std::thread::sleep(Duration::from_millis(i * 20));
        }
        let _ = stream.write_all(b"--frame\r\n");
        false
    });
    let url = server.url("/");
    let mut camera = Playing::start(&format!(
        "source = 'mjpeg:{url}'\nfps = 100\nmask = [[0.9, 0, 0.1, 1]]"
    ));
    let first = camera.next();
    assert_eq!(first / 10, 5);
    while camera.next() == first {}
    let report = camera.report.read(Instant::now());
    assert!(report.reconnects >= 1 && report.errors >= 1, "{report:?}");
    let frame = camera.slot.newest().unwrap();
    let right: Vec<u8> = frame.picture.rgb.chunks_exact(3).map(|p| p[0]).collect();
    assert_eq!((right[13] > 0, right[14], right[15]), (true, 0, 0));
}

#[test]
fn a_stream_is_thinned_before_it_is_decoded() {
    let server = Server::start(|_, _, stream| {
        let _ = stream.write_all(STREAM);
        // Ten times the rate that is asked for.
        while stream.write_all(&part(80)).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    });
    let url = server.url("/");
    let mut camera = Playing::start(&format!("source = 'mjpeg:{url}'\nfps = 10"));
    camera.next();
    let since = Instant::now();
    while camera.seen < 11 {
        camera.next();
    }
    assert!(since.elapsed() >= Duration::from_millis(900), "10 a second");
}

#[test]
fn bad_cameras_are_said_in_words() {
    type Answer = fn(&mut TcpStream);
    let cases: [(&str, &str, Answer); 8] = [
        ("mjpeg", "is no stream", |s| {
            send(s, "200 OK\r\nContent-Type: image/jpeg", &jpeg(1));
        }),
        ("mjpeg", "ended the stream", |s| {
            let _ = s.write_all(STREAM);
        }),
        ("mjpeg", "more than 16777216 bytes", |s| {
            let _ = s.write_all(STREAM);
            let _ = s.write_all(b"--frame\r\n\r\n");
            let zeros = vec![0; 1 << 20];
            while s.write_all(&zeros).is_ok() {}
        }),
        ("mjpeg", "no delimiter", |s| {
            let _ = s.write_all(STREAM);
            while s.write_all(b"once upon a time\n").is_ok() {}
        }),
        ("snapshot", "more than 16777216 bytes", |s| {
            let _ = s.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
            let zeros = vec![0; 1 << 20];
            while s.write_all(&zeros).is_ok() {}
        }),
        ("snapshot", "cannot be decoded", |s| {
            send(s, "200 OK", b"no picture");
        }),
        ("snapshot", "invalid HTTP", |s| {
            let _ = s.write_all(&[0xff; 100]);
        }),
        ("snapshot", "message head is too large", |s| {
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\n");
            while s
                .write_all(b"a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n")
                .is_ok()
            {}
        }),
    ];
    for (kind, expected, answer) in cases {
        let server = Server::start(move |_, _, stream| {
            answer(stream);
            false
        });
        let url = server.url("/");
        let camera = Playing::start(&format!("source = '{kind}:{url}'\nfps = 50"));
        camera.trouble(expected);
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let camera = Playing::start(&format!("source = 'snapshot:http://127.0.0.1:{port}/'"));
    camera.trouble("refused");
}

#[test]
fn a_silent_camera_is_left_after_its_time() {
    // One that takes connections and says nothing, one that stops in the middle of a frame.
    let silent = Server::start(|_, _, _| {
        std::thread::sleep(2 * http::SILENCE);
        false
    });
    let stopping = Server::start(|_, _, stream| {
        let _ = stream.write_all(STREAM);
        let _ = stream.write_all(&part(80)[..100]);
        std::thread::sleep(2 * http::SILENCE);
        false
    });
    let first = Playing::start(&format!("source = 'snapshot:{}'", silent.url("/")));
    let second = Playing::start(&format!("source = 'mjpeg:{}'", stopping.url("/")));
    first.trouble("no answer within");
    second.trouble("was silent for");
}
