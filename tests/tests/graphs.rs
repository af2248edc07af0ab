//! Graphs of parts of the model, handed to something else: from the command line and in a running agent.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Stdio};

use kinglet_tests::program::{finished, put, refused, run};
use kinglet_tests::{Mosquitto, Running, Viewer, device::device, kinglet, root};
use serde_json::Value;
use tempfile::TempDir;

fn exported(folder: &TempDir, part: &str) -> String {
    let out = folder.path().join(format!("{part}.onnx"));
    let out = out.to_string_lossy().into_owned();
    let (code, _, stderr) = run(&[
        "compress",
        "--export-onnx",
        part,
        "-o",
        &out,
        "--size",
        "112x112",
    ]);
    assert_eq!(code, 0, "{stderr}");
    out
}

fn scene() -> String {
    root()
        .join("tools/eval/scenes/00004-0.png")
        .to_string_lossy()
        .into_owned()
}

/// Runs the program and returns its standard output and what it logs.
fn logged(arguments: &[&str]) -> (String, String) {
    let output = kinglet(arguments)
        .env("KINGLET_LOG", "info")
        .output()
        .unwrap();
    let (code, stdout, stderr) = finished(output);
    assert_eq!(code, 0, "{stderr}");
    (stdout, stderr)
}

#[test]
fn answers_and_drawings_are_those_of_the_model_itself() {
    let folder = tempfile::tempdir().unwrap();
    let vision = format!("vision={}", exported(&folder, "vision"));
    let decoder = format!("vae-decoder={}", exported(&folder, "vae-decoder"));
    let scene = scene();
    let (plain, log) = logged(&["see", &scene]);
    assert_eq!(log, "");
    let (elsewhere, log) = logged(&["see", &scene, "--graph", &vision]);
    assert_eq!(elsewhere, plain);
    assert!(
        log.contains("handed over") && log.contains("tract"),
        "{log}"
    );
    assert!(!log.contains("WARN"), "{log}");

    let picture = |name: &str, more: &[&str]| {
        let out = folder.path().join(name).to_string_lossy().into_owned();
        let mut arguments = vec![
            "draw",
            "a cat on a blue background",
            "--seed",
            "3",
            "--steps",
            "4",
            "-o",
            &out,
        ];
        arguments.extend_from_slice(more);
        let (_, log) = logged(&arguments);
        assert!(!log.contains("WARN"), "{log}");
        let bytes = std::fs::read(&out).unwrap();
        kinglet_agent::Picture::decode(&bytes).unwrap()
    };
    let (own, given) = (
        picture("own.png", &[]),
        picture("given.png", &["--graph", &decoder]),
    );
    let off = own
        .rgb
        .iter()
        .zip(given.rgb.iter())
        .map(|(a, b)| a.abs_diff(*b));
    // The program's kernels multiply in 8 bits where weights are quantized, the graph in f32.
    let off = off.max().unwrap();
    println!("the drawings differ by at most {off} of 255");
    assert!(off <= 8);

    // Another size is computed here, and that is said.
    let (_, log) = logged(&[
        "draw",
        "a cat",
        "--size",
        "128x128",
        "--steps",
        "2",
        "-o",
        &put(folder.path(), "o.png", b""),
        "--graph",
        &decoder,
    ]);
    assert!(
        log.contains("the cores compute those of other sizes"),
        "{log}"
    );
}

#[test]
fn what_is_no_graph_of_this_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vision = exported(&folder, "vision");
    let scene = scene();
    let see = |graph: &str, words: &[&str]| {
        let graph = format!("vision={graph}");
        refused(&["see", &scene, "--graph", &graph], words);
    };
    see("missing.onnx", &["missing.onnx", "No such file"]);
    see(
        &put(folder.path(), "graph.tflite", b""),
        &["graph.tflite", ".onnx or .rknn"],
    );
    let whole = std::fs::read(&vision).unwrap();
    for (name, bytes) in [
        ("empty", &whole[..0]),
        ("half", &whole[..whole.len() / 2]),
        ("text", &b"no graph"[..]),
    ] {
        see(&put(folder.path(), &format!("{name}.onnx"), bytes), &[name]);
    }
    see(
        &exported(&folder, "vae-decoder"),
        &["graph for vision", "[1, 16, 14, 14]"],
    );
    let (code, _, stderr) = run(&["see", &scene, "--graph", "eyes=graph.onnx"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("vision=FILE or vae-decoder=FILE"),
        "{stderr}"
    );
    // Damaged all over. (Another model's graph of the same shapes: runtime/model/tests/elsewhere.rs.)
    let mut other = whole.clone();
    let from = other.len() / 8;
    for byte in other[from..].iter_mut().step_by(97).take(20_000) {
        *byte ^= 0x11;
    }
    see(&put(folder.path(), "other.onnx", &other), &["other.onnx"]);
}

