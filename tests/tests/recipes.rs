//! The recipes for boards: what each makes of BAGEL-7B-MoT has room on its board.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kinglet_model::Source;
use kinglet_quant::{Recipe, predict};
use kinglet_tests::root;
use kinglet_tests::shape::Shape;
use kinglet_tests::shape_files::{Filling, write_directory};

const GIB: f64 = (1u64 << 30) as f64;

/// Recipe, what the board's system calls its memory, and what is left of it for everything but weights,
/// in GiB (docs/recipes.md).
const BOARDS: [(&str, f64, f64); 4] = [
    ("orin-nano-8-see", 7.4, 2.0),
    ("orin-nano-8-draw", 7.4, 2.0),
    ("orin-nx-16", 15.3, 4.0),
    ("rk3588-16", 15.6, 4.0),
];

/// Types that take no more memory when they are loaded than in the file (docs/bagel.md).
const COMPACT: [&str; 7] = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q4_K", "Q8_0"];

#[test]
fn what_each_recipe_makes_of_the_release_has_room_on_its_board() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("7b");
    write_directory(&checkpoint, &Shape::RELEASE, Filling::Hollow).unwrap();
    let source = Source::open(&checkpoint).unwrap();
    for (name, memory, reserve) in BOARDS {
        let path = root().join(format!("quant/recipes/{name}.toml"));
        let recipe = Recipe::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(
            !recipe.calibrates(),
            "{name} needs the memory of the source"
        );
        let report = predict(&source, &recipe).unwrap();
        let weights = report.bytes as f64 / GIB;
        println!(
            "{name}: {} bytes, {weights:.2} GiB, {:.2} bits a weight, {} million weights, of {:.1} GiB less {reserve}",
            report.bytes,
            report.bits_per_weight,
            report.parameters / 1_000_000,
            memory,
        );
        assert!(weights <= memory - reserve, "{name}: {weights:.2} GiB");
        for kind in report.types.keys() {
            assert!(COMPACT.contains(&kind.as_str()), "{name}: {kind}");
        }
    }
}
