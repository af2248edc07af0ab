//! Lists the demo's clip, so that the binary carries it.
// A build script can only panic.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::env;
use std::fmt::Write;
use std::path::Path;

fn main() {
    let clip = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("../assets/clip");
    println!("cargo::rerun-if-changed={}", clip.display());
    let mut names: Vec<String> = std::fs::read_dir(&clip)
        .unwrap_or_else(|e| panic!("{}: {e}", clip.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".jpg"))
        .collect();
    names.sort();
    let mut out = String::from("pub(super) static FRAMES: &[(&str, &[u8])] = &[\n");
    for name in &names {
        let path = clip.join(name);
        writeln!(out, "    ({name:?}, include_bytes!({:?})),", path.display()).unwrap();
    }
    let truth = clip.join("truth.json");
    writeln!(
        out,
        "];\npub(super) static TRUTH: &[u8] = include_bytes!({:?});",
        truth.display()
    )
    .unwrap();
    std::fs::write(
        Path::new(&env::var("OUT_DIR").unwrap()).join("clip.rs"),
        out,
    )
    .unwrap();
}
