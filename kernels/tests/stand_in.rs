//! The driver's part of graphs, over the stand-in of its library (kernels/cuda/shim/driver.cpp), which is found only by a
//! process that is started with its folder on the search path: each test here starts itself again so.
#![cfg(feature = "cuda")]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod shim;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bytes::Bytes;
use kinglet_kernels::cuda::{Cuda, CudaWeight, driver::Driver};
use kinglet_kernels::{Device, Expert, Format, KernelError, Role, WeightData};

const STEPS: usize = 6;
/// The side of a matrix that is worth sharing.
const LARGE: usize = 256;

/// A folder with the stand-in's libraries, as long as it is held.
struct Libraries(PathBuf);

impl Drop for Libraries {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn libraries(test: &str) -> Libraries {
    let name = format!("{test}-{}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join("libcuda.so");
    shim::build(&["-O2", "-w"], "driver.cpp", &library);
    std::os::unix::fs::symlink(&library, folder.join("libnvrtc.so")).unwrap();
    Libraries(folder)
}

/// Runs `inside` with the stand-in; its output and what the stand-in told.
fn started(folder: &Path, wrong: &str, graphs: &str) -> (Output, String) {
    let log = folder.join(format!("log-{wrong}-{graphs}"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "inside"])
        .env("LD_LIBRARY_PATH", folder)
        .env("KINGLET_STAND_IN", wrong)
        .env("KINGLET_STAND_IN_LOG", &log)
        .env("KINGLET_CUDA_GRAPHS", graphs)
        .output()
        .unwrap();
    (output, std::fs::read_to_string(log).unwrap_or_default())
}

/// Lines of `inside` that begin so.
fn lines<'a>(output: &'a str, start: &str) -> Vec<&'a str> {
    output.lines().filter(|l| l.starts_with(start)).collect()
}

/// Number `place` of the last line that the stand-in told.
fn counted(told: &str) -> Vec<u64> {
    let last = told.lines().last().unwrap_or_default();
    let numbers = last.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|n| n.parse().ok()).collect()
}

#[test]
fn steps_become_a_graph_and_stay_the_same() {
    let folder = libraries("steps");
    let (with, told) = started(&folder.0, "", "on");
    let (without, plain) = started(&folder.0, "", "off");
    let (with, without) = (text(&with), text(&without));
    println!("{with}\n{told}{plain}");
    let values = lines(&with, "values");
    assert_eq!(values.len(), 1, "{with}");
    assert_eq!(values, lines(&without, "values"), "the same bytes");
    let ([launches, made, graphs, reads, _], [all, none, never, ..]) = (five(&told), five(&plain));
    // The first step has new addresses, the second one is remembered, every later one is launched as one.
    assert_eq!((made, graphs), (1, STEPS as u64 - 2));
    assert_eq!((none, never), (0, 0));
    let a_step = (all - launches) / graphs;
    assert_eq!(launches + graphs * a_step, all);
    assert!(a_step > 30, "{a_step} launches a step");
    assert_eq!(reads, 3, "only results are read");
}

#[test]
fn a_driver_that_makes_no_graphs_is_used_without() {
    let folder = libraries("refused");
    let (with, told) = started(&folder.0, "graphs", "on");
    let (without, _) = started(&folder.0, "", "off");
    let (with, without) = (text(&with), text(&without));
    assert_eq!(lines(&with, "values"), lines(&without, "values"), "{with}");
    let [_, made, graphs, ..] = five(&told);
    assert_eq!((made, graphs), (0, 0));
}

#[test]
fn a_processor_that_is_lost_inside_a_graph_is_noticed() {
    let folder = libraries("lost");
    let (_, told) = started(&folder.0, "", "off");
    let [all, ..] = five(&told);
    let lost = format!("lost={}", all - 5);
    let (output, told) = started(&folder.0, &lost, "on");
    let output = text(&output);
    assert_eq!(lines(&output, "lost").len(), 1, "{output}");
    let [_, _, graphs, ..] = five(&told);
    assert_eq!(graphs, STEPS as u64 - 2, "the last graph is the one");
}

