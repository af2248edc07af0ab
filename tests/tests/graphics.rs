//! The program on a graphics processor, of which there is only a stand-in: the driver's functions over the same kernels,
//! run on the CPU (kernels/cuda/shim/driver.cpp). It shows what Kinglet does with a driver, not what a driver does.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kinglet_tests::program::{finished, refused};
use kinglet_tests::{Mosquitto, Running, Viewer, device::device, kinglet, root};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with libcuda.so and libnvrtc.so, which is on no search path.
fn libraries() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let build = || {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libcuda.so");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let built = Command::new(compiler)
            .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-w", "-o"])
            .arg(&library)
            .arg(root().join("kernels/cuda/shim/driver.cpp"))
            .status()
            .expect("a C++ compiler: install g++");
        assert!(built.success(), "the stand-in does not build");
        std::os::unix::fs::symlink(&library, folder.path().join("libnvrtc.so")).unwrap();
        folder
    };
    FOLDER.get_or_init(build).path()
}

/// A machine with the stand-in, of which something may be wrong, and an empty cache.
struct Machine {
    folder: TempDir,
    wrong: String,
}

impl Machine {
    fn new(wrong: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wrong = wrong.to_owned();
        Machine { folder, wrong }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = kinglet(arguments);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .env("LD_LIBRARY_PATH", libraries())
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env("KINGLET_STAND_IN", &self.wrong)
            .env("KINGLET_STAND_IN_LOG", self.folder.path().join("log"))
            .env("KINGLET_DEVICE", "cuda")
            .env("KINGLET_LOG", "info");
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        finished(self.command(arguments).output().unwrap())
    }

