//! Skipped layers and mixtures of experts.

use kinglet_kernels::Device;
use kinglet_model::config::{Part, Renorm};
use kinglet_model::observe::Stage;
use kinglet_model::{Drawing, Model, Source};

use crate::drawing::sample;
use crate::set::{Set, f32s, ids};
use crate::tools::*;

/// Checks `{prefix}velocity.nocfg.t*` and `{prefix}velocity.cfg4_global.t*`, and the samples.
pub(crate) fn drawings_of<D: Device>(set: &mut Set, model: &Shared<D>, file: &str, prefix: &str) {
    let guides = drawing_guides(set, model);
    let size = drawing_size(set);
    let unit = model.config.latent.token_pixels();
    let grid = (size.1 / unit, size.0 / unit);
    let noise = f32s(set.input(file, "noise"));
    let x = model
        .device
        .upload(&noise, model.config.latent.token_values())
        .unwrap();
    for name in set.names(file) {
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        if let Some(t) = rest.strip_prefix("velocity.nocfg.t") {
            let v = guides
                .main
                .velocity(&x, t.parse().unwrap(), grid, &mut None)
                .unwrap();
            set.check(file, &name, &model.device.download(&v).unwrap());
        } else if let Some(t) = rest.strip_prefix("velocity.cfg4_global.t") {
            let mut options = options(size, Renorm::Global);
            options.guidance.interval = (0.0, 1.0);
            let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
            let v = drawing.velocity(t.parse().unwrap()).unwrap();
            set.check(file, &name, &model.device.download(&v).unwrap());
        } else if let Some(timesteps) = rest.strip_suffix(".latent_final") {
            let timesteps = timesteps.trim_start_matches('n').parse().unwrap();
            let sample_prefix = name.trim_end_matches(".latent_final");
            sample(set, model, file, sample_prefix, |o| o.timesteps = timesteps);
        }
    }
}

pub(crate) fn skipped<D: Device>(set: &mut Set, source: &Source, make: &dyn Fn() -> D) {
    const FILE: &str = "moe/depth_pruning.safetensors";
    let mut prefixes: Vec<String> = set
        .names(FILE)
        .iter()
        .filter(|name| name.starts_with("skip_"))
        .map(|name| name.split('.').next().unwrap().to_owned())
        .collect();
    prefixes.dedup();
    for prefix in prefixes {
        // skip_und_block_1_2
        let mut words = prefix.split('_').skip(1);
        let (mode, part) = (words.next().unwrap(), words.next().unwrap());
        let part = Part::from_name(part).expect("a known part");
        let mut source = source.clone();
        for layer in words {
            let layer = &mut source.config.language.layers[layer.parse::<usize>().unwrap()];
            match mode {
                "und" => layer.skip_understand = Some(part),
                "gen" => layer.skip_generate = Some(part),
                mode => panic!("the unknown mode {mode}"),
            }
        }
        let model = Model::load(&source, make()).unwrap();
        drawings_of(set, &model, FILE, &format!("{prefix}."));
    }
}

