//! Recipes.
#![no_main]

use kinglet_quant::Recipe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(recipe) = Recipe::parse(text) {
        // What is asked of every recipe before any work.
        let _ = (recipe.calibrates(), recipe.draws(), recipe.passes().len());
        let _ = recipe.precision.budget();
        for name in ["token_embd.weight", "blk.0.ffn_down_exps_gen.weight"] {
            let _ = recipe.precision.choose(name, &[8, 96]);
        }
        for layers in [
            recipe
                .width
                .as_ref()
                .and_then(|w| w.understand.as_ref())
                .map(|k| &k.layers),
            recipe.experts.as_ref().map(|e| &e.layers),
        ] {
            let _ = layers.map(|layers| layers.resolve(28, "layers"));
        }
    }
});