    fn done(&self, arguments: &[&str]) -> (String, String) {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, 0, "{stderr}");
        (stdout, stderr)
    }

    fn refuses(&self, arguments: &[&str], words: &[&str]) {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!((code, &stdout[..]), (1, ""), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        for word in words {
            assert!(last.contains(word), "\"{word}\" is not in {stderr}");
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What was compiled and loaded, in order.
    fn told(&self) -> Vec<String> {
        let log = self.log();
        let told = log
            .lines()
            .filter(|line| !line.contains("launches") && !line.contains("bytes"));
        told.map(str::to_owned).collect()
    }

    /// Of the last run: launches by themselves, graphs made, graphs launched, reads.
    fn counts(&self) -> [u64; 4] {
        let log = self.log();
        let last = log.lines().rfind(|line| line.contains("launches"));
        let numbers = last
            .unwrap_or_default()
            .split(|c: char| !c.is_ascii_digit());
        let numbers: Vec<u64> = numbers.filter_map(|n| n.parse().ok()).collect();
        numbers[..4].try_into().unwrap()
    }

    fn kept(&self) -> PathBuf {
        let folder = self.folder.path().join("cache/kinglet/cuda");
        let files: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

fn scene() -> String {
    let scene = root().join("tools/eval/scenes/00004-0.png");
    scene.to_string_lossy().into_owned()
}

/// The answer of the cores.
fn plain_answer() -> String {
    let (code, stdout, stderr) = finished(kinglet(&["see", &scene()]).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    stdout
}

#[test]
fn it_answers_and_draws_as_the_cores_do() {
    let machine = Machine::new("");
    let (answer, _) = machine.done(&["see", &scene()]);
    assert_eq!(answer, plain_answer());
    let draw = |cores: bool| {
        let out = machine.folder.path().join(format!("{cores}.png"));
        let out = out.to_string_lossy().into_owned();
        let prompt = "a cat on a blue background";
        let device = if cores { "cpu" } else { "cuda" };
        let arguments = [
            "draw", prompt, "--seed", "3", "--steps", "2", "-o", &out, "--device", device,
        ];
        machine.done(&arguments);
        kinglet_agent::Picture::decode(&std::fs::read(&out).unwrap()).unwrap()
    };
    let (ours, theirs) = (draw(true), draw(false));
    assert_eq!((ours.width, ours.height), (theirs.width, theirs.height));
    let squares = ours.rgb.iter().zip(theirs.rgb.iter());
    let squares = squares.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    let psnr =
        10.0 * (255.0f64.powi(2) * ours.rgb.len() as f64 / squares.sum::<f64>().max(1.0)).log10();
    println!("cores and stand-in differ by {psnr:.1} dB");
    // Both round activations to 8 bits, and sum in another order.
    assert!(psnr > 30.0, "{psnr:.1} dB");
}

#[test]
fn kernels_are_compiled_once_and_what_is_damaged_again() {
    let machine = Machine::new("");
    machine.done(&["see", &scene()]);
    machine.done(&["see", &scene()]);
    assert_eq!(machine.told(), ["compiled", "loaded", "loaded"]);
    let kept = machine.kept();
    let mut bytes = std::fs::read(&kept).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&kept, &bytes).unwrap();
    machine.done(&["see", &scene()]);
    assert_eq!(machine.told()[3..], ["compiled", "loaded"]);
    std::fs::write(&kept, "").unwrap();
    machine.done(&["see", &scene()]);
    assert_eq!(machine.told()[5..], ["compiled", "loaded"]);
    // A cache that cannot be written is no reason to fail.
    std::fs::remove_dir_all(machine.folder.path().join("cache")).unwrap();
    std::fs::write(machine.folder.path().join("cache"), "a file").unwrap();
    machine.done(&["see", &scene()]);
    assert_eq!(machine.told()[7..], ["compiled", "loaded"]);
}

#[test]
fn what_cannot_be_used_is_said_in_a_line() {
    let scene = scene();
    let see = &["see", &scene[..]];
    Machine::new("old").refuses(
        see,
        &["CUDA 10.2", "11.4 or later is needed", "--device cpu"],
    );
    Machine::new("none").refuses(see, &["knows no processor"]);
    Machine::new("chip").refuses(see, &["sm_61", "sm_72 or later"]);
    Machine::new("compiler").refuses(see, &["NVRTC 12.6", "sm_87", "line 1: it is refused"]);
    Machine::new("memory=8").refuses(see, &["does not fit Stand-in", "GiB are needed"]);
    refused(
        &["see", &scene, "--device", "cuda"],
        &["libcuda.so is not found"],
    );
}

#[test]
fn memory_that_another_program_holds_is_named() {
    // The plan is told to believe that there is enough.
    let machine = Machine::new("memory=8");
    let scene = scene();
    let output = machine
        .command(&["see", &scene])
        .env("KINGLET_MEMORY", "8000")
        .output();
    let (code, _, stderr) = finished(output.unwrap());
    assert_eq!(code, 1, "{stderr}");
    for word in ["were asked for", "of 8 MiB are free", "would help"] {
        assert!(stderr.contains(word), "{stderr}");
    }
}

#[test]
fn without_a_processor_auto_takes_the_cores_and_says_why() {
    let machine = Machine::new("none");
    let (answer, log) = machine.done(&["see", &scene(), "--device", "auto"]);
    assert_eq!(answer, plain_answer());
    let works = Machine::new("");
    let (again, _) = works.done(&["see", &scene(), "--device", "auto"]);
    assert_eq!(again, answer);
    assert_eq!(works.told(), ["compiled", "loaded"], "{log}");
}

#[test]
fn the_doctor_says_what_the_driver_says() {
    let (text, _) = Machine::new("").done(&["doctor"]);
    assert!(
        text.contains("Stand-in (sm_87, 4096 MiB, driver for CUDA 12.6)"),
        "{text}"
    );
    let (json, _) = Machine::new("old").done(&["doctor", "--json"]);
    let said: Value = serde_json::from_str(&json).unwrap();
    let reason = said["cuda"]["reason"].as_str().unwrap();
    assert!(reason.contains("CUDA 10.2"), "{reason}");
    assert_eq!(said["cuda"]["processors"], json!([]));
}

#[test]
fn a_plan_counts_the_processors_memory() {
    let (json, _) = Machine::new("memory=1024").done(&["plan", "--json"]);
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["kernels"], "cuda");
    assert_eq!(plan["room"], 1024 << 20);
    assert_eq!(
        plan["mapped"]["always"], 0,
        "everything is copied there: {plan}"
    );
}

/// A small drawing of six steps: fewer tokens, and as many launches as any.
fn small(machine: &Machine, graphs: &str, device: &str) -> (Vec<u8>, String) {
    let out = machine.folder.path().join(format!("{graphs}-{device}.png"));
    let out = out.to_string_lossy().into_owned();
    let prompt = "a cat on a blue background";
    let arguments = [
        "draw", prompt, "--seed", "3", "--steps", "6", "--size", "32x32", "-o", &out, "--device",
        device,
    ];
    let mut command = machine.command(&arguments);
    let output = command.env("KINGLET_CUDA_GRAPHS", graphs).output();
    let (code, _, log) = finished(output.unwrap());
    assert_eq!(code, 0, "{log}");
    (std::fs::read(&out).unwrap(), log)
}

#[test]
fn a_step_of_a_drawing_is_one_graph_and_a_processor_lost_in_it_is_replaced_by_the_cores() {
    let machine = Machine::new("");
    let (plain, _) = small(&machine, "off", "cuda");
    let [all, none, never, _] = machine.counts();
    assert_eq!((none, never), (0, 0));
    let (picture, _) = small(&machine, "on", "cuda");
    let [alone, made, launched, _] = machine.counts();
    assert_eq!(picture, plain);
    // The first step has new addresses, the second one is remembered, the last one goes on into the decoder.
    assert_eq!((made, launched), (1, 3));
    let a_step = (all - alone) / launched;
    assert_eq!(alone + launched * a_step, all);
    assert!(a_step > 200, "{a_step} launches a step");
    // What comes before the first step takes less than a step and a half: this is in one of the graphs.
    let wrong = format!("lost={}", a_step * 39 / 10);
    let lost = Machine::new(&wrong);
    let (picture, log) = small(&lost, "on", "cuda");
    assert!(log.contains("is lost; the cores go on"), "{log}");
    assert!(log.contains("CUDA_ERROR_LAUNCH_FAILED"), "{log}");
    assert!(lost.counts()[2] > 0, "no graph was launched before");
    let (cores, _) = small(&machine, "on", "cpu");
    assert_eq!(picture, cores);
}

#[test]
fn an_agent_goes_on_when_its_processor_is_lost() {
    let broker = Mosquitto::start();
    let place = device(&format!("url = \"{}\"", broker.url()), "every:1s");
    let config = place.path().join("kinglet.toml");
    let machine = Machine::new("lost=2000");
    let viewer = Viewer::connect(broker.port, "viewer");
    let mut command = machine.command(&["run", "--config", &config.to_string_lossy()]);
    let log = place.path().join("log");
    let to = Stdio::from(std::fs::File::create(&log).unwrap());
    let agent = Running::start(command.stderr(to));
    let said = || std::fs::read_to_string(&log).unwrap();
    // Some of it before, some of it after the loss.
    for _ in 0..8 {
        let event = viewer.json("kinglet/porch/event");
        let answer = event["answer"].as_str().unwrap();
        assert!(
            answer.starts_with("a ") || answer.starts_with("an "),
            "{answer}"
        );
    }
    assert_eq!(agent.terminate(), Some(0));
    let log = said();
    assert_eq!(log.matches("is lost; the cores go on").count(), 1, "{log}");
}