#[test]
fn a_processor_in_the_hosts_memory_reads_weights_where_they_are() {
    let folder = libraries("shared");
    let run = |wrong: &str| {
        let (output, told) = started(&folder.0, wrong, "on");
        let line = told.lines().find(|l| l.contains("bytes")).expect(&told);
        let numbers = line.split(|c: char| !c.is_ascii_digit());
        let numbers: Vec<usize> = numbers.filter_map(|n| n.parse().ok()).collect();
        let values = lines(&text(&output), "values").join("");
        assert!(!values.is_empty(), "{output:?}");
        (values, numbers)
    };
    let (expected, copied) = run("");
    let (values, shared) = run("shared");
    println!("bytes at most, shared, pages left: {copied:?}, {shared:?}");
    assert_eq!(values, expected);
    assert_eq!((copied[1], copied[2]), (0, 0));
    assert!(shared[1] >= LARGE * LARGE * 4 && shared[1] < 2 * LARGE * LARGE * 4);
    assert!(shared[0] + LARGE * LARGE * 4 <= copied[0], "no copy of it");
    assert_eq!(shared[2], 0, "everything is given back");
    // Where the driver takes no pages everything is copied.
    let (values, refused) = run("unregistered");
    assert_eq!(values, expected);
    assert_eq!(refused, copied);
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn five(told: &str) -> [u64; 5] {
    counted(told).try_into().expect("five counts")
}

fn stored(format: Format, rows: usize, cols: usize, seed: u8) -> Bytes {
    let values: Vec<f32> = (0..rows * cols)
        .map(|i| ((i * 37 + usize::from(seed) * 11) % 17) as f32 / 17.0 - 0.5)
        .collect();
    let mut bytes = Vec::new();
    for row in values.chunks(cols) {
        kinglet_kernels::blocks::encode_row(format, row, &mut bytes).unwrap();
    }
    bytes.into()
}

fn weight(
    gpu: &Cuda,
    role: Role,
    format: Format,
    rows: usize,
    cols: usize,
    seed: u8,
) -> CudaWeight {
    let bytes = stored(format, rows, cols, seed);
    let data = WeightData {
        role,
        format,
        rows,
        cols,
        bytes,
    };
    gpu.weight(data).unwrap()
}

/// Steps of something like a denoising loop: a new time, rows by position, experts, attention with a past.
#[test]
#[ignore = "the other tests start it, with the stand-in"]
fn inside() {
    // Whoever runs every test runs it without.
    if std::env::var_os("KINGLET_STAND_IN").is_none() {
        return;
    }
    let driver = Driver::first(None).unwrap();
    let gpu = Cuda::new(driver as Arc<_>, true);
    match steps(&gpu) {
        Ok(values) => println!("\nvalues {:08x}", sum(&values)),
        Err(KernelError::Lost(words)) => println!("\nlost: {words}"),
        Err(e) => panic!("{e}"),
    }
}

fn sum(values: &[f32]) -> u32 {
    let bits = values.iter().map(|v| v.to_bits());
    bits.fold(7, |sum, v| {
        sum.rotate_left(5) ^ v.wrapping_mul(2_654_435_761)
    })
}

fn steps(gpu: &Cuda) -> Result<Vec<f32>, KernelError> {
    const WIDTH: usize = 64;
    let table = weight(gpu, Role::Table, Format::F16, 9, WIDTH, 1);
    let matrices: Vec<CudaWeight> = (2..11)
        .map(|seed| weight(gpu, Role::Matrix, Format::F32, WIDTH, WIDTH, seed))
        .collect();
    // Two weights of one piece of memory, as a container has them, and a page that both have a part of.
    let large = stored(Format::F32, LARGE, LARGE, 3);
    let halves = [0, 1].map(|half| WeightData {
        role: Role::Matrix,
        format: Format::F32,
        rows: LARGE / 2,
        cols: LARGE,
        bytes: large.slice(half * large.len() / 2..(half + 1) * large.len() / 2),
    });
    let [first, second] = halves.map(|half| gpu.weight(half).unwrap());
    let norm = weight(gpu, Role::Vector, Format::F32, 1, WIDTH, 12);
    let experts: Vec<Expert<'_, CudaWeight>> = (0..2)
        .map(|e| Expert {
            gate: &matrices[3 * e],
            up: &matrices[3 * e + 1],
            down: &matrices[3 * e + 2],
        })
        .collect();
    let router = weight(gpu, Role::Matrix, Format::F32, 2, WIDTH, 13);
    let shape = kinglet_kernels::AttentionShape {
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        mask: kinglet_kernels::Mask::Full,
    };
    let noise: Vec<f32> = (0..10 * WIDTH).map(|i| (i % 13) as f32 / 13.0).collect();
    let mut x = gpu.upload(&noise, WIDTH)?;
    let mut past = gpu.cache(WIDTH);
    gpu.cache_append(&mut past, &x, &x)?;
    for step in 0..STEPS {
        let time = vec![step as f32 / 7.0; WIDTH];
        // Two passes, as guidance takes them.
        let mut velocities = Vec::new();
        for pass in [0u32, 5] {
            let time = gpu.upload(&time, WIDTH)?;
            let mut rows = gpu.copy(&x)?;
            gpu.add(&mut rows, &time)?;
            gpu.add(
                &mut rows,
                &gpu.embed(&table, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 1])?,
            )?;
            let n = gpu.rms_norm(&rows, &norm, 1e-6)?;
            let mut q = gpu.matmul(&n, &matrices[6], None)?;
            gpu.rope(&mut q, &[pass; 10], 16, 1e4)?;
            let mixed = gpu.attention(&q, &[&past], &n, &n, shape)?;
            let mut merged = gpu.zeros(10, WIDTH)?;
            gpu.scatter_rows(&mut merged, &mixed, &[9, 8, 7, 6, 5, 4, 3, 2, 1, 0])?;
            let logits = gpu.matmul(&merged, &router, None)?;
            let y = gpu.mixture(&merged, &logits, &experts, 1)?;
            let y = gpu.restore(&gpu.halve(&y)?)?;
            gpu.add(&mut rows, &y)?;
            velocities.push(rows);
        }
        let mut guided = gpu.copy(&velocities[0])?;
        gpu.extrapolate(&mut guided, &velocities[1], 2.0)?;
        // Steps differ in length.
        gpu.add_scaled(&mut x, -0.1 / (1.0 + step as f32), &guided)?;
    }
    let rows = gpu.reshape(gpu.gather_rows(&x, &[0, 1, 2, 3])?, LARGE)?;
    let both = gpu.matmuls(&rows, &[(&first, None), (&second, None)])?;
    let mut all = gpu.download(&x)?;
    for part in both {
        all.extend(gpu.download(&part)?);
    }
    Ok(all)
}
