//! A fleet: docs/fleet.md as it stands there, and what a broker with its access list lets through.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use kinglet_tests::{Running, broker, kinglet, program, root};
use tempfile::TempDir;

/// The page's commands, on a free port, in a fresh folder.
struct Page {
    folder: TempDir,
    blocks: Vec<String>,
}

impl Page {
    fn read() -> Self {
        let text = std::fs::read_to_string(root().join("docs/fleet.md")).unwrap();
        let port = broker::free_port().to_string();
        let blocks = text.split("```sh\n").skip(1);
        let block = |rest: &str| rest.split("```").next().unwrap().replace("8883", &port);
        let mut blocks: Vec<String> = blocks.map(block).collect();
        let build = blocks.remove(0);
        assert!(build.starts_with("cargo build --release\n"), "{build}");
        Page {
            folder: tempfile::tempdir().unwrap(),
            blocks,
        }
    }

    /// The folder that the page makes.
    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join("fleet").join(file)
    }

    /// Runs these blocks with the program under test.
    fn run(&self, blocks: &[String]) -> Output {
        let program = program().canonicalize().unwrap();
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", program.parent().unwrap().display());
        let clip = root().join("runtime/assets/clip").canonicalize().unwrap();
        // Nothing is left behind, however it ends; nothing runs for ever.
        let script = format!(
            "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{}",
            blocks.concat()
        );
        Command::new("timeout")
            .args(["--signal=INT", "120", "bash", "-e", "-c", &script])
            .current_dir(self.folder.path())
            .env("PATH", path)
            .env("CLIP", clip)
            .env_remove("KINGLET_MODEL")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

/// The blocks of the page that enrol, and those that only a fleet that runs needs.
const ENROLLED: usize = 2;

fn log(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

#[test]
fn the_page_about_fleets_does_what_it_says() {
    let page = Page::read();
    let output = page.run(&page.blocks);
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let logs = || {
        let files = ["mosquitto.log", "porch/log", "roof/log"];
        files.map(|file| log(&page.path(file))).join("\n")
    };
    assert!(output.status.success(), "{said}{errors}{}", logs());
    let lines = |wanted: &str| said.lines().filter(|l| l.contains(wanted)).count();
    assert_eq!(lines("  event "), 4, "{said}");
    for device in ["porch", "roof"] {
        let answers = 1 + usize::from(device == "porch");
        assert_eq!(
            lines(&format!("{device}: a")),
            answers,
            "the questions: {said}"
        );
        let listed = said.lines().filter(|l| {
            l.starts_with(device) && l.contains("online  doors   door     kinglet-tiny")
        });
        assert_eq!(listed.count(), 1, "{said}");
        for (file, mode) in [("key.pem", 0o600), ("request.pem", 0o644)] {
            let file = page.path(device).join(file);
            let is = std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
            assert_eq!(is, mode, "{device}");
        }
    }
    // The porch has joined another group meanwhile, and answers alone there.
    assert_eq!(lines("{\"version\":1}"), 1, "{said}");
    assert_eq!(lines("refused"), 1, "{said}");
    assert!(
        errors.contains("porch:") && errors.contains("signed"),
        "{errors}"
    );
    // The bad model was given back by the first device and never reached the other.
    assert!(errors.contains("porch: rolled-back smoke test"), "{errors}");
    assert!(!errors.contains("roof: rolled-back"), "{errors}");
    assert_eq!(lines("the roof was spared"), 1, "{said}");
    assert_eq!(lines("version 1: 2 of 2 devices run it"), 1, "{said}");
    let back = "the models of their configurations: 2 of 2 devices run it";
    assert_eq!(lines(back), 1, "{said}");
    assert_eq!(
        &std::fs::read(page.path("porch.jpg")).unwrap()[..2],
        b"\xff\xd8"
    );
    assert_eq!(
        &std::fs::read(page.path("circle.png")).unwrap()[..4],
        b"\x89PNG"
    );
}

/// A fleet that is enrolled as on the page; its broker runs.
struct Fleet {
    page: Page,
    url: String,
    _broker: Running,
}

impl Fleet {
    fn start() -> Self {
        let page = Page::read();
        let mut blocks = page.blocks[..ENROLLED].to_vec();
        let conf = &page.blocks[ENROLLED];
        let (conf, start) = conf.split_at(conf.find("PATH=").unwrap());
        assert!(start.contains("mosquitto -c mosquitto.conf"), "{start}");
        blocks.push(conf.to_owned());
        let output = page.run(&blocks);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let from = blocks[1].find("mqtts://").unwrap();
        let url = blocks[1][from..].split(' ').next().unwrap().to_owned();
        let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        let mut mosquitto = Command::new("mosquitto");
        mosquitto.args(["-c", "mosquitto.conf"]).env("PATH", path);
        let said = std::fs::File::create(page.path("mosquitto.log")).unwrap();
        mosquitto.current_dir(page.path("")).stderr(said);
        let running = Running::start(&mut mosquitto);
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Fleet {
            page,
            url,
            _broker: running,
        }
    }

    /// `kinglet fleet` as this user: exit code, standard output and standard error.
    fn by(&self, user: &str, arguments: &[&str]) -> (i32, String, String) {
        let paper = |file: &str| self.page.path(user).join(file).display().to_string();
        let mut command = kinglet(&["fleet"]);
        command.args(arguments).args(["--broker", &self.url]);
        command.args(["--ca", &paper("ca.pem")]);
        command.args([
            "--certificate",
            &paper("certificate.pem"),
            "--key",
            &paper("key.pem"),
        ]);
        kinglet_tests::program::finished(command.output().unwrap())
    }

    /// Changes a device's configuration.
    fn edit(&self, device: &str, from: &str, to: &str) {
        let file = self.page.path(device).join("kinglet.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(file, text.replace(from, to)).unwrap();
    }

    /// Runs a device, whose log is in its folder, until it says this.
    fn device(&self, name: &str, wanted: &str) -> Running {
        let folder = self.page.path(name);
        let file = std::fs::File::create(folder.join("log")).unwrap();
        let mut command = kinglet(&["run", "--config"]);
        command.arg(folder.join("kinglet.toml")).stderr(file);
        let state = folder.join("state");
        command
            .env("XDG_STATE_HOME", state)
            .env("KINGLET_LOG", "info");
        let running = Running::start(&mut command);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !log(&folder.join("log")).contains(wanted) {
            let text = log(&folder.join("log")) + &log(&self.page.path("mosquitto.log"));
            assert!(Instant::now() < deadline, "not \"{wanted}\" in: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }
}

#[test]
fn a_device_gets_no_further_than_its_own_topics() {
    let fleet = Fleet::start();
    let (code, _, errors) = fleet.by("anna", &["see", "porch"]);
    assert_eq!(code, 1);
    assert!(errors.contains("knows no device \"porch\""), "{errors}");

    // In another's name it says nothing that arrives: neither that it is there nor, killed, its will. (This
    // mosquitto may end its connection too.)
    fleet.edit("roof", "name = \"roof\"", "name = \"porch\"");
    let thief = fleet.device("roof", "connected to");
    let porch_is_unknown = || {
        let (code, listed, _) = fleet.by("anna", &["ls"]);
        assert_eq!(code, 0);
        assert!(!listed.contains("porch"), "{listed}");
    };
    // The status follows the connection at once; were it let through, it would stay.
    std::thread::sleep(Duration::from_secs(1));
    porch_is_unknown();
    thief.kill();
    porch_is_unknown();

    // In a group that it was not enrolled in it hears nothing, though it says that it belongs to it.
    fleet.edit(
        "porch",
        "groups = [\"doors\"]",
        "groups = [\"doors\", \"roofs\"]",
    );
    fleet.edit("porch", "[device]\n", "[device]\nclock = \"system\"\n");
    let porch = fleet.device("porch", "connected to");
    let key = fleet.page.path("anna/signing.pem").display().to_string();
    let ask = |group: &str| {
        fleet.by(
            "anna",
            &[
                "see",
                "--group",
                group,
                "--within",
                "3s",
                "--sign-with",
                &key,
            ],
        )
    };
    let (code, _, errors) = ask("roofs");
    assert_eq!(code, 1);
    assert_eq!(errors, "kinglet: no answer within 3.0 s from porch\n");
    // There is no camera in this configuration: an answer is an error, and that it comes is what counts.
    let (code, _, errors) = ask("doors");
    assert_eq!(code, 1);
    assert!(errors.contains("porch: camera"), "{errors}");

    // With a device's papers the fleet cannot be seen.
    let (code, listed, _) = fleet.by("roof", &["ls", "--json"]);
    assert_eq!((code, listed.trim()), (0, "{\"devices\":[]}"));
    let (code, listed, _) = fleet.by("anna", &["ls", "--json"]);
    assert_eq!(code, 0);
    assert!(listed.contains("\"porch\""), "{listed}");

    // Who has left is offline, and is not waited for.
    assert_eq!(porch.terminate(), Some(0));
    let (code, _, errors) = fleet.by("anna", &["see", "porch"]);
    assert_eq!((code, &errors[..]), (1, "kinglet: porch is offline\n"));
}

/// docs/brokers.md says that rumqttd will do; the demo has one.
#[test]
fn the_fleet_of_another_broker_is_seen_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file).display().to_string();
    let said = std::fs::File::create(path("said")).unwrap();
    let mut demo = kinglet(&["demo", "-o", &path("demo.png")]);
    let demo = Running::start(demo.stdout(said).stderr(Stdio::null()));
    let deadline = Instant::now() + Duration::from_secs(60);
    let url = loop {
        let text = log(Path::new(&path("said")));
        // With an event the device has been there: statuses come first.
        if let (true, Some(at)) = (text.contains("event 1"), text.find("mqtt://")) {
            break text[at..].split(',').next().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "no event: {text}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let fleet = |arguments: &[&str]| {
        let arguments = [&["fleet", "--broker", &url][..], arguments].concat();
        let (code, said, errors) = kinglet_tests::program::run(&arguments);
        assert_eq!(code, 0, "{arguments:?}: {errors}");
        said
    };
    assert!(fleet(&["ls"]).contains("demo    online"));
    assert!(fleet(&["watch", "--events", "1"]).contains("demo  event"));
    fleet(&["snapshot", "demo", "-o", &path("frame.jpg")]);
    assert_eq!(&std::fs::read(path("frame.jpg")).unwrap()[..2], b"\xff\xd8");
    drop(demo);
}

#[test]
fn what_is_there_is_not_overwritten_and_what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file).display().to_string();
    let (plain, far) = ("mqtt://127.0.0.1", "mqtt://broker.example");
    let enrol = ["fleet", "enrol", "porch", "--broker", plain, "-o"];
    let enrol: Vec<&str> = enrol.into_iter().collect();
    let there = path("porch");
    let again = [&enrol[..], &[&there]].concat();
    assert_eq!(kinglet_tests::program::run(&again).0, 0);
    kinglet_tests::program::refused(&again, &["acl", "overwritten"]);
    let acl = |folder: &str| std::fs::read_to_string(path(&format!("{folder}/acl"))).unwrap();
    let other = path("home");
    let home = [&enrol[..], &[&other, "--homeassistant"]].concat();
    assert_eq!(kinglet_tests::program::run(&home).0, 0);
    let line = "topic write homeassistant/+/kinglet-porch/+/config\n";
    assert!(acl("home").contains(line) && !acl("porch").contains("homeassistant"));
    let key = path("key.pem");
    assert_eq!(
        kinglet_tests::program::run(&["fleet", "key", "-o", &key]).0,
        0
    );
    let before = std::fs::read(&key).unwrap();
    kinglet_tests::program::refused(&["fleet", "key", "-o", &key], &["key.pem", "overwritten"]);
    assert_eq!(std::fs::read(&key).unwrap(), before);

    let gone = format!("mqtt://127.0.0.1:{}", broker::free_port());
    for (arguments, words) in [
        (vec!["ls"], ["--broker", "KINGLET_BROKER"]),
        (
            vec!["ls", "--broker", far],
            ["unencrypted", "--allow-insecure"],
        ),
        (
            vec!["ls", "--broker", plain, "--ca", "x"],
            ["plain connection", "x"],
        ),
        (
            vec!["ls", "--broker", &gone],
            ["no connection", "127.0.0.1"],
        ),
        (
            vec!["enrol", "a", "-o", &there],
            ["--broker", "KINGLET_BROKER"],
        ),
    ] {
        let arguments = [&["fleet"][..], &arguments].concat();
        kinglet_tests::program::refused(&arguments, &words);
    }
    for wrong in [
        vec!["enrol", "Porch", "-o", &there],
        vec!["enrol", "fleet", "-o", &there],
        vec!["see", "a/b"],
        vec!["see", "porch", "--group", "doors"],
        vec!["see", "porch", "--watch", "who", "--ask", "?"],
        vec!["draw", "porch", "-o", "x.png"],
        vec!["set", "porch", "[]"],
    ] {
        let output = kinglet(&["fleet"]).args(&wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