/// Before the stand-in for Rockchip's library, whose one graph is none of this model.
#[test]
fn an_rknn_file_goes_to_rockchips_library() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("librknnrt.so");
    let source = root().join("boards/tests/rknn_stand_in.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut cc = Command::new(compiler);
    let built = cc
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    assert!(built.expect("a C compiler").success());
    let see = |model: &[u8], library: &Path| {
        let graph = put(folder.path(), "graph.rknn", model);
        let arguments = ["see", &scene(), "--graph", &format!("vision={graph}")];
        let mut program = kinglet(&arguments);
        let output = program.env("KINGLET_RKNNRT", library).output().unwrap();
        let (code, stdout, stderr) = finished(output);
        assert_eq!(
            (code, stdout.as_str(), stderr.lines().count()),
            (1, "", 1),
            "{stderr}"
        );
        stderr
    };
    let said = see(b"RKNNo", &library);
    assert!(said.contains("pictures of 3 x 2"), "{said}");
    let said = see(b"RKNNv", &library);
    assert!(
        said.contains("1.5.2") && said.contains("2.x is supported"),
        "{said}"
    );
    let said = see(b"RKNNd", &library);
    assert!(
        said.contains("0.8.8") && said.contains("update the kernel"),
        "{said}"
    );
    let said = see(b"RKNNo", Path::new("/nowhere/librknnrt.so"));
    assert!(
        said.contains("KINGLET_RKNNRT") && said.contains("No such file"),
        "{said}"
    );
}

#[test]
fn an_agent_has_its_pictures_seen_elsewhere() {
    let broker = Mosquitto::start();
    let folder = device(&format!("url = \"{}\"", broker.url()), "every:1s");
    exported(&folder, "vision");
    let config = folder.path().join("kinglet.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text + "\n[model.graphs]\nvision = \"vision.onnx\"\n",
    )
    .unwrap();
    let viewer = Viewer::connect(broker.port, "viewer");
    let log = folder.path().join("log");
    let mut program = kinglet(&["run", "--config", &config.to_string_lossy()]);
    let to = Stdio::from(std::fs::File::create(&log).unwrap());
    let agent = Running::start(program.stderr(to));
    for _ in 0..2 {
        let event = viewer.json("kinglet/porch/event");
        let answer = event["answer"].as_str().unwrap();
        assert!(answer.starts_with("a "), "{answer}");
    }
    assert_eq!(agent.terminate(), Some(0));
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("handed over"), "{log}");
    assert!(!log.contains("cores compute"), "{log}");
}

/// The converter for Rockchip's toolkit, before a stand-in for the toolkit that writes down how it is called.
#[test]
fn the_converter_asks_the_toolkit_for_what_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let graph = exported(&folder, "vision");
    let stand_in = r#"
import json, pathlib
class RKNN:
    def __init__(self, **k): self.calls = [["init", k]]
    def config(self, **k): return self.note("config", k)
    def load_onnx(self, **k): return self.note("load_onnx", k)
    def build(self, **k): return self.note("build", k)
    def export_rknn(self, path):
        self.note("export_rknn", {"path": path})
        pathlib.Path(path).write_text("RKNN" + json.dumps(self.calls))
        return 0
    def release(self): pass
    def note(self, name, k):
        self.calls.append([name, k])
        return 7 if k.get("target_platform") == "rk0" else 0
"#;
    std::fs::create_dir(folder.path().join("rknn")).unwrap();
    put(folder.path(), "rknn/__init__.py", b"");
    put(folder.path(), "rknn/api.py", stand_in.as_bytes());
    let script = root().join("tools/rknn/convert.py");
    let out = folder
        .path()
        .join("vision.rknn")
        .to_string_lossy()
        .into_owned();
    let convert = |path: &Path, more: &[&str]| {
        let mut python = Command::new("python3");
        python
            .arg(&script)
            .args([&graph, &out])
            .args(more)
            .env("PYTHONPATH", path);
        finished(python.output().expect("python3"))
    };
    let (code, stdout, stderr) = convert(folder.path(), &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("for rk3588, 16-bit floats"), "{stdout}");
    let calls = std::fs::read_to_string(&out).unwrap();
    let calls: Value = serde_json::from_str(calls.strip_prefix("RKNN").unwrap()).unwrap();
    assert_eq!(calls[1][1]["target_platform"], "rk3588");
    assert_eq!(calls[2][1]["model"], graph.as_str());
    assert_eq!(calls[3][1]["do_quantization"], false);
    let (code, _, stderr) = convert(folder.path(), &["--target", "rk0"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("config failed (7)"), "{stderr}");
    let (code, _, stderr) = convert(Path::new("/nowhere"), &[]);
    assert_eq!(code, 1);
    assert!(stderr.contains("rknn-toolkit2 is missing"), "{stderr}");
}
