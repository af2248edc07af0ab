//! `kinglet doctor`: what this machine is, what Kinglet will use of it, and what is missing.

use std::fmt::Write;

use kinglet_boards::{Probe, Profile};
use serde_json::json;

use crate::cli::{Cli, DoctorArgs};
use crate::device;
use crate::failure::{Failure, Outcome};

const GIB: f64 = (1u64 << 30) as f64;

pub(crate) fn run(cli: &Cli, args: &DoctorArgs) -> Outcome {
    if !args.root.is_dir() {
        return Err(Failure::new(format_args!(
            "{}: it is no folder",
            args.root.display()
        )));
    }
    let probe = Probe::new(&args.root);
    let profile = probe.board.as_deref().map(Profile::named).transpose()?;
    let here = args.root == std::path::Path::new("/");
    // Of this machine itself the kernels know best, and somebody may have told them what to take.
    let (kernels, threads) = if here {
        let cpu = kinglet_kernels::Cpu::from_environment()?;
        (
            cpu.set().name(),
            Some(kinglet_kernels::Device::describe(&cpu)),
        )
    } else {
        (probe.cores.set, None)
    };
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    let unknown = || "not known".to_owned();
    line(
        "machine",
        probe
            .model
            .as_deref()
            .unwrap_or("it does not say what it is"),
    );
    let title = profile
        .as_ref()
        .map(|p| format!("{} ({})", p.title, p.name));
    line(
        "profile",
        &title.unwrap_or_else(|| "none: generic values are taken".to_owned()),
    );
    for cluster in &probe.cores.clusters {
        let mhz = cluster.mhz.map_or(String::new(), |mhz| {
            format!(", {:.2} GHz", mhz as f64 / 1000.0)
        });
        line(
            "cores",
            &format!("{} x {}{mhz}", cluster.count, cluster.kind),
        );
    }
    line("kernels", threads.as_deref().unwrap_or(kernels));
    let gib =
        |bytes: Option<u64>| bytes.map_or_else(unknown, |b| format!("{:.2} GiB", b as f64 / GIB));
    let memory = &probe.memory;
    line(
        "memory",
        &format!(
            "{}, {} available, swap {}",
            gib(memory.total),
            gib(memory.available),
            gib(memory.swap)
        ),
    );
    if let Some(p) = &profile {
        line(
            "room",
            &format!(
                "{:.2} GiB for Kinglet, by the profile",
                p.room() as f64 / GIB
            ),
        );
    }
    for gpu in &probe.gpu {
        let (driver, library) = (gpu.driver.clone(), gpu.library.clone());
        let driver = driver.unwrap_or_else(unknown);
        let library = library.unwrap_or_else(|| "no libcuda.so".to_owned());
        line("gpu", &format!("{}, driver {driver}, {library}", gpu.name));
    }
    let cuda = here.then(device::cuda);
    if let Some(cuda) = &cuda {
        line("cuda", &cuda.said());
    }
    for npu in &probe.npu {
        let (driver, runtime) = (npu.driver.clone(), npu.runtime.clone());
        let (driver, runtime) = (
            driver.unwrap_or_else(unknown),
            runtime.unwrap_or_else(|| "none".to_owned()),
        );
        line(
            "npu",
            &format!("{}, driver {driver}, library {runtime}", npu.name),
        );
    }
    for camera in &probe.cameras {
        let formats = if here {
            format!(", {}", formats(&camera.device))
        } else {
            String::new()
        };
        line(
            "camera",
            &format!("{}, {}{formats}", camera.device, camera.name),
        );
    }
    if probe.cameras.is_empty() {
        line(
            "camera",
            "none on this machine (rtsp:, mjpeg: and snapshot: need none)",
        );
    }
    for zone in &probe.thermal {
        line(
            "sensor",
            &format!("{}: {} degrees Celsius", zone.name, zone.degrees),
        );
    }
    if let Some(power) = &probe.power {
        line("power", power);
    }
    for note in &probe.notes {
        line("note", note);
    }
    let mut result = serde_json::to_value(&probe)?;
    if let Some(result) = result.as_object_mut() {
        result.insert("kernels".to_owned(), json!(kernels));
        result.insert("profile".to_owned(), serde_json::to_value(&profile)?);
        result.insert("cuda".to_owned(), serde_json::to_value(&cuda)?);
    }
    super::print(cli.json, &result, text.trim_end())
}

/// What a camera gives, and whether that can be read.
fn formats(device: &str) -> String {
    let formats = match kinglet_agent::camera::formats(std::path::Path::new(device)) {
        Ok(Some(formats)) => formats,
        Ok(None) => return "gives no pictures".to_owned(),
        Err(e) => return format!("cannot be opened: {e}"),
    };
    let names = |wanted: bool| {
        let names = formats.iter().filter(|(_, read)| *read == wanted);
        names
            .map(|(name, _)| &name[..])
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (names(true), names(false)) {
        (read, _) if read.is_empty() => {
            format!(
                "no format that Kinglet reads (YUYV, MJPG, JPEG) but {}",
                names(false)
            )
        }
        (read, others) if others.is_empty() => format!("gives {read}"),
        (read, others) => format!("gives {read}, and {others}, which Kinglet does not read"),
    }
}
