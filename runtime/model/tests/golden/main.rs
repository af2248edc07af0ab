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
mod sparse;
mod tools;
mod understanding;

use kinglet_kernels::{Format, InstructionSet};
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
    for kernels in InstructionSet::available() {
        run(Bounds::exact(kernels));
    }
}

#[test]
fn every_golden_tensor_is_near_in_f16() {
    for kernels in InstructionSet::available() {
        run(Bounds {
            format: Format::F16,
            ..Bounds::exact(kernels)
        });
    }
}

/// Random weights have no structure that survives rounding; a trained model loses far less (see
/// docs/tiny.md).
#[test]
fn every_golden_tensor_is_near_in_q8_0() {
    for kernels in InstructionSet::available() {
        run(Bounds {
            kernels,
            format: Format::Q8_0,
            tensor: 0.15,
            sample: 0.08,
            levels: 1,
            choices: 8,
        });
    }
}

fn run(bounds: Bounds) {
    let mut set = Set::open(bounds);
    let source = set.source(&set.root().join("checkpoint"));
    let model = Model::load(&source, set.cpu()).unwrap();

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
    sparse::skipped(&mut set, &source);
    sparse::experts(&mut set, &source);
    checkpoint(&mut set, &source);

    set.finish(ELSEWHERE);
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
