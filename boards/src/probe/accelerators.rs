//! Graphics and neural processors: their drivers, their libraries, and whether these go together.

use std::fs::File;
use std::io::Read;

use serde::Serialize;

use super::files::Tree;

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// What it is called.
    pub name: String,
    /// The version of its kernel driver.
    pub driver: Option<String>,
    /// The CUDA library that programs load.
    pub library: Option<String>,
}

/// A neural processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Npu {
    /// What it is called.
    pub name: String,
    /// The version of its kernel driver.
    pub driver: Option<String>,
    /// The version of the library that programs it.
    pub runtime: Option<String>,
}

/// Where distributions and vendors put libraries.
const LIBRARIES: [&str; 6] = [
    "usr/lib/aarch64-linux-gnu/nvidia",
    "usr/lib/aarch64-linux-gnu/tegra",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib64",
    "usr/lib",
];

/// The first of these libraries that is there.
fn library(tree: &Tree, names: &[&str]) -> Option<String> {
    let candidates = LIBRARIES
        .iter()
        .flat_map(|folder| names.iter().map(move |name| format!("{folder}/{name}")));
    candidates.into_iter().find(|file| tree.exists(file))
}

pub(super) fn gpus(tree: &Tree, notes: &mut Vec<String>) -> Vec<Gpu> {
    let cuda = library(tree, &["libcuda.so.1", "libcuda.so"]).map(|file| format!("/{file}"));
    let mut gpus = Vec::new();
    // "NVRM version: NVIDIA UNIX ... Kernel Module  540.4.0  ..."
    let driver = tree.line("proc/driver/nvidia/version").and_then(|line| {
        let version =
            |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
        line.split_whitespace().find(version).map(str::to_owned)
    });
    for card in tree.children("proc/driver/nvidia/gpus") {
        let text = tree
            .text(&format!("proc/driver/nvidia/gpus/{card}/information"))
            .unwrap_or_default();
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"));
        gpus.push(Gpu {
            name: model.map_or("an NVIDIA processor", str::trim).to_owned(),
            driver: driver.clone(),
            library: cuda.clone(),
        });
    }
    // A Jetson's processor is part of the chip. "# R36 (release), REVISION: 4.0, ..."
    if gpus.is_empty()
        && let Some(release) = tree.line("etc/nv_tegra_release")
    {
        let loaded = tree.exists("sys/module/nvgpu") || driver.is_some();
        let short: Vec<&str> = release
            .trim_start_matches('#')
            .split(',')
            .take(2)
            .map(str::trim)
            .collect();
        if loaded {
            gpus.push(Gpu {
                name: "the Jetson's own processor".to_owned(),
                driver: Some(format!("Jetson Linux {}", short.join(", "))),
                library: cuda.clone(),
            });
        } else {
            notes.push(
                "Jetson Linux is installed, but its graphics driver (nvgpu) is not loaded"
                    .to_owned(),
            );
        }
    }
    if !gpus.is_empty() {
        notes.push(
            match cuda {
                Some(_) => "Kinglet computes on the cores unless --device cuda (or auto) asks for the graphics processor",
                None => "a graphics driver is loaded, but there is no libcuda.so: CUDA programs cannot start",
            }
            .to_owned(),
        );
    }
    gpus
}

/// The oldest driver that Rockchip recommends for runtimes from 2.0 on (README of its rknn-toolkit2).
const RKNPU_DRIVER: [u32; 3] = [0, 9, 2];

pub(super) fn npus(tree: &Tree, notes: &mut Vec<String>) -> Vec<Npu> {
    let mut npus = Vec::new();
    // "RKNPU driver: v0.9.8", which only root may read; the module says it, too.
    let driver = tree
        .line("sys/kernel/debug/rknpu/version")
        .or_else(|| tree.line("sys/module/rknpu/version"));
    if driver.is_some() || tree.exists("sys/module/rknpu") {
        let driver = driver.and_then(|line| numbers(&line)).map(dotted);
        let runtime = library(tree, &["librknnrt.so"])
            .and_then(|file| version_in(tree, &file, b"librknnrt version: "))
            .and_then(|text| numbers(&text));
        match (runtime, driver.as_deref().and_then(numbers)) {
            (None, _) => notes.push(
                "the RKNPU driver is loaded, but there is no librknnrt.so: no program can use it".to_owned(),
            ),
            (Some(runtime), Some(driver)) if runtime[0] >= 2 && driver < RKNPU_DRIVER => notes.push(format!(
                "librknnrt {} wants the RKNPU driver {} or later, this one is {}: update the kernel, or take an older library",
                dotted(runtime), dotted(RKNPU_DRIVER), dotted(driver),
            )),
            (Some(_), None) => notes.push(
                "the version of the RKNPU driver cannot be read (only root may): whether it goes with librknnrt is not known".to_owned(),
            ),
            _ => {}
        }
        npus.push(Npu {
            name: "RKNPU".to_owned(),
            driver,
            runtime: runtime.map(dotted),
        });
    }
    if tree.exists("sys/module/galcore") {
        npus.push(Npu {
            name: "Vivante (galcore)".to_owned(),
            driver: tree.line("sys/module/galcore/version"),
            runtime: library(tree, &["libtim-vx.so"]).map(|file| format!("/{file}")),
        });
    }
    npus
}

fn dotted(version: [u32; 3]) -> String {
    version.map(|n| n.to_string()).join(".")
}

/// The first three numbers with points between them.
pub(crate) fn numbers(text: &str) -> Option<[u32; 3]> {
    let mut words = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words.find_map(|word| {
        let parts: Vec<u32> = word
            .split('.')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        <[u32; 3]>::try_from(parts).ok()
    })
}

/// The most bytes of a library that are searched.
const LARGEST: u64 = 64 << 20;

/// What follows `mark` in a library.
fn version_in(tree: &Tree, file: &str, mark: &[u8]) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(tree.path(file))
        .ok()?
        .take(LARGEST)
        .read_to_end(&mut bytes)
        .ok()?;
    let at = bytes.windows(mark.len()).position(|w| w == mark)? + mark.len();
    let rest = bytes[at..].split(|b| *b == 0 || *b == b'\n').next()?;
    Some(String::from_utf8_lossy(&rest[..rest.len().min(64)]).into_owned())
}
