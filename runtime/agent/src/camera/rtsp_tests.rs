//! Cameras over RTSP against a server that plays one, byte by byte.
//!
//! It serves assets/bars.h264: eight colour bars of 40 pixels that move 4 pixels a frame, 320x240, 10 a
//! second, 5 s, a key picture every second, drawn for this test and encoded by x264 (`--profile high --tune
//! zerolatency --aud --threads 2 --keyint 10 --bframes 0 --crf 30`).

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;

use super::tests::{Playing, Server};

const CLIP: &[u8] = include_bytes!("../../assets/bars.h264");

/// The NAL units of the clip by picture.
fn pictures() -> Vec<Vec<&'static [u8]>> {
    let mut starts: Vec<usize> = (0..CLIP.len() - 3)
        .filter(|i| CLIP[*i..*i + 3] == [0, 0, 1])
        .map(|i| i + 3)
        .collect();
    starts.push(CLIP.len() + 3);
    let mut pictures: Vec<Vec<&[u8]>> = Vec::new();
    for pair in starts.windows(2) {
        let unit = &CLIP[pair[0]..pair[1] - 3];
        let unit = unit.strip_suffix(&[0]).unwrap_or(unit);
        match unit[0] & 31 {
            9 => pictures.push(Vec::new()),
            _ => pictures.last_mut().unwrap().push(unit),
        }
    }
    pictures
}

/// A picture as RTP packets (RFC 6184) in the connection (RFC 2326, 10.12).
fn packets(units: &[&[u8]], time: u32, sequence: &mut u16) -> Vec<u8> {
    let mut out = Vec::new();
    let mut packet = |parts: &[&[u8]], last: bool| {
        let payload = parts.concat();
        let length = (12 + payload.len()) as u16;
        out.extend_from_slice(&[b'$', 0]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[0x80, 96 | if last { 0x80 } else { 0 }]);
        out.extend_from_slice(&sequence.to_be_bytes());
        out.extend_from_slice(&time.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 7]);
        out.extend_from_slice(&payload);
        *sequence = sequence.wrapping_add(1);
    };
    for (i, unit) in units.iter().enumerate() {
        let last = i + 1 == units.len();
        if unit.len() <= 500 {
            packet(&[unit], last);
            continue;
        }
        // In fragments (FU-A).
        let pieces: Vec<&[u8]> = unit[1..].chunks(500).collect();
        for (j, piece) in pieces.iter().enumerate() {
            let (first, end) = (j == 0, j + 1 == pieces.len());
            let head = (u8::from(first) << 7) | (u8::from(end) << 6) | (unit[0] & 31);
            packet(&[&[(unit[0] & 0xe0) | 28, head], piece], last && end);
        }
    }
    out
}

fn sdp(encoding: &str) -> String {
    let encoded = |kind: u8| {
        let units = pictures().concat();
        let unit = units.iter().find(|u| u[0] & 31 == kind).unwrap();
        base64::engine::general_purpose::STANDARD.encode(unit)
    };
    let (sps, pps) = (encoded(7), encoded(8));
    format!(
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=bars\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 {encoding}/90000\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets={sps},{pps}\r\na=control:track1\r\n"
    )
}

