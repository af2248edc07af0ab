//! Encrypted connections, certificates, passwords and access lists, against a real mosquitto.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kinglet_tests::{Mosquitto, Running, Viewer, broker, kinglet};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use time::OffsetDateTime;

/// An authority, certificates by it, and a password file, in one folder.
struct Papers {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Papers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = authority(&folder.path().join("ca.pem"));
        let papers = Papers { folder, issuer };
        papers.issue("broker", "localhost", 30);
        papers.issue("porch", "porch", 30);
        papers
    }

    /// A certificate `FILE.pem` and its key `FILE.key` that is good for so many days.
    fn issue(&self, file: &str, name: &str, days: i64) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let now = OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(60);
        params.not_after = now + time::Duration::days(days);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_string_lossy().into_owned()
    }

    /// A broker with TLS and these further lines on one port, and a plain one for the viewer.
    fn broker(&self, certificate: &str, lines: &str) -> (Mosquitto, u16) {
        let (plain, safe) = (broker::free_port(), broker::free_port());
        let papers = self.path("");
        let text = format!(
            "allow_anonymous true\nlistener {safe} 127.0.0.1\n\
             cafile {papers}ca.pem\ncertfile {papers}{certificate}.pem\nkeyfile {papers}{certificate}.key\n\
             {lines}\n"
        );
        (
            Mosquitto::first(plain, "user root\nper_listener_settings true", &text),
            safe,
        )
    }
}

fn authority(file: &Path) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL finds an authority by its name.
    params
        .distinguished_name
        .push(DnType::CommonName, "authority");
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(file, certificate.pem()).unwrap();
    Issuer::new(params, key)
}

/// A device that publishes on this broker.
fn device(lines: &str) -> TempDir {
    kinglet_tests::device(lines, "motion")
}

fn start(folder: &Path) -> Command {
    let config = folder.join("kinglet.toml");
    let mut command = kinglet(&["run", "--config", &config.to_string_lossy()]);
    command.env("KINGLET_LOG", "info");
    command
}

/// What the agent logs until it says this, or nothing more for a while.
fn logs_until(folder: &Path, wanted: &str) -> String {
    let log = folder.join("log");
    let file = std::fs::File::create(&log).unwrap();
    let mut command = start(folder);
    let running = Running::start(command.stderr(Stdio::from(file)).stdout(Stdio::null()));
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains(wanted) || Instant::now() > deadline {
            running.kill();
            assert!(text.contains(wanted), "not \"{wanted}\" in: {text}");
            return text;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_encrypted_broker_with_passwords_and_certificates_gets_events() {
    let papers = Papers::new();
    let passwords = papers.path("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c", &passwords, "porch", "a secret"])
        .status();
    assert!(made.expect("mosquitto_passwd is installed").success());
    // The device's own topics and nothing else.
    std::fs::write(
        papers.path("acl"),
        "user porch\ntopic write kinglet/porch/#\ntopic read kinglet/porch/command/+\n",
    )
    .unwrap();
    let lines = format!(
        "allow_anonymous false\npassword_file {passwords}\nacl_file {}\nrequire_certificate true",
        papers.path("acl")
    );
    let (broker, safe) = papers.broker("broker", &lines.replace("allow_anonymous false\n", ""));
    let viewer = Viewer::connect(broker.port, "viewer");
    std::fs::write(papers.path("password"), "a secret\n").unwrap();
    let folder = device(&format!(
        "url = \"mqtts://localhost:{safe}\"\nca = \"{0}ca.pem\"\ncertificate = \"{0}porch.pem\"\n\
         key = \"{0}porch.key\"\nuser = \"porch\"\npassword_file = \"{0}password\"",
        papers.path("")
    ));
    let agent = Running::start(&mut start(folder.path()));
    let event = viewer.json("kinglet/porch/event");
    assert_eq!(event["seq"], 1);
    agent.kill();

    // The same without what the broker asks for.
    let base = format!(
        "url = \"mqtts://localhost:{safe}\"\nca = \"{}ca.pem\"\n",
        papers.path("")
    );
    let logs = logs_until(device(&base).path(), "trying again");
    assert!(!logs.contains("connected to"), "{logs}");
    std::fs::write(papers.path("wrong"), "another secret").unwrap();
    let wrong = format!(
        "{base}certificate = \"{0}porch.pem\"\nkey = \"{0}porch.key\"\nuser = \"porch\"\npassword_file = \"{0}wrong\"",
        papers.path("")
    );
    let logs = logs_until(device(&wrong).path(), "refuses this device");
    assert!(!logs.contains("secret"), "a password in a log: {logs}");
}

#[test]
fn a_broker_that_cannot_prove_who_it_is_gets_nothing() {
    let papers = Papers::new();
    papers.issue("expired", "localhost", -1);
    papers.issue("other", "broker.example", 30);
    let strangers = tempfile::tempdir().unwrap();
    let forged = strangers.path().join("ca.pem");
    drop(authority(&forged));
    let ca = papers.path("ca.pem");
    for (certificate, ca, reason) in [
        ("expired", &*ca, "xpired"),
        ("other", &*ca, "not valid for name"),
        ("broker", &*forged.to_string_lossy(), "BadSignature"),
    ] {
        let (broker, safe) = papers.broker(certificate, "");
        let viewer = Viewer::connect(broker.port, "viewer");
        let lines = format!("url = \"mqtts://localhost:{safe}\"\nca = \"{ca}\"");
        let logs = logs_until(device(&lines).path(), "trying again");
        assert!(logs.contains(reason), "{certificate}: {logs}");
        assert!(
            viewer.nothing_for(Duration::from_millis(300), |_| true),
            "{certificate}: something was sent"
        );
    }
    // A broker without encryption behind an encrypted URL.
    let plain = Mosquitto::start();
    let lines = format!("url = \"mqtts://localhost:{}\"\nca = \"{ca}\"", plain.port);
    logs_until(device(&lines).path(), "trying again");
}
