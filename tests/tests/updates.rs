//! New models for running devices: signed, tried, kept or given back, whenever the device is killed.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kinglet_tests::{Mosquitto, Running, Viewer, device, kinglet, root};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rumqttc::v5::mqttbytes::v5::Publish;
use serde_json::Value;
use tempfile::TempDir;

/// Kills in the check; KINGLET_KILLS says another number.
const KILLS: u32 = 20;

/// A device that takes models signed by one key, and what signs them.
struct World {
    broker: Mosquitto,
    device: TempDir,
    models: TempDir,
    viewer: Viewer,
}

impl World {
    fn new() -> Self {
        let broker = Mosquitto::start();
        let device = device(&format!("url = \"{}\"", broker.url()), "every:1h");
        let models = tempfile::tempdir().unwrap();
        let (code, public, _) = fleet(&["key", "-o", &text(&models.path().join("key.pem"))]);
        assert_eq!(code, 0);
        let file = device.path().join("kinglet.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        // The tests' machines need not know the time from anybody.
        let config = config.replace("[broker]", "clock = \"system\"\n[broker]");
        let update = format!("[update]\nkeys = [\"{}\"]\n", public.trim());
        std::fs::write(&file, format!("{config}\n{update}")).unwrap();
        let viewer = Viewer::connect(broker.port, "viewer");
        World {
            broker,
            device,
            models,
            viewer,
        }
    }

    fn start(&self) -> Running {
        let config = self.device.path().join("kinglet.toml");
        let mut command = kinglet(&["run", "--config", &text(&config)]);
        let mut log = std::fs::File::options();
        let log = log.append(true).create(true);
        let log = log.open(self.device.path().join("log")).unwrap();
        command.env("KINGLET_LOG", "error,kinglet_agent::update=info");
        Running::start(command.stderr(log))
    }

    /// Starts so far that found a model on trial.
    fn trials(&self) -> usize {
        let log = std::fs::read_to_string(self.device.path().join("log")).unwrap();
        log.matches("a model on trial").count()
    }

    /// Another container of the bundled model, and its signed manifest, which expects this answer about a
    /// scene.
    fn model(&self, version: u32, expect: &str) -> PathBuf {
        let file = self.models.path().join(format!("model-{version}.gguf"));
        if !file.exists() {
            let recipe = self.models.path().join("recipe.toml");
            let default = ["Q8_0", "Q4_0", "Q5_0"][version as usize % 3];
            std::fs::write(&recipe, format!("[precision]\ndefault = \"{default}\"\n")).unwrap();
            let bundled = root().join("runtime/assets/kinglet-tiny.gguf");
            let (code, _, said) = kinglet_tests::program::run(&[
                "compress",
                &text(&bundled),
                "-o",
                &text(&file),
                "--recipe",
                &text(&recipe),
            ]);
            assert_eq!(code, 0, "{said}");
        }
        let manifest = self
            .models
            .path()
            .join(format!("manifest-{version}-{expect}.json"));
        let (scene, answer) = scene();
        let expect = if expect == "right" {
            answer
        } else {
            expect.to_owned()
        };
        let (code, _, said) = fleet(&[
            "sign",
            &text(&file),
            "--version",
            &version.to_string(),
            "--sign-with",
            &text(&self.models.path().join("key.pem")),
            "--picture",
            &text(&scene),
            "--expect",
            &expect,
            "-o",
            &text(&manifest),
        ]);
        assert_eq!(code, 0, "{said}");
        manifest
    }

    fn job(&self, id: &str, manifest: &Path, base: &str) {
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        let job = serde_json::json!({ "id": id, "manifest": manifest, "base": base });
        self.viewer.keep("kinglet/porch/job", job.to_string());
    }

    /// What became of a job.
    fn end(&self, id: &str) -> (String, String) {
        loop {
            let progress = self.viewer.json(&format!("kinglet/porch/job/{id}"));
            let state = progress["state"].as_str().unwrap();
            if ["confirmed", "rolled-back", "refused"].contains(&state) {
                let reason = progress["reason"].as_str().unwrap_or_default();
                return (state.to_owned(), reason.to_owned());
            }
        }
    }

    /// The hash of the model that the next status names.
    fn model_of_status(&self) -> String {
        loop {
            let status = self.viewer.json("kinglet/porch/status");
            if status["state"] == "online" {
                return status["model"]["sha256"].as_str().unwrap().to_owned();
            }
        }
    }

    /// Waits until the broker has said that the device is gone: what is said behind that is not of its life before.
    fn gone(&self) {
        while self.viewer.json("kinglet/porch/status")["state"] != "offline" {}
    }

    /// Waits until the device's status names the model with this hash, asked by another client.
    fn comes_to(&self, model: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let viewer = Viewer::connect(self.broker.port, "asks");
            let status = viewer.json("kinglet/porch/status");
            let now = status["model"]["sha256"].as_str().unwrap().to_owned();
            if now == model {
                return;
            }
            assert!(Instant::now() < deadline, "{now} runs, not {model}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn folder(&self) -> String {
        text(self.models.path())
    }
}

/// The first scene of the demo's clip and the answer that the bundled model gives.
fn scene() -> (PathBuf, String) {
    let clip = root().join("runtime/assets/clip");
    let truth: Value =
        serde_json::from_slice(&std::fs::read(clip.join("truth.json")).unwrap()).unwrap();
    let answer = truth["scenes"][0]["answer"].as_str().unwrap().to_owned();
    (clip.join("003.jpg"), answer)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn fleet(arguments: &[&str]) -> (i32, String, String) {
    let mut all = vec!["fleet"];
    all.extend(arguments);
    kinglet_tests::program::run(&all)
}

fn hash(manifest: &Path) -> String {
    let signed: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let manifest: Value = serde_json::from_str(signed["signed"].as_str().unwrap()).unwrap();
    manifest["files"][0]["sha256"].as_str().unwrap().to_owned()
}

/// A web server for one folder that knows ranges and, until it has done so `cuts` times, ends in the middle of
/// what is left.
fn serve(folder: PathBuf, mut cuts: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let cut = cuts > 0;
            cuts = cuts.saturating_sub(1);
            let _ = answer(stream.unwrap(), &folder, cut);
        }
    });
    port
}

