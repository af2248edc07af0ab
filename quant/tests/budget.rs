//! Compressing to a budget, and with importance.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use kinglet_model::Source;
use kinglet_quant::{Options, Recipe, Report, compress};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

fn checkpoint() -> Source {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoint");
    Source::open(&golden).unwrap()
}

fn compressed(recipe: &str, out: &Path) -> Result<Report, String> {
    let recipe = Recipe::parse(recipe).map_err(|e| e.to_string())?;
    compress(
        &checkpoint(),
        &recipe,
        out,
        &Options::default(),
        &mut |_, _, _| {},
    )
    .map_err(|e| e.to_string())
}

#[test]
fn a_budget_is_kept_and_more_of_it_is_spent_on_better_types() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.gguf");
    let most = compressed("[precision]\nbudget = \"1GB\"", &out).unwrap();
    let refused = compressed("[precision]\nbudget = \"1KB\"", &out).unwrap_err();
    let least: usize = refused.split_whitespace().last().unwrap().parse().unwrap();
    assert!(least < most.bytes, "{refused}");

    let mut bits = 0.0;
    for share in [0.0, 0.3, 0.6] {
        let budget = least + ((most.bytes - least) as f64 * share) as usize;
        let recipe = format!("[precision]\nbudget = \"{budget}\"");
        let report = compressed(&recipe, &out).unwrap();
        assert!(report.bytes <= budget && report.bytes * 100 >= budget * 95);
        assert!(report.bits_per_weight > bits);
        bits = report.bits_per_weight;
        // Whole again, whatever the mixture.
        Source::open(&out).unwrap();
    }

    let kept = format!("[precision]\nbudget = \"{least}\"\nkeep = {{ \"token_embd\" = \"F32\" }}");
    assert!(compressed(&kept, &out).is_err(), "the exception takes more");
}

#[test]
fn budgets_that_are_none_are_refused() {
    for (recipe, said) in [
        ("[precision]\nbudget = \"lots\"", "lots"),
        (
            "[precision]\nbudget = \"1GB\"\ndefault = \"Q4_0\"",
            "leave out one",
        ),
    ] {
        let text = Recipe::parse(recipe).unwrap_err().to_string();
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn what_calibration_saw_weighs_the_errors() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, calibration: &str| {
        let out = folder.path().join(name);
        let recipe = format!("{calibration}[precision]\ndefault = \"Q4_0\"");
        compressed(&recipe, &out).unwrap();
        Source::open(&out).unwrap()
    };
    let plain = made("plain", "");
    let little = "[calibration]\ncount = 1\ntimesteps = 2\ntokens = 64\n";
    let weighted = made("weighted", little);
    let changed = |name: &str| plain.tensors[name].bytes != weighted.tensors[name].bytes;
    assert!(changed("blk.0.attn_q.weight") && changed("blk.0.ffn_down_gen.weight"));
    // A table of which rows are looked up is not multiplied with anything.
    assert!(!changed("token_embd.weight"));
}

/// The bundled model in the types that this recipe says, compared with itself on scenes.
fn measured(source: &Source, precision: &str) -> (usize, f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let recipe = format!("[calibration]\ncount = 32\n{precision}");
    let report = compress(
        source,
        &Recipe::parse(&recipe).unwrap(),
        &folder.path().join("a.gguf"),
        &Options {
            measure: 32,
            ..Options::default()
        },
        &mut |_, _, _| {},
    );
    let report = report.unwrap();
    let measures = report.measures.unwrap();
    let velocities = measures.velocities.iter().map(|v| v.1);
    let mean = velocities.sum::<f64>() / measures.velocities.len() as f64;
    (report.bytes, measures.divergence, mean)
}

#[test]
fn a_budget_does_better_than_one_type_and_than_chance() {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/assets/kinglet-tiny.gguf");
    let source = Source::open(&bundled).unwrap();
    let uniform = measured(&source, "[precision]\ndefault = \"Q4_K\"");
    let bytes = uniform.0;
    let budget = measured(&source, &format!("[precision]\nbudget = \"{bytes}\""));
    println!("{:>10} {:>12} {:>12}", "bytes", "divergence", "velocities");
    println!(
        "{:>10} {:12.5} {:12.5}  one type",
        uniform.0, uniform.1, uniform.2
    );
    println!(
        "{:>10} {:12.5} {:12.5}  budget",
        budget.0, budget.1, budget.2
    );
    assert!(budget.0 <= bytes && budget.1 < uniform.1 && budget.2 < uniform.2);

    for seed in 0..3 {
        let random = measured(&source, &by_chance(&source, seed));
        println!(
            "{:>10} {:12.5} {:12.5}  by chance",
            random.0, random.1, random.2
        );
        assert!(random.0 >= bytes * 98 / 100, "it is not of the same size");
        assert!(budget.1 < random.1 && budget.2 < random.2);
    }
}

/// Q3_K, and Q6_K for matrices that chance chooses, until all take about what Q4_K does.
fn by_chance(source: &Source, seed: u64) -> String {
    let mut matrices: Vec<(&String, usize)> = source
        .tensors
        .iter()
        .filter(|(_, t)| t.shape.len() > 1 && t.shape.last().is_some_and(|cols| cols % 256 == 0))
        .map(|(name, t)| (name, t.values()))
        .collect();
    matrices.sort();
    matrices.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let all: usize = matrices.iter().map(|m| m.1).sum();
    // Bits of a weight: Q3_K 3.4375, Q4_K 4.5, Q6_K 6.5625.
    let mut left = all as f64 * (4.5 - 3.4375);
    let mut keep = Vec::new();
    for (name, values) in matrices {
        if left <= 0.0 {
            break;
        }
        left -= values as f64 * (6.5625 - 3.4375);
        keep.push(format!("\"{name}\" = \"Q6_K\""));
    }
    format!(
        "[precision]\ndefault = \"Q3_K\"\nkeep = {{ {} }}",
        keep.join(", ")
    )
}
