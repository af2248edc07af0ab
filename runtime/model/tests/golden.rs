//! Every tensor of a golden set, made by the original code, against this implementation.
//!
//! `KINGLET_GOLDEN_DIR` names another set (a folder with `checkpoint/`, `goldens/` and `moe/`);
//! nothing here depends on the sizes at hand. A tensor that is neither checked nor on the list of
//! what is not covered yet fails the test.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod golden_set;

use golden_set::{Set, f32s, ids};
use kinglet_kernels::{Device, Scalar};
use kinglet_model::config::Renorm;
use kinglet_model::observe::Stage;
use kinglet_model::picture::size_by_rule;
use kinglet_model::{Context, DrawOptions, Drawing, Guidance, Model, Picture, Source};

type Shared = std::sync::Arc<Model<Scalar>>;

/// What is not covered yet, by file and the beginning of the tensor's name, with the reason.
const UNCOVERED: &[(&str, &str, &str)] = &[
    ("goldens/edit.safetensors", "", "editing"),
    ("goldens/think.safetensors", "", "thinking"),
    (
        "goldens/taylorseer.safetensors",
        "n16_taylorseer.",
        "TaylorSeer",
    ),
    (
        "goldens/t2i_velocity.safetensors",
        "velocity.cfg4_text_channel.",
        "the text_channel renorm",
    ),
    ("moe/ema.safetensors", "", "mixture of experts"),
    ("moe/t2i.safetensors", "", "mixture of experts"),
    ("moe/understanding.safetensors", "", "mixture of experts"),
    ("moe/partition.safetensors", "", "expert partition"),
    ("moe/depth_pruning.safetensors", "", "layer skipping"),
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
    taylorseer_plain(&mut set, &model);
    autoencoder(&mut set, &model);
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
        .write(expected.len() - 1, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
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
fn drawing_contexts(set: &mut Set, model: &Shared) -> (Context<Scalar>, Context<Scalar>) {
    let meta = set.json("goldens/meta.json");
    let mut main = model.context();
    main.push_text(meta["prompt_t2i"].as_str().unwrap())
        .unwrap();
    assert_sizes(&meta["t2i.ctx(kv_len,rope)"], &main);
    let empty = model.context();
    assert_sizes(&meta["t2i.cfg_text_ctx(kv_len,rope)"], &empty);
    (main, empty)
}

fn options(size: (usize, usize), renorm: Renorm) -> DrawOptions {
    DrawOptions {
        size,
        timesteps: 8,
        shift: 3.0,
        guidance: Guidance {
            text_scale: 4.0,
            interval: (0.4, 1.0),
            renorm,
            renorm_min: 0.0,
        },
        seed: 0,
    }
}

/// Width and height of the set's drawings.
fn drawing_size(set: &Set) -> (usize, usize) {
    let hw = ids(set.peek(VELOCITY, "image_hw"));
    (hw[1] as usize, hw[0] as usize)
}

const VELOCITY: &str = "goldens/t2i_velocity.safetensors";

fn velocities(set: &mut Set, model: &Shared) {
    let (main, empty) = drawing_contexts(set, model);
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
            let drawing = Drawing::from_noise(&main, &empty, &options, &noise).unwrap();
            drawing.velocity(t).unwrap()
        };
        let velocity = match kind {
            "nocfg" => main.velocity(&x, t, grid, &mut None).unwrap(),
            "uncond" => empty.velocity(&x, t, grid, &mut None).unwrap(),
            "cfg4_global" => guided(Renorm::Global, 0.0),
            "cfg4_global_renormmin1" => guided(Renorm::Global, 1.0),
            "cfg4_channel" => guided(Renorm::Channel, 0.0),
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
    let (main, empty) = drawing_contexts(set, model);
    let mut options = options(drawing_size(set), Renorm::Global);
    change(&mut options);
    let noise = f32s(set.input(file, "noise"));
    let mut drawing = Drawing::from_noise(&main, &empty, &options, &noise).unwrap();
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

fn taylorseer_plain(set: &mut Set, model: &Shared) {
    const FILE: &str = "goldens/taylorseer.safetensors";
    for name in set.names(FILE) {
        let Some(timesteps) = name.strip_suffix("_plain.latent_final") else {
            continue;
        };
        let timesteps = timesteps.trim_start_matches('n').parse().unwrap();
        let prefix = name.trim_end_matches(".latent_final");
        sample(set, model, FILE, prefix, |o| {
            o.timesteps = timesteps;
            o.guidance.interval = (0.0, 1.0);
        });
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