fn answer(stream: TcpStream, folder: &Path, cut: bool) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let name = first
        .split(' ')
        .nth(1)
        .unwrap()
        .trim_start_matches('/')
        .to_owned();
    let mut from = 0;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
    }
    let mut stream = stream;
    let Ok(mut file) = std::fs::File::open(folder.join(name)) else {
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        );
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from))?;
    let left = length - from;
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {left}\r\nContent-Range: bytes {from}-{}/{length}\r\n\r\n",
        length - 1
    )?;
    let sent = if cut { left / 2 } else { left };
    std::io::copy(&mut file.take(sent), &mut stream)?;
    Ok(())
}

#[test]
fn a_good_model_stays_and_a_bad_one_is_given_back() {
    let world = World::new();
    let running = world.start();
    let own = world.model_of_status();

    // It answers something else than its manifest says.
    let bad = world.model(1, "wrong");
    world.job("bad", &bad, &world.folder());
    let (state, reason) = world.end("bad");
    assert_eq!(state, "rolled-back", "{reason}");
    assert!(reason.contains("smoke test: it answers"), "{reason}");
    assert_eq!(world.model_of_status(), own);

    let good = world.model(1, "right");
    world.job("good", &good, &world.folder());
    let (state, reason) = world.end("good");
    assert_eq!(state, "confirmed", "{reason}");
    assert_eq!(world.model_of_status(), hash(&good));

    // Its file was changed after it was signed.
    let next = world.model(2, "right");
    let file = world.models.path().join("model-2.gguf");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, [&bytes[..bytes.len() - 1], b"x"].concat()).unwrap();
    world.job("changed", &next, &world.folder());
    let (state, reason) = world.end("changed");
    assert_eq!(state, "refused");
    assert!(reason.contains("SHA-256"), "{reason}");
    std::fs::write(&file, &bytes).unwrap();

    // Somebody else has signed it.
    let other = world.models.path().join("other.pem");
    fleet(&["key", "-o", &text(&other)]);
    let stranger = world.models.path().join("stranger.json");
    let model = text(&file);
    let signed = fleet(&[
        "sign",
        &model,
        "--version",
        "9",
        "--sign-with",
        &text(&other),
        "-o",
        &text(&stranger),
    ]);
    assert_eq!(signed.0, 0, "{}", signed.2);
    world.job("stranger", &stranger, &world.folder());
    let (state, reason) = world.end("stranger");
    assert_eq!(
        (state.as_str(), reason.contains("0 of 1")),
        ("refused", true),
        "{reason}"
    );

    // The files come from a server that breaks off now and then.
    let port = serve(world.models.path().to_owned(), 2);
    world.job("web", &next, &format!("http://127.0.0.1:{port}"));
    let (state, reason) = world.end("web");
    assert_eq!(state, "confirmed", "{reason}");
    assert_eq!(world.model_of_status(), hash(&next));
    assert_eq!(running.terminate(), Some(0));

    // After a restart it is the same, and an old model is refused.
    let running = world.start();
    assert_eq!(world.model_of_status(), hash(&next));
    world.job("old", &good, &world.folder());
    let (state, reason) = world.end("old");
    assert_eq!(
        (state.as_str(), reason.contains("older")),
        ("refused", true),
        "{reason}"
    );
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn whenever_it_is_killed_the_old_or_the_new_model_runs() {
    let kills = std::env::var("KINGLET_KILLS").map_or(KILLS, |n| n.parse().unwrap());
    let world = World::new();
    let seed = 11;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let running = world.start();
    let mut old = world.model_of_status();
    let manifests = [1, 2, 3, 4, 5, 6, 7].map(|version| world.model(version, "right"));
    drop(running);
    let mut confirmed = 0;
    // Kills by what the device had said last of its job; and those after which a model was on trial.
    let (mut stages, mut on_trial) = (BTreeMap::<String, u32>::new(), 0);
    for (version, manifest) in manifests.iter().enumerate() {
        let new = hash(manifest);
        let id = format!("update-{version}");
        let mut running = world.start();
        assert_eq!(world.model_of_status(), old);
        world.job(&id, manifest, &world.folder());
        for kill in 0..kills.div_ceil(manifests.len() as u32) {
            // The first hits what comes before a switch, the second waits for the switch.
            let (aimed, pause) = match kill % 3 {
                0 => (false, random.random_range(0..60)),
                1 => (true, random.random_range(0..20)),
                _ => (false, random.random_range(0..400)),
            };
            let topic = format!("kinglet/porch/job/{id}");
            let stage = RefCell::new("nothing yet".to_owned());
            let heard = |publish: &Publish| {
                if publish.topic == topic {
                    let said: Value = serde_json::from_slice(&publish.payload).unwrap();
                    let said = said["state"].as_str().unwrap();
                    let end = ["confirmed", "rolled-back", "refused"].contains(&said);
                    *stage.borrow_mut() = said.to_owned();
                    return aimed && (said == "switching" || end);
                }
                false
            };
            let time = if aimed { 2000 } else { pause };
            world.viewer.nothing_for(Duration::from_millis(time), heard);
            if aimed {
                std::thread::sleep(Duration::from_millis(pause));
            }
            running.kill();
            *stages.entry(stage.into_inner()).or_default() += 1;
            let before = world.trials();
            running = world.start();
            let now = world.model_of_status();
            on_trial += world.trials() - before;
            assert!(
                now == old || now == new,
                "seed {seed}: neither the old nor the new model runs"
            );
        }
        // Left alone, it ends with the new one, or with the old one after too many kills during its trial.
        running.kill();
        running = world.start();
        let (state, reason) = world.end(&id);
        if state == "rolled-back" {
            assert!(reason.contains("started"), "{reason}");
            world.job(&format!("{id}-again"), manifest, &world.folder());
            assert_eq!(world.end(&format!("{id}-again")).0, "confirmed");
        } else {
            assert_eq!(state, "confirmed", "{reason}");
        }
        confirmed += 1;
        running.kill();
        world.gone();
        let running = world.start();
        assert_eq!(world.model_of_status(), new);
        assert_eq!(running.terminate(), Some(0));
        old = new;
    }
    println!(
        "updates: {confirmed} models installed; kills by what was said last: {stages:?}; {on_trial} starts found a model on trial; the old or the new model ran after each"
    );
    assert!(on_trial > 0, "no kill hit a switch: {stages:?}");
}

