//! Every tensor of a golden set, made by the original code, against this implementation.
//!
//! `KINGLET_GOLDEN_DIR` names another set (a folder with `checkpoint/`, `goldens/` and `moe/`);
//! nothing here depends on the sizes at hand. A tensor that is neither checked nor on the list of
//! what is not covered yet fails the test.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod golden_set;

use std::ops::ControlFlow;

use golden_set::{Set, f32s, ids};
use kinglet_kernels::{Device, Scalar};
use kinglet_model::config::{Part, Renorm};
use kinglet_model::observe::Stage;
use kinglet_model::picture::size_by_rule;
use kinglet_model::recipes::{Guides, THINK_TO_ANSWER, THINK_TO_DRAW};
use kinglet_model::{
    Context, DrawOptions, Drawing, Guidance, Model, Picture, Source, WriteOptions,
};

type Shared = std::sync::Arc<Model<Scalar>>;

/// What is not covered here, by file and the beginning of the tensor's name, with the reason.
const UNCOVERED: &[(&str, &str, &str)] = &[
    ("moe/partition.safetensors", "", "expert partition"),
    (
        "moe/depth_pruning.safetensors",
        "depth_score",
        "depth scores",
    ),
];

#[test]
fn every_golden_tensor_is_reached_or_listed_as_uncovered() {
    let mut set = Set::open();
    let source = Source::open(&set.root().join("checkpoint")).unwrap();
    let model = Model::load(&source, Scalar).unwrap();

    tokenizer(&mut set, &model);
    sizes(&mut set, &source);
    preprocess(&mut set, &source);
    vision(&mut set, &model);
    understanding(&mut set, &model);
    text_only(&mut set, &model);
    velocities(&mut set, &model);
    samples(&mut set, &model);
    taylorseer(&mut set, &model);
    autoencoder(&mut set, &model);
    edit(&mut set, &model);
    think(&mut set, &model);
    skipped(&mut set, &source);
    experts(&mut set, &source);
    checkpoint(&mut set, &source);

    set.finish(UNCOVERED);
}

