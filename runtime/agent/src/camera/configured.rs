//! What a user writes about a camera, read and refused.

use super::*;

fn read(lines: &str) -> Result<Camera> {
    let config: CameraConfig = toml::from_str(&format!("name = \"c\"\n{lines}")).unwrap();
    Camera::read(&config)
}

#[test]
fn sources_are_read_with_their_keys() {
    for (lines, rate) in [
        ("source = 'folder:a/b'", 1.0),
        ("source = 'folder:a/b?fps=4'", 4.0),
        ("source = 'folder:a/b'\nfps = 3", 3.0),
        ("source = 'snapshot:http://a/b?fps=9'", 1.0),
        (
            "source = 'mjpeg:http://u:p@a:81/b?x=1&y=2'\nfps = 12.5",
            12.5,
        ),
        ("source = 'mjpeg:https://[::1]/b'\nca = 'ca.pem'", 5.0),
        ("source = 'rtsp://u:p@a/b'", 5.0),
        ("source = 'rtsp:rtsp://u:p@a:8554/b'", 5.0),
        ("source = 'v4l2:/dev/video0'", 5.0),
        (
            "source = 'v4l2:/dev/video0'\nwidth = 640\nheight = 480",
            5.0,
        ),
    ] {
        assert_eq!(read(lines).map(|c| c.rate).unwrap(), rate, "{lines}");
    }
}

#[test]
fn bad_sources_are_refused_and_no_password_is_repeated() {
    for lines in [
        "source = ''",
        "source = 'folder:'",
        "source = 'tape:x'",
        "source = 'folder:a?fps=0'",
        "source = 'folder:a?fps=x'",
        "source = 'folder:a?x=1'",
        "source = 'folder:a?fps=1'\nfps = 2",
        "source = 'folder:a'\nfps = 0",
        "source = 'folder:a'\nfps = nan",
        "source = 'folder:a'\nwidth = 1",
        "source = 'folder:a'\nca = 'x'",
        "source = 'folder:a'\nmask = [[0, 0, 2, 1]]",
        "source = 'v4l2:'",
        "source = 'v4l2:/dev/video0'\nwidth = 640",
        "source = 'v4l2:/dev/video0'\nwidth = 0\nheight = 0",
        "source = 'v4l2:/dev/video0'\nwidth = 99999\nheight = 99999",
        "source = 'rtsp:http://user:secret@host/'",
        "source = 'htp://user:secret@host'",
        "source = 'mjpeg:ftp://user:secret@host/'",
        "source = 'mjpeg:http://user:secret@'",
        "source = 'mjpeg:http://user:secret@host:99999/'",
        "source = 'mjpeg:http://user:secret@host/'\nwidth = 1\nheight = 1",
        "source = 'mjpeg:http://user:secret@host/'\nca = 'x'",
        "source = 'snapshot:http://user:secret@host/?pwd=secret'\nfps = 1000",
    ] {
        let refused = read(lines).map(|_| ()).unwrap_err().to_string();
        assert!(refused.starts_with("camera"), "{lines}: {refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
}