#[test]
fn a_rollout_begins_with_a_few_and_stops_when_they_fail() {
    let world = World::new();
    let running = world.start();
    world.model_of_status();
    let (url, base) = (world.broker.url(), world.folder());
    let rollout = |manifest: &Path| {
        let arguments = [
            "--broker",
            &url,
            "rollout",
            &text(manifest),
            "--base",
            &base,
            "--within",
            "60s",
        ];
        let start = Instant::now();
        let done = fleet(&arguments);
        assert!(start.elapsed() < Duration::from_secs(60));
        done
    };
    let (code, _, said) = rollout(&world.model(1, "wrong"));
    assert_eq!(code, 1);
    assert!(
        said.contains("1 failed") && said.contains("rolled-back"),
        "{said}"
    );
    let good = world.model(1, "right");
    let (code, out, said) = rollout(&good);
    assert_eq!(code, 0, "{said}");
    assert!(out.contains("1 of 1 devices run it"), "{out}");
    // Given again it finds that everything is done.
    let (code, out, _) = rollout(&good);
    assert_eq!(
        (code, out.contains("1 of 1 devices run it")),
        (0, true),
        "{out}"
    );
    let stopped = Command::new(kinglet_tests::program())
        .args(["fleet", "--broker", &url, "rollout", &text(&good), "--stop"])
        .output()
        .unwrap();
    assert!(stopped.status.success());
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn a_rollback_goes_back_to_what_ran_before_and_the_bad_model_stays_away() {
    let world = World::new();
    let running = world.start();
    let own = world.model_of_status();
    let (url, base) = (world.broker.url(), world.folder());
    let key = text(&world.models.path().join("key.pem"));
    let (first, second) = (world.model(1, "right"), world.model(2, "right"));
    for manifest in [&first, &second] {
        let manifest = text(manifest);
        let rollout = ["--broker", &url, "rollout", &manifest, "--base", &base];
        let (code, _, said) = fleet(&[&rollout[..], &["--within", "60s"]].concat());
        assert_eq!(code, 0, "{said}");
    }
    world.comes_to(&hash(&second));

    // Somebody else's key moves nothing.
    let other = text(&world.models.path().join("stranger.pem"));
    fleet(&["key", "-o", &other]);
    let rollback = |leaves: &Path, to: Option<&Path>, key: &str| {
        let mut arguments: Vec<String> = ["--broker", &url, "rollback"].map(str::to_owned).into();
        arguments.extend([text(leaves), "--sign-with".to_owned(), key.to_owned()]);
        arguments.extend(["--within".to_owned(), "60s".to_owned()]);
        if let Some(to) = to {
            arguments.extend(["--to".to_owned(), text(to)]);
        }
        fleet(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (code, _, said) = rollback(&second, Some(&first), &other);
    assert_eq!(
        (code, said.contains("0 of 1 signatures")),
        (1, true),
        "{said}"
    );
    world.comes_to(&hash(&second));

    let (code, out, said) = rollback(&second, Some(&first), &key);
    assert_eq!(code, 0, "{said}");
    assert!(out.contains("version 1: 1 of 1 devices run it"), "{out}");
    world.comes_to(&hash(&first));
    // The order given again finds that all is done; the bad model's job does not bring it back.
    let (code, out, said) = rollback(&second, Some(&first), &key);
    assert_eq!(
        (code, out.contains("1 of 1 devices run it")),
        (0, true),
        "{out}{said}"
    );
    world.job("late", &second, &base);
    let (state, reason) = world.end("late");
    assert_eq!(
        (state.as_str(), reason.contains("was left")),
        ("refused", true),
        "{reason}"
    );
    assert_eq!(running.terminate(), Some(0));

    // There is nothing before the first one but the configuration's own.
    let running = world.start();
    assert_eq!(world.model_of_status(), hash(&first));
    let (code, out, said) = rollback(&first, None, &key);
    assert_eq!(
        (code, out.contains("1 of 1 devices run it")),
        (0, true),
        "{out}{said}"
    );
    world.comes_to(&own);
    assert_eq!(running.terminate(), Some(0));
}
