//! The same model out of a directory and out of GGUF.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use kinglet_kernels::{Device, Scalar};
use kinglet_model::{Model, Source};
use kinglet_tests::{program, root};

fn model(path: &Path) -> Arc<Model<Scalar>> {
    Model::load(&Source::open(path).unwrap(), Scalar).unwrap()
}

/// Logits after a text, and a velocity after it.
fn numbers(model: &Arc<Model<Scalar>>) -> (Vec<f32>, Vec<f32>) {
    let mut context = model.context();
    context.push_text("What is in the picture?").unwrap();
    let values = model.config.latent.token_values();
    let noise: Vec<f32> = (0..6 * values).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = Scalar.upload(&noise, values).unwrap();
    let velocity = context.velocity(&x, 0.75, (2, 3), &mut None).unwrap();
    let rows = context.push_ids(&[1, 2], &mut None).unwrap();
    let logits = model.language.logits(&model.device, &rows).unwrap();
    let read = |x| Scalar.download(x).unwrap();
    (read(&logits), read(&velocity))
}

#[test]
fn a_directory_and_its_gguf_give_the_same_numbers() {
    let checkpoint = root().join("tests/golden/checkpoint");
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, "[precision]\ndefault = \"F32\"\n").unwrap();
    let out = folder.path().join("out.gguf");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let arguments = [
        &text(&checkpoint),
        "-o",
        &text(&out),
        "--recipe",
        &text(&recipe),
    ];
    let (code, _, stderr) = program::run(&[&["compress"][..], &arguments].concat());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        Source::open(&out).unwrap().config.language,
        model(&checkpoint).config.language
    );
    assert!(numbers(&model(&checkpoint)) == numbers(&model(&out)));
}