fn tokenizer(set: &mut Set, model: &Shared) {
    let json = set.json("goldens/tokenizer.json");
    let special = &json["new_token_ids"];
    let t = &model.tokenizer;
    assert_eq!(special["bos_token_id"], t.text_start);
    assert_eq!(special["eos_token_id"], t.text_end);
    assert_eq!(special["start_of_image"], t.picture_start);
    assert_eq!(special["end_of_image"], t.picture_end);
    for vector in json["vectors"].as_array().unwrap() {
        let text = vector["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(vector["ids"].clone()).unwrap();
        let packed: Vec<u32> = serde_json::from_value(vector["packed_prompt_ids"].clone()).unwrap();
        assert_eq!(t.encode(text).unwrap(), expected, "ids of {text:?}");
        assert_eq!(t.block(&expected), packed, "block of {text:?}");
        assert_eq!(
            t.decode(&expected).unwrap(),
            vector["decoded"].as_str().unwrap()
        );
    }
}

fn sizes(set: &mut Set, source: &Source) {
    let json = set.json("goldens/resize_sizes.json");
    let config = &source.config;
    let release = |max, min, stride| kinglet_model::config::PictureRule {
        max,
        min,
        stride,
        max_pixels: config.latent.rule.max_pixels,
    };
    let mut tables = 0;
    for (name, rows) in json.as_object().unwrap() {
        let rule = match name.as_str() {
            "columns" => continue,
            "this_checkpoint_vae_transform" => config.latent.rule,
            "this_checkpoint_vit_transform" => config.vision.rule,
            name => {
                // real_release_vae_transform(1024,512,16)
                let inner = name.split(['(', ')']).nth(1).unwrap();
                let numbers: Vec<usize> = inner.split(',').map(|n| n.parse().unwrap()).collect();
                release(numbers[0], numbers[1], numbers[2])
            }
        };
        for row in rows.as_array().unwrap() {
            let row: [usize; 4] = serde_json::from_value(row.clone()).unwrap();
            assert_eq!(
                size_by_rule(row[0], row[1], &rule),
                (row[2], row[3]),
                "{name}: {row:?}"
            );
        }
        tables += 1;
    }
    assert!(tables >= 2);
}

const PREPROCESS: &str = "goldens/preprocess.safetensors";

fn preprocess(set: &mut Set, source: &Source) {
    let config = &source.config;
    for name in ["und", "edit", "big", "small"] {
        let original = set.picture(PREPROCESS, &format!("{name}.image_u8"));
        let by_vae = original.resized(&config.latent.rule).unwrap();
        set.check_picture(PREPROCESS, &format!("{name}.after_vae_resize_u8"), &by_vae);
        if name == "big" || name == "small" {
            let by_vit = original.resized(&config.vision.rule).unwrap();
            set.check_picture(PREPROCESS, &format!("{name}.after_vit_resize_u8"), &by_vit);
            continue;
        }
        let twice = by_vae.resized(&config.vision.rule).unwrap();
        let direct = original.resized(&config.vision.rule).unwrap();
        let name = |part: &str| format!("{name}.{part}");
        set.check_picture(PREPROCESS, &name("vit_resized_from_vae_resized_u8"), &twice);
        set.check(PREPROCESS, &name("vae_tensor"), &planes(&by_vae));
        set.check(PREPROCESS, &name("vit_tensor"), &planes(&twice));
        set.check(PREPROCESS, &name("vit_tensor_direct"), &planes(&direct));
        let (patches, _, _) = twice.patches(config.vision.patch).unwrap();
        set.check(PREPROCESS, &name("vit_patches"), &patches);
    }
}

/// `[3, height, width]`, as the set stores pictures.
fn planes(picture: &Picture) -> Vec<f32> {
    channels_first(&picture.normalised(), 3)
}

fn channels_first(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    let at = |i: usize| values[i % pixels * channels + i / pixels];
    (0..values.len()).map(at).collect()
}

fn channels_last(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    let at = |i: usize| values[i % channels * pixels + i / channels];
    (0..values.len()).map(at).collect()
}

fn und_picture(set: &Set) -> Picture {
    set.peek_picture(PREPROCESS, "und.vit_resized_from_vae_resized_u8")
}

fn vision(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/vit.safetensors";
    let picture = und_picture(set);
    let (patches, rows, columns) = picture.patches(model.config.vision.patch).unwrap();
    set.check(FILE, "patches", &patches);
    let places =
        kinglet_model::vision::grid(rows, columns, model.config.vision.position_side).unwrap();
    set.check_ids(FILE, "position_ids", &places);
    let mut seen = Vec::new();
    let mut observer = |stage, x: &_| seen.push((stage, Scalar.download(x).unwrap()));
    model
        .vision
        .see(&model.device, &picture, &mut Some(&mut observer))
        .unwrap();
    for (stage, values) in seen {
        let name = match stage {
            Stage::VisionInput => "patch_embed_plus_pos".to_owned(),
            Stage::VisionLayer(i) => format!("encoder_layer_out.{i}"),
            Stage::VisionOutput => "vit_features".to_owned(),
            Stage::Connector => "connector_out".to_owned(),
            Stage::ConnectorPlaced => "connector_out_plus_pos".to_owned(),
            _ => unreachable!("the vision encoder has no {stage:?}"),
        };
        set.check(FILE, &name, &values);
    }
}

/// Checks what an observer saw of the language half under `prefix`.
fn language_stages(set: &mut Set, file: &str, prefix: &str, seen: Vec<(Stage, Vec<f32>)>) {
    for (stage, values) in seen {
        let name = match stage {
            Stage::LanguageInput => format!("{prefix}llm_input"),
            Stage::LanguageLayer(i) => format!("{prefix}layer_out.{i}"),
            Stage::LanguageOutput => format!("{prefix}llm_output_normed"),
            Stage::Time => format!("{prefix}timestep_embedding"),
            _ => continue,
        };
        set.check_if_there(file, &name, &values);
    }
}

fn observe(
    run: impl FnOnce(&mut dyn FnMut(Stage, &<Scalar as Device>::Buffer)),
) -> Vec<(Stage, Vec<f32>)> {
    let mut seen = Vec::new();
    run(&mut |stage, x| seen.push((stage, Scalar.download(x).unwrap())));
    seen
}

fn understanding(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/understanding.safetensors";
    let meta = set.json("goldens/meta.json");
    let t = &model.tokenizer;
    set.check_ids(FILE, "image.text_ids", &[t.picture_start, t.picture_end]);

    let mut context = model.context();
    let picture = und_picture(set);
    let position = context.position();
    let seen = observe(|o| {
        context.push_resized_image(&picture, &mut Some(o)).unwrap();
    });
    language_stages(set, FILE, "image.", seen);
    assert_sizes(&meta["und.after_image(kv_len,rope)"], &context);
    set.check_ids(
        FILE,
        "image.rope_position_ids",
        &vec![position; context.tokens()],
    );

    let prompt = t.block(&t.encode(meta["prompt_und"].as_str().unwrap()).unwrap());
    set.check_ids(FILE, "prompt.ids", &prompt);
    let start = context.position();
    let seen = observe(|o| {
        let rows = context.push_ids(&prompt, &mut Some(o)).unwrap();
        let logits = model.language.logits(&model.device, &rows).unwrap();
        set.check(FILE, "prompt.logits", &Scalar.download(&logits).unwrap());
    });
    language_stages(set, FILE, "prompt.", seen);
    let positions: Vec<u32> = (start..context.position()).collect();
    set.check_ids(FILE, "prompt.rope_position_ids", &positions);
    assert_sizes(&meta["und.after_text(kv_len,rope)"], &context);

    for (layer, runs) in context.caches().iter().enumerate() {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for run in runs {
            let (k, v) = Scalar.cache_read(run).unwrap();
            keys.extend(Scalar.download(&k).unwrap());
            values.extend(Scalar.download(&v).unwrap());
        }
        set.check_if_there(FILE, &format!("kv_cache.key.{layer}"), &keys);
        set.check_if_there(FILE, &format!("kv_cache.value.{layer}"), &values);
    }

    // Our own decoder must take the set's path; the logits of each step are then compared.
    let expected = ids(set.peek(FILE, "decode.next_tokens"));
    let end = expected.iter().position(|id| *id == t.text_end);
    let written = context
        .fork()
        .write(&WriteOptions::greedy(expected.len() - 1), &mut go_on)
        .unwrap();
    let ours = t
        .decode(&expected[..end.unwrap_or(expected.len()).min(expected.len() - 1)])
        .unwrap();
    assert_eq!(written.text, ours, "greedy decoding took another path");

    let (mut logits, mut fed, mut next, mut positions) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut token = t.text_start;
    for _ in &expected {
        fed.push(token);
        positions.push(context.position());
        let rows = context.push_ids(&[token], &mut None).unwrap();
        let step = model.language.logits(&model.device, &rows).unwrap();
        let step = Scalar.download(&step).unwrap();
        let best = |a: usize, b: usize| if step[b] > step[a] { b } else { a };
        token = (0..step.len()).reduce(best).unwrap() as u32;
        next.push(token);
        logits.extend(step);
    }
    set.check(FILE, "decode.logits", &logits);
    set.check_ids(FILE, "decode.input_tokens", &fed);
    set.check_ids(FILE, "decode.next_tokens", &next);
    set.check_ids(FILE, "decode.rope_position_ids", &positions);
}

fn assert_sizes(expected: &serde_json::Value, context: &Context<Scalar>) {
    let [tokens, position]: [usize; 2] = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(
        (context.tokens(), context.position() as usize),
        (tokens, position)
    );
}

fn text_only(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/text_only.safetensors";
    let prompt = ids(set.peek(FILE, "prompt.ids"));
    let meta = set.json("goldens/meta.json");
    let t = &model.tokenizer;
    let block = t.block(&t.encode(meta["prompt_t2i"].as_str().unwrap()).unwrap());
    assert_eq!(block, prompt, "the prompt of text_only is prompt_t2i");
    set.check_ids(FILE, "prompt.ids", &block);
    let seen = observe(|o| {
        let rows = model.context().push_ids(&block, &mut Some(o)).unwrap();
        let logits = model.language.logits(&model.device, &rows).unwrap();
        set.check(FILE, "prompt.logits", &Scalar.download(&logits).unwrap());
    });
    language_stages(set, FILE, "prompt.", seen);
}

/// The prompt's context and the empty one.
fn drawing_guides(set: &mut Set, model: &Shared) -> Guides<Scalar> {
    let meta = set.json("goldens/meta.json");
    let prompt = meta["prompt_t2i"].as_str().unwrap();
    let guides = Guides::to_draw(model, prompt, false).unwrap();
    // A skipped layer keeps no keys, but its tokens count.
    assert_sizes(&meta["t2i.ctx(kv_len,rope)"], &guides.main);
    assert_sizes(&meta["t2i.cfg_text_ctx(kv_len,rope)"], &guides.unprompted);
    guides
}

fn go_on(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options(size: (usize, usize), renorm: Renorm) -> DrawOptions {
    DrawOptions {
        size,
        timesteps: 8,
        shift: 3.0,
        guidance: Guidance {
            text_scale: 4.0,
            picture_scale: 1.0,
            interval: (0.4, 1.0),
            renorm,
            renorm_min: 0.0,
        },
        seed: 0,
        predict: false,
    }
}

/// Width and height of the set's drawings.
fn drawing_size(set: &Set) -> (usize, usize) {
    let hw = ids(set.peek(VELOCITY, "image_hw"));
    (hw[1] as usize, hw[0] as usize)
}

const VELOCITY: &str = "goldens/t2i_velocity.safetensors";

fn velocities(set: &mut Set, model: &Shared) {
    let guides = drawing_guides(set, model);
    let (main, empty) = (&guides.main, &guides.unprompted);
    let size = drawing_size(set);
    set.check_ids(VELOCITY, "image_hw", &[size.1 as u32, size.0 as u32]);
    let pixels = model.config.latent.token_pixels();
    let grid = (size.1 / pixels, size.0 / pixels);
    let places = model.latents.places(grid.0, grid.1).unwrap();
    let tokens = places.len() as u32 + 2;
    set.check_ids(VELOCITY, "latent_position_ids", &places);
    set.check_ids(
        VELOCITY,
        "rope_position_ids",
        &vec![main.position(); tokens as usize],
    );
    set.check_ids(
        VELOCITY,
        "cfg_text.rope_position_ids",
        &vec![empty.position(); tokens as usize],
    );
    set.check_ids(VELOCITY, "packed_text_indexes", &[0, tokens - 1]);
    set.check_ids(
        VELOCITY,
        "packed_vae_token_indexes",
        &(1..tokens - 1).collect::<Vec<_>>(),
    );
    let t = &model.tokenizer;
    let meta = set.json("goldens/meta.json");
    let prompt = t.block(&t.encode(meta["prompt_t2i"].as_str().unwrap()).unwrap());
    set.check_ids(VELOCITY, "prompt.ids", &prompt);

    let noise = f32s(set.input(VELOCITY, "noise"));
    let x = model
        .device
        .upload(&noise, model.config.latent.token_values())
        .unwrap();
    for name in set.names(VELOCITY) {
        let mut parts = name.splitn(3, '.');
        let (Some("velocity"), Some(kind), Some(t)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let t: f32 = t.trim_start_matches('t').parse().unwrap();
        let guided = |renorm, renorm_min| {
            let mut options = options(size, renorm);
            options.guidance.renorm_min = renorm_min;
            options.guidance.interval = (0.0, 1.0);
            let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
            drawing.velocity(t).unwrap()
        };
        let velocity = match kind {
            "nocfg" => main.velocity(&x, t, grid, &mut None).unwrap(),
            "uncond" => empty.velocity(&x, t, grid, &mut None).unwrap(),
            "cfg4_global" => guided(Renorm::Global, 0.0),
            "cfg4_global_renormmin1" => guided(Renorm::Global, 1.0),
            "cfg4_channel" => guided(Renorm::Channel, 0.0),
            "cfg4_text_channel" => guided(Renorm::TextChannel, 0.0),
            _ => continue,
        };
        set.check(VELOCITY, &name, &Scalar.download(&velocity).unwrap());
    }

    for name in set.names(VELOCITY) {
        let Some(rest) = name.strip_prefix("pass.t") else {
            continue;
        };
        let Some(time) = rest.strip_suffix(".timestep_embedding") else {
            continue;
        };
        let seen = observe(|o| {
            main.velocity(&x, time.parse().unwrap(), grid, &mut Some(o))
                .unwrap();
        });
        language_stages(set, VELOCITY, &format!("pass.t{time}."), seen);
    }
}

/// Runs a whole drawing and checks what the set holds of it.
fn sample(
    set: &mut Set,
    model: &Shared,
    file: &str,
    prefix: &str,
    change: impl FnOnce(&mut DrawOptions),
) {
    let guides = drawing_guides(set, model);
    let mut options = options(drawing_size(set), Renorm::Global);
    change(&mut options);
    let noise = f32s(set.input(file, "noise"));
    let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
    let times = drawing.times().to_vec();
    let steps = options.steps();
    let passes: Vec<u32> = times[..steps]
        .iter()
        .map(|t| 1 + u32::from(drawing.guided(*t)))
        .collect();
    set.check_if_there(file, &format!("{prefix}.timesteps"), &times[..steps]);
    set.check_ids_if_there(file, &format!("{prefix}.passes_per_step"), &passes);
    for i in 0..steps {
        let x = Scalar.download(drawing.latents()).unwrap();
        set.check_if_there(file, &format!("{prefix}.x_t.{i}"), &x);
        let v = drawing.step(i).unwrap();
        set.check_if_there(
            file,
            &format!("{prefix}.v.{i}"),
            &Scalar.download(&v).unwrap(),
        );
    }
    let last = Scalar.download(drawing.latents()).unwrap();
    set.check_sample(file, &format!("{prefix}.latent_final"), &last);
}

fn samples(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/t2i_sample.safetensors";
    for name in set.names(FILE) {
        let Some(prefix) = name.strip_suffix(".latent_final") else {
            continue;
        };
        // n8, n8_interval0to1, n8_shift1_nocfg
        let mut parts = prefix.split('_');
        let timesteps = parts
            .next()
            .unwrap()
            .trim_start_matches('n')
            .parse()
            .unwrap();
        sample(set, model, FILE, prefix, |o| {
            o.timesteps = timesteps;
            for part in parts {
                match part {
                    "interval0to1" => o.guidance.interval = (0.0, 1.0),
                    "shift1" => o.shift = 1.0,
                    "nocfg" => o.guidance.text_scale = 1.0,
                    part => panic!("the sample {prefix} has the unknown setting {part}"),
                }
            }
        });
    }
}

fn taylorseer(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/taylorseer.safetensors";
    for name in set.names(FILE) {
        let Some(prefix) = name.strip_suffix(".latent_final") else {
            continue;
        };
        // n16_plain, n16_taylorseer
        let (timesteps, kind) = prefix.split_once('_').unwrap();
        let timesteps = timesteps.trim_start_matches('n').parse().unwrap();
        sample(set, model, FILE, prefix, |o| {
            o.timesteps = timesteps;
            o.guidance.interval = (0.0, 1.0);
            o.predict = kind == "taylorseer";
        });
    }
}

/// A picture whose normalised values, `[3, height, width]`, are in the set.
fn picture_of(set: &mut Set, file: &str, name: &str) -> Picture {
    let shape = set.shape(file, name);
    let values = channels_last(&f32s(set.input(file, name)), 3);
    let byte = |v: &f32| ((v * 0.5 + 0.5) * 255.0).round() as u8;
    let rgb = values.iter().map(byte).collect();
    Picture::from_rgb(shape[2], shape[1], rgb).unwrap()
}

fn edit(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/edit.safetensors";
    let meta = set.json("goldens/meta.json");
    let (t, latent) = (&model.tokenizer, &model.config.latent);
    let for_latents = picture_of(set, FILE, "image_vae_tensor");
    let for_seeing = picture_of(set, FILE, "image_vit_tensor");
    let noise = channels_last(&f32s(set.input(FILE, "vae_noise")), latent.channels);

    let mut main = model.context();
    let block = |context: &Context<Scalar>, before: usize| {
        vec![context.position() - 1; context.tokens() - before]
    };
    let seen = observe(|o| {
        main.push_latents(&for_latents, &noise, &mut Some(o))
            .unwrap();
    });
    language_stages(set, FILE, "vae_block.", seen);
    set.check_ids(FILE, "vae_block.rope_position_ids", &block(&main, 0));
    let before = main.tokens();
    let seen = observe(|o| {
        main.push_resized_image(&for_seeing, &mut Some(o)).unwrap();
    });
    language_stages(set, FILE, "vit_block.", seen);
    set.check_ids(FILE, "vit_block.rope_position_ids", &block(&main, before));
    assert_sizes(&meta["edit.after_image(kv_len,rope)"], &main);

    let unprompted = main.fork();
    assert_sizes(&meta["edit.cfg_text_ctx"], &unprompted);
    let prompt = meta["prompt_edit"].as_str().unwrap();
    let ids = t.block(&t.encode(prompt).unwrap());
    set.check_ids(FILE, "prompt.ids", &ids);
    let start = main.position();
    let seen = observe(|o| {
        main.push_ids(&ids, &mut Some(o)).unwrap();
    });
    language_stages(set, FILE, "text_block.", seen);
    let positions: Vec<u32> = (start..main.position()).collect();
    set.check_ids(FILE, "text_block.rope_position_ids", &positions);
    assert_sizes(&meta["edit.ctx(kv_len,rope)"], &main);
    let mut pictureless = model.context();
    pictureless.push_text(prompt).unwrap();
    assert_sizes(&meta["edit.cfg_img_ctx"], &pictureless);

    // The same by the recipe, but for the noise.
    let original = set.peek_picture(PREPROCESS, "edit.image_u8");
    let (recipe, resized) = Guides::to_edit(model, &original, prompt, 0, false).unwrap();
    assert_eq!(resized, for_latents);
    assert_sizes(&meta["edit.ctx(kv_len,rope)"], &recipe.main);
    assert_sizes(&meta["edit.cfg_text_ctx"], &recipe.unprompted);
    assert_sizes(
        &meta["edit.cfg_img_ctx"],
        recipe.pictureless.as_ref().unwrap(),
    );

    let hw = golden_set::ids(set.peek(FILE, "image_hw"));
    set.check_ids(FILE, "image_hw", &hw);
    let size = (hw[1] as usize, hw[0] as usize);
    assert_eq!(size, (for_latents.width(), for_latents.height()));
    let unit = latent.token_pixels();
    let grid = (size.1 / unit, size.0 / unit);
    let places = model.latents.places(grid.0, grid.1).unwrap();
    set.check_ids(FILE, "latent_position_ids", &places);
    set.check_ids(
        FILE,
        "rope_position_ids",
        &vec![main.position(); places.len() + 2],
    );

    let guides = Guides {
        main,
        unprompted,
        pictureless: Some(pictureless),
    };
    let noise = f32s(set.input(FILE, "noise"));
    let x = model.device.upload(&noise, latent.token_values()).unwrap();
    let mut options = options(size, Renorm::Global);
    options.guidance.picture_scale = 2.0;
    options.guidance.interval = (0.0, 1.0);
    options.timesteps = 4;
    for name in set.names(FILE) {
        let parts: Vec<&str> = name.splitn(3, '.').collect();
        if let ["velocity", kind, t] = parts[..] {
            let t: f32 = t.trim_start_matches('t').parse().unwrap();
            let branch =
                |context: &Context<Scalar>| context.velocity(&x, t, grid, &mut None).unwrap();
            let velocity = match kind {
                "nocfg" => branch(&guides.main),
                "cfg_text_branch" => branch(&guides.unprompted),
                "cfg_img_branch" => branch(guides.pictureless.as_ref().unwrap()),
                kind => {
                    let renorm = kind.strip_prefix("cfg4_img2_").expect("a known velocity");
                    options.guidance.renorm = Renorm::from_name(renorm).unwrap();
                    let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
                    drawing.velocity(t).unwrap()
                }
            };
            set.check(FILE, &name, &Scalar.download(&velocity).unwrap());
        } else if let Some(renorm) = name.strip_suffix(".latent_final") {
            let renorm = renorm.strip_prefix("n4_").expect("a known sample");
            options.guidance.renorm = Renorm::from_name(renorm).unwrap();
            let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
            drawing.run(&mut |_| ControlFlow::Continue(())).unwrap();
            let last = Scalar.download(drawing.latents()).unwrap();
            set.check_sample(FILE, &name, &last);
            let (rows, columns) = grid;
            let picture = model
                .latents
                .unpack(&model.device, drawing.latents(), rows, columns)
                .unwrap();
            let (h, w) = (rows * latent.patch, columns * latent.patch);
            let pixels = model
                .autoencoder
                .decode(&model.device, &picture, h, w)
                .unwrap();
            let pixels = channels_first(&Scalar.download(&pixels).unwrap(), 3);
            let image = name.replace("latent_final", "image_float");
            if set.names(FILE).contains(&image) {
                set.check_sample(FILE, &image, &pixels);
            }
        }
    }
}

fn think(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/think.safetensors";
    let tokenizer = set.json("goldens/tokenizer.json");
    let texts: Vec<&str> = tokenizer["vectors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["text"].as_str().unwrap())
        .collect();
    for text in [THINK_TO_ANSWER, THINK_TO_DRAW] {
        assert!(texts.contains(&text), "{text:?} is not the reference's");
    }
    let meta = set.json("goldens/meta.json");
    let prompt = meta["prompt_t2i"].as_str().unwrap();
    let mut guides = Guides::to_draw(model, prompt, true).unwrap();
    guides
        .main
        .push_text(meta["think.thought_text"].as_str().unwrap())
        .unwrap();
    assert_sizes(&meta["think.ctx"], &guides.main);
    assert_sizes(&meta["think.cfg_text_ctx"], &guides.unprompted);
    let tokens = set.shape(FILE, "rope_position_ids")[0];
    set.check_ids(
        FILE,
        "rope_position_ids",
        &vec![guides.main.position(); tokens],
    );
    set.check_ids(
        FILE,
        "cfg_text.rope_position_ids",
        &vec![guides.unprompted.position(); tokens],
    );
    let mut options = options(drawing_size(set), Renorm::Global);
    options.timesteps = 4;
    let noise = f32s(set.input(FILE, "noise"));
    let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
    drawing.run(&mut |_| ControlFlow::Continue(())).unwrap();
    set.check_sample(
        FILE,
        "n4.latent_final",
        &Scalar.download(drawing.latents()).unwrap(),
    );
}

/// Checks `{prefix}velocity.nocfg.t*` and `{prefix}velocity.cfg4_global.t*`, and the samples.
fn drawings_of(set: &mut Set, model: &Shared, file: &str, prefix: &str) {
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
            set.check(file, &name, &Scalar.download(&v).unwrap());
        } else if let Some(t) = rest.strip_prefix("velocity.cfg4_global.t") {
            let mut options = options(size, Renorm::Global);
            options.guidance.interval = (0.0, 1.0);
            let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
            let v = drawing.velocity(t.parse().unwrap()).unwrap();
            set.check(file, &name, &Scalar.download(&v).unwrap());
        } else if let Some(timesteps) = rest.strip_suffix(".latent_final") {
            let timesteps = timesteps.trim_start_matches('n').parse().unwrap();
            let sample_prefix = name.trim_end_matches(".latent_final");
            sample(set, model, file, sample_prefix, |o| o.timesteps = timesteps);
        }
    }
}

fn skipped(set: &mut Set, source: &Source) {
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
        let model = Model::load(&source, Scalar).unwrap();
        drawings_of(set, &model, FILE, &format!("{prefix}."));
    }
}

fn experts(set: &mut Set, source: &Source) {
    const FILE: &str = "moe/t2i.safetensors";
    // The adapted checkpoint is the dense one with two files replaced.
    let folder = std::env::temp_dir().join(format!("kinglet-golden-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (from, file) in [
        ("checkpoint", "ae.safetensors"),
        ("checkpoint", "config.json"),
        ("checkpoint", "vit_config.json"),
        ("checkpoint", "tokenizer.json"),
        ("moe", "ema.safetensors"),
        ("moe", "llm_config.json"),
    ] {
        std::fs::copy(set.root().join(from).join(file), folder.join(file)).unwrap();
    }
    let sparse = Source::open(&folder).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    for name in set.names("moe/ema.safetensors") {
        let gguf = kinglet_model::names::from_original(&name).unwrap();
        assert!(sparse.tensors.contains_key(&gguf));
        set.input("moe/ema.safetensors", &name);
    }
    assert_eq!(sparse.config.vision, source.config.vision);
    let model = Model::load(&sparse, Scalar).unwrap();
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
    let seen = observe(|o| {
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
    let seen = observe(|o| {
        context.push_resized_image(&picture, &mut Some(o)).unwrap();
    });
    for (stage, values) in &seen {
        let name = |layer| format!("layer{layer}.moe_und.call0");
        experts_stage(set, UND, *stage, values, &model, name);
    }
    language_stages(set, UND, "image.", seen);
    let prompt = t.block(&t.encode(meta["prompt_und"].as_str().unwrap()).unwrap());
    let seen = observe(|o| {
        let rows = context.push_ids(&prompt, &mut Some(o)).unwrap();
        let logits = model.language.logits(&model.device, &rows).unwrap();
        set.check(UND, "prompt.logits", &Scalar.download(&logits).unwrap());
    });
    for (stage, values) in &seen {
        let name = |layer| format!("layer{layer}.moe_und.call1");
        experts_stage(set, UND, *stage, values, &model, name);
    }
    language_stages(set, UND, "prompt.", seen);
    let expected = ids(set.peek(UND, "decode.next_tokens"));
    let (mut logits, mut next, mut token) = (Vec::new(), Vec::new(), t.text_start);
    for _ in &expected {
        let rows = context.push_ids(&[token], &mut None).unwrap();
        let step = model.language.logits(&model.device, &rows).unwrap();
        let step = Scalar.download(&step).unwrap();
        let best = |a: usize, b: usize| if step[b] > step[a] { b } else { a };
        token = (0..step.len()).reduce(best).unwrap() as u32;
        next.push(token);
        logits.extend(step);
    }
    set.check(UND, "decode.logits", &logits);
    set.check_ids(UND, "decode.next_tokens", &next);
}

/// Where both branches are sparse, the generation branch comes after the other one.
fn last_of_each_stage(seen: Vec<(Stage, Vec<f32>)>) -> Vec<(Stage, Vec<f32>)> {
    let mut last: Vec<(Stage, Vec<f32>)> = Vec::new();
    for (stage, values) in seen {
        match last.iter_mut().find(|(s, _)| *s == stage) {
            Some(entry) => entry.1 = values,
            None => last.push((stage, values)),
        }
    }
    last
}

fn experts_stage(
    set: &mut Set,
    file: &str,
    stage: Stage,
    values: &[f32],
    model: &Shared,
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
            set.check_ids_if_there(file, &format!("{}.selected_sorted", prefix(layer)), &chosen);
        }
        _ => {}
    }
}

fn autoencoder(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/vae.safetensors";
    let (d, ae) = (&model.device, &model.autoencoder);
    let latent = &model.config.latent;
    let (channels, patch) = (latent.channels, latent.patch);

    let shape = set.shape(FILE, "decode.latent_nchw");
    let (height, width) = (shape[2], shape[3]);
    let tokens = d
        .upload(
            &f32s(set.input(FILE, "decode.packed_latent")),
            latent.token_values(),
        )
        .unwrap();
    let (rows, columns) = (height / patch, width / patch);
    let picture = model.latents.unpack(d, &tokens, rows, columns).unwrap();
    let unpacked = Scalar.download(&picture).unwrap();
    set.check(
        FILE,
        "decode.latent_nchw",
        &channels_first(&unpacked, channels),
    );
    let packed = model.latents.pack(d, &picture, rows, columns).unwrap();
    assert_eq!(
        Scalar.download(&packed).unwrap(),
        Scalar.download(&tokens).unwrap()
    );
    let pixels = Scalar
        .download(&ae.decode(d, &picture, height, width).unwrap())
        .unwrap();
    set.check(FILE, "decode.image_float", &channels_first(&pixels, 3));
    set.check_bytes(
        FILE,
        "decode.image_u8",
        &kinglet_model::autoencoder::to_bytes(&pixels),
    );

    let shape = set.shape(FILE, "encode.image");
    let (height, width) = (shape[2], shape[3]);
    let image = channels_last(&f32s(set.input(FILE, "encode.image")), 3);
    let moments = ae
        .moments(d, &d.upload(&image, 3).unwrap(), height, width)
        .unwrap();
    let values = Scalar.download(&moments).unwrap();
    set.check(
        FILE,
        "encode.moments",
        &channels_first(&values, 2 * channels),
    );
    let noise = channels_last(&f32s(set.input(FILE, "encode.noise")), channels);
    let noise = d.upload(&noise, channels).unwrap();
    for (name, noise) in [("sampled", Some(&noise)), ("mean", None)] {
        let latents = ae.latents(d, &moments, noise).unwrap();
        let values = Scalar.download(&latents).unwrap();
        set.check(
            FILE,
            &format!("encode.latent_{name}"),
            &channels_first(&values, channels),
        );
        if noise.is_none() {
            let (height, width) = (height / latent.downsample, width / latent.downsample);
            let back = ae.decode(d, &latents, height, width).unwrap();
            let back = Scalar.download(&back).unwrap();
            set.check(FILE, "roundtrip.decode_of_mean", &channels_first(&back, 3));
        }
    }
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
