//! The door to Rockchip's library, before a stand-in that a C compiler builds here: calls, shapes and refusals. No real
//! chip is met.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code)]
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kinglet_boards::graph::rknn::{RknnGraph, Runtime};
use kinglet_kernels::{FixedGraph, GraphError};

/// Builds a C file as a shared library.
fn built(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (from, to) = (folder.join("library.c"), folder.join(name));
    std::fs::write(&from, source).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"];
    let status = Command::new(compiler)
        .args(flags)
        .arg("-o")
        .arg(&to)
        .arg(&from)
        .status();
    assert!(status.expect("a C compiler").success());
    to
}

fn stand_in(folder: &Path) -> PathBuf {
    built(folder, "librknnrt.so", include_str!("rknn_stand_in.c"))
}

fn refusal(result: Result<RknnGraph, GraphError>) -> String {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_graph_runs_and_everything_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = stand_in(folder.path());
    // SAFETY: it is the library built above, whose function has this type.
    let library = unsafe { libloading::Library::new(&file) }.unwrap();
    // SAFETY: as above.
    let live = || unsafe {
        let live: libloading::Symbol<'_, unsafe extern "C" fn() -> i32> =
            library.get(b"stand_in_live").unwrap();
        live()
    };
    let runtime = Runtime::open(&file).unwrap();
    let mut graph = runtime.graph(b"RKNNo").unwrap();
    assert_eq!(
        graph.runs_on(),
        "the NPU (librknnrt 2.3.0 (bbbb@2024-11-07T08:11:34), driver 0.9.8)"
    );
    assert_eq!(
        (graph.input().name.as_str(), &graph.input().shape[..]),
        ("picture", &[1, 3, 2, 3][..])
    );
    assert_eq!(
        (graph.output().name.as_str(), &graph.output().shape[..]),
        ("doubled", &[1, 3, 2, 3][..])
    );
    for round in 0..3 {
        let values: Vec<f32> = (0..18).map(|i| (i + round) as f32 * 0.25).collect();
        let doubled: Vec<f32> = values.iter().map(|v| v * 2.0).collect();
        assert_eq!(graph.run(&values).unwrap(), doubled);
        assert_eq!(live(), 1, "an output was kept");
    }
    let short = graph.run(&[0.0; 17]).unwrap_err().to_string();
    assert_eq!(short, "17 values were given, it takes 18");
    drop(graph);
    assert_eq!(live(), 0, "a context was kept");
    for fault in ["n", "v", "d", "D", "m", "l", "i"] {
        let model = format!("RKNN{fault}");
        drop(runtime.graph(model.as_bytes()));
        assert_eq!(live(), 0, "a context was kept after {fault}");
    }
    let mut short = runtime.graph(b"RKNNs").unwrap();
    assert_eq!(
        short.run(&[1.0; 18]).unwrap_err().to_string(),
        "it gave 1 values, not 18"
    );
    assert_eq!(live(), 1, "an output was kept");
}

#[test]
fn what_does_not_go_together_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let runtime: Arc<Runtime> = Runtime::open(&stand_in(folder.path())).unwrap();
    for (model, words) in [
        (&b"ONNX"[..], "it is no RKNN file"),
        (b"", "it is no RKNN file"),
        (b"RKNN", "rknn_init: a wrong argument (-5)"),
        (
            b"RKNNi",
            "rknn_init: the graph was converted for another chip (-13)",
        ),
        (
            b"RKNNv",
            "librknnrt says that it is version \"1.5.2 (aaaa@2023)\"; 2.x is supported",
        ),
        (
            b"RKNNd",
            "the NPU's driver says that it is version \"0.8.8\"; librknnrt 2.3.0 (bbbb@2024-11-07T08:11:34) wants 0.9.2 or later",
        ),
        (
            b"RKNNn",
            "it has 2 inputs and 1 outputs; one each is expected",
        ),
        (
            b"RKNND",
            "it has a shape of 17 dimensions; 1 to 16 are accepted",
        ),
        (b"RKNNm", "\"picture\" of [1, 3, 2, 3] has 5 values"),
        (b"RKNNl", "its output is in channels-last order"),
    ] {
        let said = refusal(runtime.graph(model));
        assert!(said.starts_with(words), "{said}");
    }
    let mut fails = runtime.graph(b"RKNNr").unwrap();
    assert_eq!(
        fails.run(&[0.0; 18]).unwrap_err().to_string(),
        "rknn_run: it took too long (-2)"
    );
    let mut fails = runtime.graph(b"RKNN2").unwrap();
    fails.run(&[0.0; 18]).unwrap();
    fails.run(&[0.0; 18]).unwrap_err();
}

#[test]
fn a_library_that_is_not_there_or_another_one_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let open = |file: &Path| match Runtime::open(file) {
        Ok(_) => panic!("it was opened"),
        Err(e) => e.to_string(),
    };
    let said = open(&folder.path().join("no.so"));
    assert!(
        said.contains("cannot be used") && said.contains("No such file"),
        "{said}"
    );
    assert!(said.contains("KINGLET_RKNNRT"), "{said}");
    let other = built(
        folder.path(),
        "other.so",
        "int rknn_init(void) { return 0; }",
    );
    let said = open(&other);
    assert!(said.contains("rknn_destroy"), "{said}");
    let text = folder.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    let said = open(&text);
    assert!(said.contains("cannot be used"), "{said}");
}