pub(crate) fn experts<D: Device>(set: &mut Set, source: &Source, make: &dyn Fn() -> D) {
    const FILE: &str = "moe/t2i.safetensors";
    // The adapted checkpoint is the dense one with two files replaced.
    let folder = tempfile::tempdir().unwrap();
    for (from, file) in [
        ("checkpoint", "ae.safetensors"),
        ("checkpoint", "config.json"),
        ("checkpoint", "vit_config.json"),
        ("checkpoint", "tokenizer.json"),
        ("moe", "ema.safetensors"),
        ("moe", "llm_config.json"),
    ] {
        std::fs::copy(set.root().join(from).join(file), folder.path().join(file)).unwrap();
    }
    let sparse = set.source(folder.path());
    for name in set.names("moe/ema.safetensors") {
        let gguf = kinglet_model::names::from_original(&name).unwrap();
        assert!(sparse.tensors.contains_key(&gguf));
        set.input("moe/ema.safetensors", &name);
    }
    assert_eq!(sparse.config.vision, source.config.vision);
    let model = Model::load(&sparse, make()).unwrap();
    drawings_of(set, &model, FILE, "");

    // What enters and leaves the experts of the conditional pass.
    let guides = drawing_guides(set, &model);
    let size = drawing_size(set);
    let unit = model.config.latent.token_pixels();
    let grid = (size.1 / unit, size.0 / unit);
    let noise = f32s(set.peek(FILE, "noise"));
    let x = model
        .device
        .upload(&noise, model.config.latent.token_values())
        .unwrap();
    let seen = observe(&model.device, |o| {
        guides.main.velocity(&x, 0.75, grid, &mut Some(o)).unwrap();
    });
    for (stage, values) in last_of_each_stage(seen) {
        experts_stage(set, FILE, stage, &values, &model, |layer| {
            format!("layer{layer}.moe_gen")
        });
    }

    const UND: &str = "moe/understanding.safetensors";
    let meta = set.json("goldens/meta.json");
    let t = &model.tokenizer;
    let mut context = model.context();
    let picture = und_picture(set);
    let seen = observe(&model.device, |o| {
        context.push_resized_image(&picture, &mut Some(o)).unwrap();
    });
    for (stage, values) in &seen {
        let name = |layer| format!("layer{layer}.moe_und.call0");
        experts_stage(set, UND, *stage, values, &model, name);
    }
    language_stages(set, UND, "image.", seen);
    let prompt = t.block(&t.encode(meta["prompt_und"].as_str().unwrap()).unwrap());
    let seen = observe(&model.device, |o| {
        let rows = context.push_ids(&prompt, &mut Some(o)).unwrap();
        let logits = model.language.logits(&model.device, &rows).unwrap();
        set.check(
            UND,
            "prompt.logits",
            &model.device.download(&logits).unwrap(),
        );
    });
    for (stage, values) in &seen {
        let name = |layer| format!("layer{layer}.moe_und.call1");
        experts_stage(set, UND, *stage, values, &model, name);
    }
    language_stages(set, UND, "prompt.", seen);
    let expected = ids(set.peek(UND, "decode.next_tokens"));
    let decoded = decode(&model, &mut context, &expected);
    set.check(UND, "decode.logits", &decoded.logits);
    set.check_choices(UND, "decode.next_tokens", &decoded.next);
}

/// Where both branches are sparse, the generation branch comes after the other one.
pub(crate) fn last_of_each_stage(seen: Vec<(Stage, Vec<f32>)>) -> Vec<(Stage, Vec<f32>)> {
    let mut last: Vec<(Stage, Vec<f32>)> = Vec::new();
    for (stage, values) in seen {
        match last.iter_mut().find(|(s, _)| *s == stage) {
            Some(entry) => entry.1 = values,
            None => last.push((stage, values)),
        }
    }
    last
}

pub(crate) fn experts_stage<D: Device>(
    set: &mut Set,
    file: &str,
    stage: Stage,
    values: &[f32],
    model: &Shared<D>,
    prefix: impl Fn(usize) -> String,
) {
    match stage {
        Stage::ExpertsInput(layer) => {
            set.check_if_there(file, &format!("{}.input", prefix(layer)), values)
        }
        Stage::ExpertsOutput(layer) => {
            set.check_if_there(file, &format!("{}.output", prefix(layer)), values)
        }
        Stage::RouterLogits(layer) => {
            set.check_if_there(file, &format!("{}.router_logits", prefix(layer)), values);
            let experts = model.config.language.layers[layer].experts;
            let chosen: Vec<u32> = values
                .chunks(experts.count)
                .flat_map(|logits| {
                    let mut order: Vec<u32> = (0..experts.count as u32).collect();
                    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
                    order.truncate(experts.used);
                    order.sort_unstable();
                    order
                })
                .collect();
            set.check_choices_if_there(
                file,
                &format!("{}.selected_sorted", prefix(layer)),
                &chosen,
            );
        }
        _ => {}
    }
}
