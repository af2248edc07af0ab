//! Compressing to a budget, and with importance.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use kinglet_model::Source;
use kinglet_quant::{Options, Recipe, Report, compress};

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
