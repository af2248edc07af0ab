//! The golden partition: which neurons the original code gave to which expert.
//!
//! `KINGLET_GOLDEN_DIR` names another set.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use kinglet_container::tensors::SafeTensors;
use kinglet_quant::passes::experts::partition;

fn root() -> PathBuf {
    match std::env::var_os("KINGLET_GOLDEN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden"),
    }
}

#[test]
fn neurons_go_to_the_experts_that_the_original_code_chose() {
    let file = SafeTensors::open(&root().join("moe/partition.safetensors")).unwrap();
    let config = std::fs::read(root().join("moe/llm_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
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
        let (values, _) = scores.bytes.as_chunks::<4>();
        let scores: Vec<f32> = values[layer * width..(layer + 1) * width]
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
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