/// Answers the requests up to PLAY; says whether this was one.
fn answer(head: &str, encoding: &str, stream: &mut TcpStream) -> bool {
    let sequence = head.lines().find_map(|l| l.strip_prefix("CSeq: ")).unwrap();
    let method = head.split(' ').next().unwrap();
    let (headers, body) = match method {
        "DESCRIBE" => ("Content-Type: application/sdp\r\n", sdp(encoding)),
        "SETUP" => (
            "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n",
            String::new(),
        ),
        _ => ("Session: 1\r\n", String::new()),
    };
    let answer = format!(
        "RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes());
    method == "PLAY"
}

/// Plays the clip once; false if the other end has gone.
fn clip(stream: &mut TcpStream, time: &mut u32, sequence: &mut u16, pause: Duration) -> bool {
    for units in pictures() {
        if stream.write_all(&packets(&units, *time, sequence)).is_err() {
            return false;
        }
        *time = time.wrapping_add(9000);
        std::thread::sleep(pause);
    }
    true
}

fn url(server: &Server, path: &str) -> String {
    server.url(path).replace("http:", "rtsp:")
}

#[test]
fn a_stream_is_decoded_thinned_and_taken_up_again_when_it_breaks() {
    let server = Server::start(|head, _, stream| {
        if answer(head, "H264", stream) {
            clip(stream, &mut 1000, &mut 7, Duration::from_millis(5));
            return false;
        }
        true
    });
    let source = url(&server, "/bars?channel=1");
    let mut camera = Playing::start(&format!("source = 'rtsp:{source}'\nfps = 100"));
    camera.next();
    let frame = camera.slot.newest().unwrap();
    assert_eq!((frame.picture.width, frame.picture.height), (320, 240));
    // The bars, wherever they have moved: eight colours in this order, each 40 pixels wide.
    let row = &frame.picture.rgb[120 * 320 * 3..][..320 * 3];
    let name = |x: usize| {
        let bit = |c: usize| row[(x % 320) * 3 + c] > 128;
        (bit(0), bit(1), bit(2))
    };
    let start = (0..320).find(|x| name(*x) != name(x + 319)).unwrap();
    let order: Vec<_> = (0..8).map(|i| name(start + i * 40 + 20)).collect();
    for colour in [
        (true, true, true),
        (true, true, false),
        (false, true, true),
        (false, true, false),
        (true, false, true),
        (true, false, false),
        (false, false, true),
        (false, false, false),
    ] {
        assert!(order.contains(&colour), "{order:?}");
    }
    // The end of a stream is followed by the next connection.
    let report = camera.trouble("rtsp://127.0.0.1");
    assert!(!report.reason.unwrap().contains("channel"));
    let seen = camera.seen;
    while camera.seen < seen + 5 {
        camera.next();
    }
    assert_eq!(camera.report.read(std::time::Instant::now()).errors, 0);
}

#[test]
fn lost_packets_cost_pictures_up_to_the_next_key_picture_and_nothing_else() {
    let server = Server::start(|head, _, stream| {
        if !answer(head, "H264", stream) {
            return true;
        }
        let (mut time, mut sequence) = (0, 0);
        // A packet is missing after every clip.
        while clip(stream, &mut time, &mut sequence, Duration::from_millis(2)) {
            sequence = sequence.wrapping_add(1);
        }
        false
    });
    let source = url(&server, "/");
    let mut camera = Playing::start(&format!("source = 'rtsp:{source}'\nfps = 100"));
    while camera.report.read(std::time::Instant::now()).dropped < 2 {
        camera.next();
    }
    camera.next();
    let report = camera.report.read(std::time::Instant::now());
    assert_eq!((report.errors, report.reconnects), (0, 0), "{report:?}");
}

#[test]
fn bad_cameras_are_said_in_words() {
    let other = Server::start(|head, _, stream| {
        answer(head, "VP8", stream);
        true
    });
    let camera = Playing::start(&format!("source = 'rtsp:{}'", url(&other, "/")));
    camera.trouble("has no video in H.264; it has: video vp8");

    let garbage = Server::start(|_, _, stream| {
        let _ = stream.write_all(&[0xff; 1000]);
        false
    });
    let source = url(&garbage, "/?pw=hidden");
    let camera = Playing::start(&format!("source = 'rtsp:{source}'"));
    let report = camera.trouble("rtsp://127.0.0.1");
    assert!(!report.reason.unwrap().contains("hidden"));

    let locked = Server::start(|head, _, stream| {
        let sequence = head.lines().find_map(|l| l.strip_prefix("CSeq: ")).unwrap();
        let answer = format!(
            "RTSP/1.0 401 Unauthorized\r\nCSeq: {sequence}\r\nWWW-Authenticate: Basic realm=\"a\"\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let source = url(&locked, "/").replace("rtsp://", "rtsp://user:geheim@");
    let camera = Playing::start(&format!("source = 'rtsp:{source}'"));
    let report = camera.trouble("401");
    assert!(!format!("{report:?}").contains("geheim"));

    // Damaged pictures: every third byte of the clip's slices is another one.
    let damaged = Server::start(|head, _, stream| {
        if !answer(head, "H264", stream) {
            return true;
        }
        let (mut time, mut sequence) = (0, 0);
        loop {
            for units in pictures() {
                let units: Vec<Vec<u8>> = units
                    .iter()
                    .map(|u| {
                        let slice = matches!(u[0] & 31, 1 | 5);
                        let spoil = |(i, b): (usize, &u8)| {
                            if slice && i > 8 && i % 3 == 0 {
                                b ^ 0x5a
                            } else {
                                *b
                            }
                        };
                        u.iter().enumerate().map(spoil).collect()
                    })
                    .collect();
                let units: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
                if stream
                    .write_all(&packets(&units, time, &mut sequence))
                    .is_err()
                {
                    return false;
                }
                time += 9000;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let camera = Playing::start(&format!(
        "source = 'rtsp:{}'\nfps = 100",
        url(&damaged, "/")
    ));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while camera.report.read(std::time::Instant::now()).errors == 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "the damage is noticed"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
