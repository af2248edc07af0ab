//! The golden tensors of compression: which neurons the original code gave to which expert, and its
//! depth scores. Every tensor of the two files is checked or an input of a check.
//!
//! `KINGLET_GOLDEN_DIR` names another set.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use kinglet_container::tensors::SafeTensors;
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::{Device, Scalar};
use kinglet_model::{Model, Source};
use kinglet_quant::passes::depth::Watcher;
use kinglet_quant::passes::experts::partition;

fn root() -> PathBuf {
    match std::env::var_os("KINGLET_GOLDEN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden"),
    }
}

fn f32s(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.kind, TensorType::F32);
    let (values, _) = tensor.bytes.as_chunks::<4>();
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(root().join(path)).unwrap()).unwrap()
}

#[test]
fn neurons_go_to_the_experts_that_the_original_code_chose() {
    let file = SafeTensors::open(&root().join("moe/partition.safetensors")).unwrap();
    let config = json("moe/llm_config.json");
    let shared = config["num_shared_experts"].as_u64().unwrap() as usize;
    let mut checked = 0;
    for (name, tensor) in file.iter() {
        // gen.1.expert_indices, gen.1.shared_indices, scores_gen
        let parts: Vec<&str> = name.split('.').collect();
        let [branch, layer, part] = parts[..] else {
            continue;
        };
        let layer: usize = layer.parse().unwrap();
        let scores = file.get(&format!("scores_{branch}")).unwrap();
        let width = scores.shape[1];
        let scores = f32s(scores)[layer * width..(layer + 1) * width].to_vec();
        let experts = file
            .get(&format!("{branch}.{layer}.expert_indices"))
            .unwrap()
            .shape[0];
        let split = partition(&scores, experts, shared).unwrap();
        let (expected, _) = tensor.bytes.as_chunks::<8>();
        let expected: Vec<usize> = expected
            .iter()
            .map(|b| i64::from_le_bytes(*b) as usize)
            .collect();
        match part {
            "expert_indices" => assert_eq!(split.experts.concat(), expected, "{name}"),
            "shared_indices" => assert_eq!(split.shared, expected, "{name}"),
            part => panic!("the set holds the unknown {part}"),
        }
        checked += 1;
    }
    println!("golden: {checked} partitions checked");
    assert!(checked > 0);
}

/// The set's calibration: the prompt of its drawings, and one velocity after it at t = 0.75 from the
/// noise of t2i_velocity. (Found by trying: the set does not say so.)
#[test]
fn layers_score_as_in_the_original_code() {
    const TIME: f32 = 0.75;
    let source = Source::open(&root().join("checkpoint")).unwrap();
    let model = Model::load(&source, Scalar).unwrap();
    let (c, t) = (&model.config.language, &model.tokenizer);
    let velocity = SafeTensors::open(&root().join("goldens/t2i_velocity.safetensors")).unwrap();
    let latent = &model.config.latent;
    let noise = f32s(velocity.get("noise").unwrap());
    let noise = Scalar.upload(&noise, latent.token_values()).unwrap();
    let hw = &velocity.get("image_hw").unwrap().bytes;
    let side = |i: usize| hw[8 * i] as usize + (hw[8 * i + 1] as usize) * 256;
    let grid = (
        side(0) / latent.token_pixels(),
        side(1) / latent.token_pixels(),
    );

    let meta = json("goldens/meta.json");
    let prompt = t.block(&t.encode(meta["prompt_t2i"].as_str().unwrap()).unwrap());
    let mut context = model.context();
    let mut und = Watcher::new(&model.device, c.hidden, c.blocks);
    let mut generation = Watcher::new(&model.device, c.hidden, c.blocks);
    context
        .push_ids(&prompt, &mut Some(&mut |stage, x: &_| und.see(stage, x)))
        .unwrap();
    context
        .velocity(
            &noise,
            TIME,
            grid,
            &mut Some(&mut |stage, x: &_| generation.see(stage, x)),
        )
        .unwrap();

    let file = SafeTensors::open(&root().join("moe/depth_pruning.safetensors")).unwrap();
    let scores = [
        ("und", und.scores().unwrap()),
        ("gen", generation.scores().unwrap()),
    ];
    let mut checked = 0;
    for (name, tensor) in file
        .iter()
        .filter(|(name, _)| name.starts_with("depth_score"))
    {
        // depth_score.und.block, depth_score_with_residual.und.mlp
        let parts: Vec<&str> = name.split('.').collect();
        let (_, s) = scores.iter().find(|(mode, _)| *mode == parts[1]).unwrap();
        let got = match (parts[0], parts[2]) {
            ("depth_score", "block") => &s.block,
            ("depth_score", "attn") => &s.attention,
            ("depth_score", "mlp") => &s.feed_forward,
            ("depth_score_with_residual", "block") => &s.block_with_residual,
            ("depth_score_with_residual", "mlp") => &s.feed_forward_with_residual,
            _ => panic!("the set holds the unknown {name}"),
        };
        for (got, expected) in got.iter().zip(f32s(tensor)) {
            assert!(
                (got - f64::from(expected)).abs() < 1e-4,
                "{name}: {got} is not {expected}"
            );
        }
        checked += 1;
    }
    println!("golden: {checked} depth scores checked");
    assert!(checked > 0);
}
