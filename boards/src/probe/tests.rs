//! Captured trees: none of these boards was here. The files' forms are those that the kernel's documentation
//! and the vendors' tools have; their values are made up within them.

use std::fs;

use kinglet_kernels::InstructionSet;

use super::*;

/// A tree of these files.
fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Probe) {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let probe = Probe::new(folder.path());
    (folder, probe)
}

fn cpuinfo(cores: &[(&str, usize)], features: &str) -> String {
    let each = cores
        .iter()
        .flat_map(|(part, n)| std::iter::repeat_n(part, *n));
    let block = |(i, part): (usize, &&str)| {
        format!(
            "processor\t: {i}\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
        )
    };
    each.enumerate().map(block).collect()
}

const DOTPROD: &str =
    "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp";

#[test]
fn a_rock_5b_with_an_old_driver_is_known_and_the_mismatch_is_said() {
    let cpuinfo = cpuinfo(&[("0xd05", 4), ("0xd0b", 4)], DOTPROD);
    let mut files = vec![
        (
            "proc/device-tree/compatible",
            "radxa,rock-5b\0rockchip,rk3588\0",
        ),
        ("proc/device-tree/model", "Radxa ROCK 5B\0"),
        ("proc/cpuinfo", &cpuinfo[..]),
        (
            "proc/meminfo",
            "MemTotal:       16262080 kB\nMemAvailable:   15000000 kB\nSwapTotal: 0 kB\n",
        ),
        (
            "proc/pressure/memory",
            "some avg10=0.00 avg60=12.50 avg300=0.00 total=0\n",
        ),
        ("sys/class/thermal/thermal_zone0/type", "soc-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", "46230\n"),
        ("sys/class/thermal/thermal_zone1/type", "gpu-thermal\n"),
        ("sys/class/thermal/thermal_zone1/temp", "-274000\n"),
        ("sys/module/rknpu/version", "0.8.2\n"),
        (
            "usr/lib/librknnrt.so",
            "\x7fELF...librknnrt version: 2.3.0 (c949ad889d@2024-11-07)\0...",
        ),
        ("sys/class/video4linux/video10/name", "rkisp_mainpath\n"),
        ("sys/class/video4linux/video2/name", "USB Camera\n"),
        ("sys/class/video4linux/v4l-subdev0/name", "imx415\n"),
    ];
    let clocks: Vec<String> = (0..8)
        .map(|i| format!("sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq"))
        .collect();
    for (i, file) in clocks.iter().enumerate() {
        files.push((file, if i < 4 { "1800000\n" } else { "2400000\n" }));
    }
    let (_folder, probe) = tree(&files);
    assert_eq!(probe.board.as_deref(), Some("rock-5b-16"));
    assert_eq!(probe.model.as_deref(), Some("Radxa ROCK 5B"));
    let clusters: Vec<(&str, usize, Option<u64>)> = probe
        .cores
        .clusters
        .iter()
        .map(|c| (&c.kind[..], c.count, c.mhz))
        .collect();
    assert_eq!(
        clusters,
        [("Cortex-A76", 4, Some(2400)), ("Cortex-A55", 4, Some(1800))]
    );
    assert_eq!(probe.cores.set, "neon-dotprod");
    assert_eq!(probe.thermal.len(), 1);
    let devices: Vec<&str> = probe.cameras.iter().map(|c| &c.device[..]).collect();
    assert_eq!(devices, ["/dev/video2", "/dev/video10"]);
    assert_eq!(probe.npu[0].runtime.as_deref(), Some("2.3.0"));
    let notes = probe.notes.join("\n");
    for words in [
        "librknnrt 2.3.0 wants the RKNPU driver 0.9.2",
        "gpu-thermal",
        "12.5 %",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
}

#[test]
fn memory_tells_boards_with_one_device_tree_apart() {
    let cpuinfo = cpuinfo(&[("0xd0b", 4)], DOTPROD);
    for (kib, board) in [
        (8_245_000, "raspberry-pi-5-8"),
        (16_600_000, "raspberry-pi-5-16"),
    ] {
        let meminfo = format!("MemTotal: {kib} kB\n");
        let (_folder, probe) = tree(&[
            (
                "proc/device-tree/compatible",
                "raspberrypi,5-model-b\0brcm,bcm2712\0",
            ),
            ("proc/cpuinfo", &cpuinfo),
            ("proc/meminfo", &meminfo),
        ]);
        assert_eq!(probe.board.as_deref(), Some(board));
        assert!(probe.notes.is_empty(), "{:?}", probe.notes);
    }
}

#[test]
fn a_jetson_tells_its_power_mode_and_its_release() {
    let cpuinfo = cpuinfo(&[("0xd42", 6)], DOTPROD);
    let (_folder, probe) = tree(&[
        (
            "proc/device-tree/compatible",
            "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
        ),
        ("proc/cpuinfo", &cpuinfo),
        ("proc/meminfo", "MemTotal: 7800000 kB\n"),
        (
            "etc/nv_tegra_release",
            "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic\n",
        ),
        ("sys/module/nvgpu/refcnt", "1\n"),
        (
            "etc/nvpmodel.conf",
            "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        ),
        ("var/lib/nvpmodel/status", "pmode:0002\n"),
        ("usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1", ""),
    ]);
    assert_eq!(probe.board.as_deref(), Some("orin-nano-8"));
    assert_eq!(probe.power.as_deref(), Some("MAXN_SUPER"));
    let gpu = &probe.gpu[0];
    assert_eq!(
        gpu.driver.as_deref(),
        Some("Jetson Linux R36 (release), REVISION: 4.0")
    );
    assert!(gpu.library.as_deref().unwrap().ends_with("libcuda.so.1"));
}

#[test]
fn whatever_files_say_nothing_fails() {
    let (_folder, probe) = tree(&[]);
    assert_eq!((probe.board, probe.cores.set), (None, "scalar"));
    assert!(probe.notes.iter().any(|n| n.contains("no profile knows")));
    let long = "x".repeat(1 << 20);
    let binary: String = ('\0'..'\u{ff}').collect();
    for text in [
        "",
        "\0\0\0",
        ":",
        "-",
        "99999999999999999999999",
        &long,
        &binary,
        "processor\n\nprocessor : \n\n",
    ] {
        let files: Vec<(&str, &str)> = [
            "proc/device-tree/compatible",
            "proc/device-tree/model",
            "proc/cpuinfo",
            "proc/meminfo",
            "proc/pressure/memory",
            "sys/class/thermal/thermal_zone0/temp",
            "sys/module/rknpu/version",
            "usr/lib/librknnrt.so",
            "etc/nv_tegra_release",
            "var/lib/nvpmodel/status",
            "etc/nvpmodel.conf",
            "proc/driver/nvidia/version",
            "proc/driver/nvidia/gpus/0/information",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
            "sys/class/video4linux/video0/name",
        ]
        .map(|file| (file, text))
        .into();
        let (_folder, probe) = tree(&files);
        assert!(probe.notes.len() < 20);
        assert!(
            probe.notes.iter().all(|n| n.len() < 4000),
            "{:?}",
            probe.notes
        );
    }
}

#[test]
fn this_machine_has_cores_and_memory() {
    let probe = Probe::new(Path::new("/"));
    assert!(probe.memory.total.unwrap() > 1 << 28);
    assert!(probe.cores.clusters.iter().map(|c| c.count).sum::<usize>() > 0);
    // What the files say is what the kernels find.
    assert_eq!(probe.cores.set, InstructionSet::best().name());
}
