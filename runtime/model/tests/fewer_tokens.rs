//! A picture's patches become fewer tokens: against vectors of the training form (tools/train/golden_tokens.py), on
//! every instruction set.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use kinglet_container::Tensor;
use kinglet_container::tensors::SafeTensors;
use kinglet_kernels::{Cpu, Device, InstructionSet, Scalar};
use kinglet_model::config::VisionTokens;
use kinglet_model::recipes::Guides;
use kinglet_model::{DrawOptions, Drawing, Model, Picture, Source, directory, metadata, names};

/// Tokens, and the first layer that has them, of each case of the file.
const CASES: [(usize, usize); 2] = [(4, 0), (1, 1)];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

fn vectors() -> SafeTensors {
    SafeTensors::open(&folder().join("fewer-tokens.safetensors")).unwrap()
}

fn f32s(tensor: &Tensor) -> Vec<f32> {
    let four = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    tensor.bytes.chunks_exact(4).map(four).collect()
}

/// The golden checkpoint with a case's compression.
fn source((count, from): (usize, usize)) -> Source {
    let mut source = Source::open(&folder().join("golden/checkpoint")).unwrap();
    let prefix = format!("{count}.{from}/");
    for (name, tensor) in vectors().iter() {
        let name = name.strip_prefix(&prefix).and_then(names::from_original);
        if let Some(name) = name {
            source.tensors.insert(name, tensor.clone());
        }
    }
    source.config.vision.tokens = Some(VisionTokens { count, from });
    source
}

fn picture() -> Picture {
    let file = folder().join("golden/goldens/preprocess.safetensors");
    let set = SafeTensors::open(&file).unwrap();
    let pixels = set.get("und.vit_resized_from_vae_resized_u8").unwrap();
    let [height, width, _] = pixels.shape[..] else {
        panic!("{:?}", pixels.shape)
    };
    Picture::from_rgb(width, height, pixels.bytes.to_vec()).unwrap()
}

fn prompt() -> Vec<u32> {
    let file = folder().join("golden/goldens/understanding.safetensors");
    let set = SafeTensors::open(&file).unwrap();
    let eight = |b: &[u8]| i64::from_le_bytes(b.try_into().unwrap()) as u32;
    let ids = set.get("prompt.ids").unwrap();
    ids.bytes.chunks_exact(8).map(eight).collect()
}

/// How far two results are apart, as a share of the expected one.
fn distance(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>().sqrt();
    let off = norm(&mut got.iter().zip(expected).map(|(a, b)| a - b));
    off / norm(&mut expected.iter().copied())
}

fn equals_the_training_form<D: Device>(case: (usize, usize), on: &str, device: D) {
    let model = Model::load(&source(case), device).unwrap();
    let (count, from) = case;
    let vectors = vectors();
    let expected = |name: &str| f32s(vectors.get(&format!("{count}.{from}/{name}")).unwrap());
    let patches = picture()
        .patches(model.config.vision.patch)
        .map(|(_, rows, columns)| rows * columns)
        .unwrap();

    let mut context = model.context();
    let d = &model.device;
    let rows = context.push_resized_image(&picture(), &mut None).unwrap();
    let rows = d.download(&rows).unwrap();
    let hidden = model.config.language.hidden;
    let off = distance(&rows[hidden..rows.len() - hidden], &expected("image"));
    assert!(off < 1e-5, "{case:?} on {on}: the picture is off by {off}");
    assert_eq!((context.tokens(), context.position()), (count + 2, 1));
    for (layer, runs) in context.caches().iter().enumerate() {
        let kept: usize = runs
            .iter()
            .map(|run| d.shape(&d.cache_read(run).unwrap().0).0)
            .sum();
        let tokens = if layer < from { patches } else { count };
        assert_eq!(kept, tokens + 2, "layer {layer}");
    }
    let rows = context.push_ids(&prompt(), &mut None).unwrap();
    let logits = d.download(&model.language.logits(d, &rows).unwrap());
    let off = distance(&logits.unwrap(), &expected("logits"));
    assert!(off < 1e-5, "{case:?} on {on}: the logits are off by {off}");
}

#[test]
fn fewer_tokens_equal_the_training_form() {
    for case in CASES {
        equals_the_training_form(case, "the reference", Scalar);
        for set in InstructionSet::available() {
            equals_the_training_form(case, set.name(), Cpu::new(set).unwrap());
        }
    }
}

#[test]
fn they_are_stored_both_ways_and_a_picture_can_be_edited() {
    let folder = tempfile::tempdir().unwrap();
    for case in CASES {
        let source = source(case);
        let model = Model::load(&source, Scalar).unwrap();
        let guides = Guides::to_edit(&model, &picture(), "a cat", 1, false).unwrap();
        let mut options = DrawOptions::defaults(&source.config);
        options.timesteps = 3;
        options.size = (32, 32);
        let mut drawing = Drawing::new(&guides.0, &options).unwrap();
        drawing.step(0).unwrap();

        let original = folder.path().join(format!("{case:?}"));
        directory::write(&source, &original).unwrap();
        let again = Source::open(&original).unwrap();
        assert_eq!(again.config.vision, source.config.vision);
        assert!(Model::audit(&again, &Scalar).is_empty());

        let stored = metadata::write(&source.config);
        let key = |name: &str| stored.iter().find(|(key, _)| key == name).cloned();
        assert!(key("bagel.vision.tokens").is_some(), "{stored:?}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let sound = source(CASES[0]);
    let refused = |tokens: VisionTokens| {
        let mut hostile = sound.clone();
        hostile.config.vision.tokens = Some(tokens);
        let audit = Model::audit(&hostile, &Scalar);
        let checked = hostile.config.check("hostile").err();
        let all = audit.into_iter().chain(checked);
        all.map(|e| e.to_string()).collect::<Vec<_>>().join("; ")
    };
    for (count, from, expected) in [
        (0, 0, "vision: tokens"),
        (usize::MAX, 0, "vision: tokens"),
        (4, usize::MAX, "vision: first layer with tokens"),
        // Sound by itself, but not what is stored.
        (5, 0, "mm.tokens.query.weight"),
    ] {
        let errors = refused(VisionTokens { count, from });
        assert!(errors.contains(expected), "{count}, {from}: {errors}");
    }
    let mut missing = sound;
    missing.tensors.remove("mm.tokens.attn_k.weight");
    let errors: Vec<String> = Model::audit(&missing, &Scalar)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(errors[0].contains("mm.tokens.attn_k.weight"), "{errors:?}");
}
