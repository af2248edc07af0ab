//! Web servers of all kinds, on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

use super::*;

const BYTES: &[u8] = b"a model, say";

/// A certificate of an authority of its own for 127.0.0.1; the authority's is in a file.
struct Authority {
    folder: TempDir,
    server: Arc<ServerConfig>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], secret)
            .unwrap();
        Authority {
            folder,
            server: Arc::new(server),
        }
    }

    fn web(&self) -> Web {
        Web {
            from: None,
            pace: PACE,
            tls: Arc::new(
                security::trusting("ca", Some(&self.folder.path().join("ca.pem"))).unwrap(),
            ),
        }
    }
}

/// Reads a request's head; its first line.
fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A server that answers every request as `answer` says, which gets its head.
fn serve(answer: impl Fn(&str, &mut dyn Write) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let asked = head(&mut stream);
            answer(&asked, &mut stream);
        }
    });
    base
}

/// The same, encrypted.
fn serve_encrypted(
    config: Arc<ServerConfig>,
    answer: impl Fn(&str, &mut dyn Write) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let asked = head(&mut stream);
            answer(&asked, &mut stream);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    base
}

fn whole(out: &mut dyn Write) {
    let length = BYTES.len();
    let _ = write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let _ = out.write_all(BYTES);
}

fn redirect(out: &mut dyn Write, to: &str) {
    let _ = write!(
        out,
        "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
    );
}

fn get(web: &Web, base: &str, from: u64) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let fetched = web.fetch(base, "model.gguf", from, &mut |piece| {
        bytes.extend(piece);
        Ok(())
    });
    match fetched {
        Ok(()) => Ok(bytes),
        Err(FetchError::Later(reason)) => Err(format!("later: {reason}")),
        Err(FetchError::Wrong(reason)) => Err(format!("wrong: {reason}")),
    }
}

#[test]
fn encrypted_from_those_whom_the_authority_knows() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let base = serve_encrypted(Arc::clone(&ours.server), |_, out| whole(out));
    assert_eq!(get(&ours.web(), &base, 0).unwrap(), BYTES);
    let refused = get(&theirs.web(), &base, 0).unwrap_err();
    assert!(refused.contains("no encrypted connection"), "{refused}");
}

#[test]
fn what_is_there_is_skipped_if_the_server_knows_no_ranges() {
    let base = serve(|asked, out| {
        assert!(asked.contains("bytes=8-"), "{asked}");
        whole(out);
    });
    assert_eq!(get(&Authority::new().web(), &base, 8).unwrap(), &BYTES[8..]);
}

#[test]
fn redirections_are_followed_but_not_for_ever_nor_out_of_encryption() {
    let authority = Authority::new();
    let web = authority.web();
    let end = serve(|_, out| whole(out));
    let plain = format!("{end}/elsewhere.gguf");
    let to = plain.clone();
    let once = serve(move |_, out| redirect(out, &to));
    assert_eq!(get(&web, &once, 0).unwrap(), BYTES);

    // As many as are allowed, and one more.
    let count = |n: usize| {
        let to = plain.clone();
        serve(move |asked, out| {
            let at = asked.split(' ').nth(1).unwrap();
            let done: usize = at.strip_prefix("/r").map_or(0, |n| n.parse().unwrap());
            match done + 1 < n {
                true => redirect(out, &format!("/r{}", done + 1)),
                false => redirect(out, &to),
            }
        })
    };
    assert_eq!(get(&web, &count(5), 0).unwrap(), BYTES);
    let refused = get(&web, &count(6), 0).unwrap_err();
    assert!(refused.contains("more than 5"), "{refused}");

    let down = serve_encrypted(Arc::clone(&authority.server), move |_, out| {
        redirect(out, &plain)
    });
    let refused = get(&web, &down, 0).unwrap_err();
    assert!(refused.contains("never from https"), "{refused}");
    let file = serve(|_, out| redirect(out, "file:///etc/passwd"));
    assert!(get(&web, &file, 0).is_err());
}

#[test]
fn a_server_that_drips_is_left() {
    let base = serve(|_, out| {
        let _ = write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            if out.write_all(b"x").is_err() {
                return;
            }
        }
    });
    let web = Web {
        pace: Pace {
            window: Duration::from_millis(300),
            least: 100,
        },
        ..Authority::new().web()
    };
    let start = Instant::now();
    let refused = get(&web, &base, 0).unwrap_err();
    assert!(refused.contains("less than 100 bytes"), "{refused}");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn only_places_that_are_named_are_asked() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.gguf"), BYTES).unwrap();
    let inside = folder.path().to_str().unwrap().to_owned();
    let named = serve(|_, out| whole(out));
    let stranger = serve(|_, out| whole(out));
    let to = format!("{stranger}/model.gguf");
    let leads_away = serve(move |_, out| redirect(out, &to));
    let places = [
        format!("{named}/models"),
        leads_away.clone(),
        inside.clone(),
    ];
    let web = Web {
        from: Some(places.iter().map(|p| Place::read(p).unwrap()).collect()),
        ..Authority::new().web()
    };
    for base in [
        format!("{named}/models/"),
        format!("{named}/models/porch"),
        inside.clone(),
    ] {
        assert_eq!(get(&web, &base, 0).unwrap(), BYTES, "{base}");
    }
    for base in [
        named.clone(),
        format!("{named}/models-of-others"),
        format!("{named}/models/../other"),
        format!("{named}/models/%2e%2E/other"),
        format!("{named}/models/..%2fother"),
        stranger,
        leads_away,
        "/etc".to_owned(),
        format!("{inside}/../"),
    ] {
        let refused = get(&web, &base, 0).unwrap_err();
        assert!(
            refused.starts_with("wrong: ") && refused.contains("[update] from"),
            "{refused}"
        );
    }
    for no in [
        "models",
        "ftp://host/",
        "https://anna:secret@host/",
        "https://host/?a=b",
    ] {
        assert!(Place::read(no).is_err(), "{no}");
    }
}
