//! `kinglet compress`, killed: the same command goes on where it was and makes the same bytes.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kinglet_tests::shape::Shape;
use kinglet_tests::shape_files::{Filling, write_directory};
use kinglet_tests::{Running, kinglet, program};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const RECIPE: &str = "[parts]\ndraw = false\n[precision]\ndefault = \"Q6_K\"\n";

/// A checkpoint that takes some time.
fn checkpoint(folder: &Path) -> PathBuf {
    let out = folder.join("checkpoint");
    let shape = Shape {
        hidden: 512,
        inner: 4096,
        heads: 4,
        kv_heads: 2,
        layers: 6,
        vocabulary: 8192,
        vision_layers: 1,
        ..Shape::RELEASE
    };
    write_directory(&out, &shape, Filling::Random).unwrap();
    out
}

struct Setting {
    folder: tempfile::TempDir,
    checkpoint: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint(folder.path());
        let setting = Setting { folder, checkpoint };
        std::fs::write(setting.path("recipe.toml"), RECIPE).unwrap();
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, out: &str, recipe: &str) -> Command {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut command = kinglet(&[
            "compress",
            &text(self.checkpoint.clone()),
            "-o",
            &text(self.path(out)),
            "--recipe",
            &text(self.path(recipe)),
        ]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end and returns what it said.
    fn run(&self, out: &str, recipe: &str) -> String {
        let (code, _, stderr) = program::finished(self.command(out, recipe).output().unwrap());
        assert_eq!(code, 0, "{stderr}");
        stderr
    }

    /// Tensors that are entered as done.
    fn done(&self, out: &str) -> usize {
        let journal = std::fs::read_to_string(self.path(&format!("{out}.partial.journal")));
        journal.map_or(0, |text| text.lines().count().saturating_sub(1))
    }

    /// Runs until that many tensors are done, and some time more.
    fn run_until(&self, out: &str, recipe: &str, tensors: usize, more: Duration) -> Running {
        let mut running = Running::start(&mut self.command(out, recipe));
        let deadline = Instant::now() + Duration::from_secs(300);
        while self.done(out) < tensors {
            let ended = running.0.try_wait().unwrap();
            assert_eq!(ended, None, "it ended before {tensors} tensors were done");
            assert!(Instant::now() < deadline, "it does not get on");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(more);
        running
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_makes_the_same_bytes() {
    let setting = Setting::new();
    let said = setting.run("straight.gguf", "recipe.toml");
    assert_eq!(said, "");
    let straight = std::fs::read(setting.path("straight.gguf")).unwrap();

    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (mut kills, mut kept) = (0, Vec::new());
    // Once before anything is entered, then further and further on.
    Running::start(&mut setting.command("x.gguf", "recipe.toml")).kill();
    for share in [0.1, 0.3, 0.5, 0.7] {
        let all = 6 * 12 + 40;
        let tensors = (f64::from(all) * share) as usize + rng.random_range(0..10);
        if tensors <= setting.done("x.gguf") {
            continue;
        }
        let more = Duration::from_millis(rng.random_range(0..40));
        setting
            .run_until("x.gguf", "recipe.toml", tensors, more)
            .kill();
        if setting.path("x.gguf").exists() {
            break;
        }
        kills += 1;
        kept.push(setting.done("x.gguf"));
    }
    println!("killed {kills} times, with {kept:?} tensors done");
    assert!(kills >= 2);
    let said = setting.run("x.gguf", "recipe.toml");
    assert!(said.contains("going on with"), "{said}");
    let last = kept.last().unwrap();
    assert!(said.contains(&format!(": {last} of ")), "{said}, {last}");
    assert!(straight == std::fs::read(setting.path("x.gguf")).unwrap());
    let left = std::fs::read_dir(setting.folder.path()).unwrap().count();
    assert_eq!(left, 4, "something was left behind");
}

#[test]
fn ctrl_c_says_how_to_go_on_and_another_recipe_does_not_go_on() {
    let setting = Setting::new();
    let mut running = setting.run_until("x.gguf", "recipe.toml", 30, Duration::ZERO);
    let pid = running.0.id().to_string();
    let asked = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(asked.success());
    let mut said = String::new();
    let mut stderr = running.0.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("the same command goes on"), "{said}");
    assert!(said.contains("x.gguf.partial"), "{said}");
    assert!(!setting.path("x.gguf").exists());

    let other = RECIPE.replace("Q6_K", "Q4_0");
    std::fs::write(setting.path("other.toml"), other).unwrap();
    let said = setting.run("x.gguf", "other.toml");
    assert!(said.contains("starting from the beginning"), "{said}");
    assert_eq!(setting.run("straight.gguf", "other.toml"), "");
    let read = |name: &str| std::fs::read(setting.path(name)).unwrap();
    assert!(read("x.gguf") == read("straight.gguf"));
}

#[test]
fn what_understands_only_sees_and_refuses_to_draw() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("r.toml"), "[parts]\ndraw = false\n").unwrap();
    let tiny = kinglet_tests::root().join("runtime/assets/kinglet-tiny.gguf");
    let (tiny, model) = (tiny.to_string_lossy().into_owned(), path("see.gguf"));
    let compress = ["compress", &tiny, "-o", &model, "--recipe", &path("r.toml")];
    let (code, _, stderr) = program::run(&compress);
    assert_eq!(code, 0, "{stderr}");
    let size = |name: &str| std::fs::metadata(name).unwrap().len();
    assert!(size(&model) < size(&tiny) * 6 / 10);
    let (code, stdout, stderr) = program::run(&["inspect", &model]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("understands only"), "{stdout}");
    let scene = kinglet_tests::scene();
    let scene = scene.to_string_lossy().into_owned();
    let out = path("out.png");
    let directory = path("directory");
    let (code, _, stderr) = program::run(&["export", &model, "-o", &directory]);
    assert_eq!(code, 0, "{stderr}");
    for model in [&model, &directory] {
        let (code, stdout, stderr) = program::run(&["see", &scene, "--model", model]);
        assert_eq!((code, stdout.trim()), (0, kinglet_tests::SHOWN), "{stderr}");
        for command in [
            &["draw", "a cat", "-o", &out, "--model", model][..],
            &["edit", &scene, "turn it", "-o", &out, "--model", model],
        ] {
            let (code, _, stderr) = program::run(command);
            assert_eq!(code, 1, "{command:?}");
            assert!(stderr.contains("cannot draw"), "{stderr}");
            assert!(!Path::new(&out).exists());
        }
    }
}
