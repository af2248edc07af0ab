//! Every tensor of a golden set, made by the original code, against this implementation.
//!
//! `KINGLET_GOLDEN_DIR` names another set (a folder with `checkpoint/`, `goldens/` and `moe/`);
//! nothing here depends on the sizes at hand. A tensor that is neither checked nor on the list of
//! what is checked elsewhere fails the test.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod autoencoder;
mod drawing;
mod editing;
mod inputs;
mod set;
#[path = "../../../../kernels/tests/shim/mod.rs"]
mod shim;
mod sparse;
mod tools;
mod understanding;

use std::sync::Arc;

use kinglet_kernels::cpu::CacheFormat;
use kinglet_kernels::{Cpu, Cuda, Device, Format, InstructionSet};
use kinglet_model::{Model, Source};
use set::{Bounds, Set};

/// What is checked elsewhere, by file and the beginning of the tensor's name.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("moe/partition.safetensors", "", QUANT),
    ("moe/depth_pruning.safetensors", "depth_score", QUANT),
];
const QUANT: &str = "kinglet-quant's golden test";

#[test]
fn every_golden_tensor_of_the_model_is_reached() {
    on_every_set(Bounds::exact());
}

#[test]
fn every_golden_tensor_is_near_in_f16() {
    on_every_set(Bounds {
        format: Format::F16,
        ..Bounds::exact()
    });
}

/// Random weights have no structure that survives rounding; a trained model loses far less (see
/// docs/tiny.md).
const ROUNDED: Bounds = Bounds {
    format: Format::Q8_0,
    tensor: 0.15,
    sample: 0.08,
    levels: 1,
    choices: 8,
};

#[test]
fn every_golden_tensor_is_near_in_q8_0() {
    on_every_set(ROUNDED);
}

/// The kernels of graphics processors, run on the CPU, or with `KINGLET_GPU` set on this machine's own processor.
#[test]
fn every_golden_tensor_is_reached_by_the_kernels_of_graphics_processors() {
    let gpu = shim::processor();
    for (bounds, half_cache) in [(Bounds::exact(), false), (ROUNDED, true)] {
        run(bounds, &gpu.describe(), &|| {
            let device = Cuda::new(Arc::clone(&gpu), half_cache);
            // The set's weights are in 16 bits, before which activations would be rounded to these.
            if half_cache { device } else { device.exact() }
        });
    }
    let Some(shim) = shim::opened() else {
        return;
    };
    let ran = shim.ran.lock().unwrap();
    println!(
        "kernels that ran: {}",
        ran.iter().cloned().collect::<Vec<_>>().join(" ")
    );
}

/// On every instruction set of this processor, or those that `KINGLET_GOLDEN_SETS` names.
fn on_every_set(bounds: Bounds) {
    let wanted = std::env::var("KINGLET_GOLDEN_SETS").unwrap_or_default();
    let named: Vec<&str> = wanted.split(',').filter(|name| !name.is_empty()).collect();
    let available: Vec<InstructionSet> = InstructionSet::available().collect();
    let known = |name: &&str| available.iter().any(|set| set.name() == *name);
    assert!(named.iter().all(known), "KINGLET_GOLDEN_SETS={wanted}");
    let chosen = |set: &InstructionSet| named.is_empty() || named.contains(&set.name());
    for kernels in available.into_iter().filter(chosen) {
        // As the program does it.
        let cache = match bounds.format.block_values() {
            1 => CacheFormat::F32,
            _ => CacheFormat::F16,
        };
        run(bounds, kernels.name(), &|| {
            Cpu::new(kernels).unwrap().with_cache(cache)
        });
    }
}

fn run<D: Device>(bounds: Bounds, on: &str, make: &dyn Fn() -> D) {
    let mut set = Set::open(bounds);
    let source = set.source(&set.root().join("checkpoint"));
    let model = Model::load(&source, make()).unwrap();

    inputs::tokenizer(&mut set, &model);
    inputs::sizes(&mut set, &source);
    inputs::preprocess(&mut set, &source);
    understanding::vision(&mut set, &model);
    understanding::understanding(&mut set, &model);
    understanding::text_only(&mut set, &model);
    drawing::velocities(&mut set, &model);
    drawing::samples(&mut set, &model);
    drawing::taylorseer(&mut set, &model);
    autoencoder::autoencoder(&mut set, &model);
    editing::edit(&mut set, &model);
    editing::think(&mut set, &model);
    sparse::skipped(&mut set, &source, make);
    sparse::experts(&mut set, &source, make);
    checkpoint(&mut set, &source);

    set.finish(ELSEWHERE, on);
}

/// The weights themselves are not results; loading has used each of them, or it would be listed.
fn checkpoint(set: &mut Set, source: &Source) {
    for file in ["checkpoint/ema.safetensors", "checkpoint/ae.safetensors"] {
        for name in set.names(file) {
            let gguf = match file {
                "checkpoint/ae.safetensors" => format!("vae.{name}"),
                _ => kinglet_model::names::from_original(&name).unwrap(),
            };
            let values = source.tensor(&gguf).unwrap().values();
            assert_eq!(values, set.shape(file, &name).iter().product::<usize>());
            set.input(file, &name);
        }
    }
}
