//! Recipes from end to end: what they refuse, what they make, and that what they make runs.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet_container::tensors::SafeTensors;
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::{Cpu, Device, Scalar};
use kinglet_model::config::Part;
use kinglet_model::recipes::{Guides, to_answer};
use kinglet_model::{DrawOptions, Drawing, Model, Source, WriteOptions, directory};
use kinglet_quant::calibration::{Calibrate, calibrate};
use kinglet_quant::{Options, Recipe, Report, Result, compress, predict};

/// The least calibration.
const LITTLE: &str = "[calibration]\ncount = 2\ntimesteps = 3\ntokens = 512\n";
const F32: &str = "[precision]\ndefault = \"F32\"\n";

fn golden() -> PathBuf {
    match std::env::var_os("KINGLET_GOLDEN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden"),
    }
}

fn tiny() -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/assets/kinglet-tiny.gguf");
    Source::open(&path).unwrap()
}

fn run(source: &Source, recipe: &str, out: &Path) -> Result<Report> {
    compress(
        source,
        &Recipe::parse(recipe)?,
        out,
        &Options::default(),
        &mut |_, _, _| {},
    )
}

/// The result of a recipe on the golden checkpoint; nothing else is left in the folder.
fn made(source: &Source, recipe: &str) -> Source {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    run(source, recipe, &out).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let made = Source::open(&out).unwrap();
    let problems = Model::audit(&made, &Scalar);
    assert!(problems.is_empty(), "{problems:?}");
    made
}

fn f32s(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.kind, TensorType::F32);
    let (values, _) = tensor.bytes.as_chunks::<4>();
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn error(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let square = |v: f32| v * v;
    let off: f32 = got.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let all: f32 = expected.iter().map(|a| square(*a)).sum();
    (off / all).sqrt()
}

/// The velocity of the set's noise after its prompt.
fn velocity(model: &Arc<Model<Scalar>>, t: f32) -> Vec<f32> {
    let meta = std::fs::read(golden().join("goldens/meta.json")).unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
    let file = SafeTensors::open(&golden().join("goldens/t2i_velocity.safetensors")).unwrap();
    let hw = &file.get("image_hw").unwrap().bytes;
    let latent = &model.config.latent;
    let side = |i: usize| u16::from_le_bytes([hw[8 * i], hw[8 * i + 1]]) as usize;
    let grid = (
        side(0) / latent.token_pixels(),
        side(1) / latent.token_pixels(),
    );
    let noise = f32s(file.get("noise").unwrap());
    let x = Scalar.upload(&noise, latent.token_values()).unwrap();
    let mut context = model.context();
    let t_ = &model.tokenizer;
    let prompt = t_.block(&t_.encode(meta["prompt_t2i"].as_str().unwrap()).unwrap());
    context.push_ids(&prompt, &mut None).unwrap();
    let v = context.velocity(&x, t, grid, &mut None).unwrap();
    Scalar.download(&v).unwrap()
}

/// The logits after a text.
fn logits(model: &Arc<Model<Scalar>>) -> Vec<f32> {
    let mut context = model.context();
    context.push_text("What is in the picture?").unwrap();
    let rows = context.push_ids(&[1, 2, 3], &mut None).unwrap();
    let logits = model.language.logits(&model.device, &rows).unwrap();
    Scalar.download(&logits).unwrap()
}

fn load(source: &Source) -> Arc<Model<Scalar>> {
    Model::load(source, Scalar).unwrap()
}

/// Checks every plain velocity of a file whose name begins so.
fn check_velocities(file: &SafeTensors, prefix: &str, model: &Arc<Model<Scalar>>) -> usize {
    let mut checked = 0;
    for (name, tensor) in file.iter() {
        let Some(t) = name.strip_prefix(&format!("{prefix}velocity.nocfg.t")) else {
            continue;
        };
        let error = error(&velocity(model, t.parse().unwrap()), &f32s(tensor));
        assert!(error < 1e-4, "{name}: {error}");
        checked += 1;
    }
    checked
}

#[test]
fn layers_that_a_recipe_leaves_out_give_the_golden_velocities() {
    let source = Source::open(&golden().join("checkpoint")).unwrap();
    let file = SafeTensors::open(&golden().join("moe/depth_pruning.safetensors")).unwrap();
    let mut prefixes: Vec<&str> = file
        .iter()
        .filter_map(|(name, _)| name.starts_with("skip_").then(|| name.split('.').next())?)
        .collect();
    prefixes.dedup();
    let mut checked = 0;
    for prefix in prefixes {
        // skip_und_block_1_2
        let words: Vec<&str> = prefix.split('_').collect();
        let (mode, part, layers) = (words[1], words[2], &words[3..]);
        let mode = if mode == "und" {
            "understand"
        } else {
            "generate"
        };
        let part = match part {
            "attn" => "attention",
            "mlp" => "ffn",
            part => part,
        };
        let recipe = format!(
            "{LITTLE}{F32}[depth]\n{mode} = {{ drop = {}, part = \"{part}\", layers = [{}] }}\n",
            layers.len(),
            layers.join(", ")
        );
        let result = made(&source, &recipe);
        checked += check_velocities(&file, &format!("{prefix}."), &load(&result));
        // Generation weights that no pass uses are gone; understanding weights serve the markers.
        let gone = result.tensors.len() < source.tensors.len();
        assert_eq!(gone, mode == "generate", "{prefix}");
    }
    println!("golden: {checked} velocities of skipped layers checked");
    assert!(checked >= 6);
}

#[test]
fn markers_can_take_generation_weights_where_understanding_ones_were_dropped() {
    let source = Source::open(&golden().join("checkpoint")).unwrap();
    for (part, skip) in [
        ("block", Part::Block),
        ("attention", Part::Attention),
        ("ffn", Part::FeedForward),
    ] {
        let recipe = |markers: &str| {
            format!(
                "{LITTLE}{F32}[depth]\nmarkers = \"{markers}\"\n\
                 understand = {{ drop = 2, part = \"{part}\", layers = \"1..3\" }}\n"
            )
        };
        let (kept, dropped) = (
            made(&source, &recipe("keep")),
            made(&source, &recipe("generation")),
        );
        assert_eq!(kept.config.language.layers[2].skip_understand, Some(skip));
        assert!(dropped.tensors.len() < kept.tensors.len());
        assert!(
            dropped
                .tensors
                .keys()
                .all(|name| kept.tensors.contains_key(name))
        );
        let (kept, dropped) = (load(&kept), load(&dropped));
        // Understanding never needed them; a velocity sees two other tokens.
        assert!(logits(&kept) == logits(&dropped));
        let off = error(&velocity(&dropped, 0.75), &velocity(&kept, 0.75));
        println!("{part}: markers with generation weights move the velocity by {off:.3}");
        assert!(off > 0.0 && off < 0.5, "{part}: {off}");
    }
}

#[test]
fn the_adapted_checkpoint_gives_its_golden_velocities_through_a_container() {
    let folder = tempfile::tempdir().unwrap();
    for (from, name) in [
        ("checkpoint", "ae.safetensors"),
        ("checkpoint", "config.json"),
        ("checkpoint", "vit_config.json"),
        ("checkpoint", "tokenizer.json"),
        ("moe", "ema.safetensors"),
        ("moe", "llm_config.json"),
    ] {
        std::fs::copy(golden().join(from).join(name), folder.path().join(name)).unwrap();
    }
    let result = made(&Source::open(folder.path()).unwrap(), F32);
    let file = SafeTensors::open(&golden().join("moe/t2i.safetensors")).unwrap();
    assert!(check_velocities(&file, "", &load(&result)) > 0);
}

#[test]
fn all_experts_of_a_split_are_the_dense_network() {
    let source = Source::open(&golden().join("checkpoint")).unwrap();
    let file = SafeTensors::open(&golden().join("goldens/t2i_velocity.safetensors")).unwrap();
    for shared in [0, 2] {
        let recipe = format!(
            "{LITTLE}{F32}[experts]\ncount = 8\nactive = 8\nshared = {shared}\nlayers = [1, 2]\n"
        );
        let result = made(&source, &recipe);
        let experts = result.config.language.layers[1].experts;
        assert_eq!(
            (experts.count, experts.used, experts.shared),
            (8, 8, shared)
        );
        let shape = &result.tensors["blk.1.ffn_down_exps_gen.weight"].shape;
        assert_eq!(shape, &[8, 64, (160 - 160 * shared / (8 + shared)) / 8]);
        assert!(check_velocities(&file, "", &load(&result)) > 0);
    }
}

#[test]
fn narrower_layers_and_defaults_survive_in_a_directory() {
    let source = Source::open(&golden().join("checkpoint")).unwrap();
    let recipe = format!(
        "{LITTLE}{F32}[width]\nunderstand = {{ keep = 0.5, layers = \"1..4\" }}\n\
         generate = {{ keep = 0.7, layers = [0, 3] }}\n\
         [steps]\ntimesteps = 5\nguidance = 1.0\nedit_guidance = 1.0\nedit_picture_guidance = 1.5\n"
    );
    let result = made(&source, &recipe);
    let edit = result.config.edit;
    assert_eq!((edit.guidance, edit.picture_guidance), (1.0, 1.5));
    let options = DrawOptions::edit_defaults(&result.config, (64, 64));
    let guidance = options.guidance;
    assert_eq!((guidance.text_scale, guidance.picture_scale), (1.0, 1.5));
    let language = &result.config.language;
    assert_eq!(language.widths_understand(), [160, 80, 80, 80]);
    assert_eq!(language.widths_generate(), [112, 160, 160, 112]);
    let folder = tempfile::tempdir().unwrap();
    let back = folder.path().join("back");
    directory::write(&result, &back).unwrap();
    let back = Source::open(&back).unwrap();
    assert_eq!(back.config.language, result.config.language);
    assert_eq!(back.config.draw, result.config.draw);
    assert_eq!(back.config.edit, result.config.edit);
    let (model, back) = (load(&result), load(&back));
    assert!(logits(&model) == logits(&back));
    assert!(velocity(&model, 0.5) == velocity(&back, 0.5));
    // Keeping all neurons changes nothing.
    let all = format!("{LITTLE}{F32}[width]\nunderstand = {{ keep = 1.0 }}\n");
    assert!(logits(&load(&made(&source, &all))) == logits(&load(&source)));
}

#[test]
fn the_full_recipe_makes_the_same_bytes_on_any_number_of_threads_and_they_see_and_draw() {
    let recipe = format!(
        "{LITTLE}{}",
        r#"
        [about]
        name = "smaller"
        [depth]
        understand = { drop = 1, part = "block", layers = "1..5" }
        generate = { drop = 1, part = "attention", layers = "1..5" }
        markers = "generation"
        score = "published"
        [width]
        understand = { keep = 0.75, layers = "1..5" }
        [precision]
        default = "Q8_0"
        keep = { "output" = "F16" }
        [steps]
        timesteps = 5
        "#
    );
    let source = tiny();
    let folder = tempfile::tempdir().unwrap();
    let bytes = [1, 2].map(|threads| {
        let out = folder.path().join(format!("{threads}.gguf"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let options = Options {
            measure: 1,
            ..Options::default()
        };
        let recipe = Recipe::parse(&recipe).unwrap();
        let work = || compress(&source, &recipe, &out, &options, &mut |_, _, _| {});
        let report = pool.unwrap().install(work).unwrap();
        assert_eq!(report.measures.as_ref().unwrap().scenes, 1);
        let page = kinglet_quant::report::page("smaller", &report);
        assert!(page.contains("<svg") && !page.contains("NaN"));
        std::fs::read(&out).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);

    let result = Source::open(&folder.path().join("1.gguf")).unwrap();
    assert!(Model::audit(&result, &Scalar).is_empty());
    assert!(result.not_finite().unwrap().is_empty());
    let size = |s: &Source| s.tensors.values().map(|t| t.bytes.len()).sum::<usize>();
    assert!(size(&result) < size(&source) * 95 / 100);
    let model = Model::load(&result, Cpu::best()).unwrap();
    let guides = Guides::to_draw(&model, "a cat on a blue background", false).unwrap();
    let options = DrawOptions::defaults(&model.config);
    assert_eq!(options.timesteps, 5);
    let mut drawing = Drawing::new(&guides, &options).unwrap();
    drawing
        .run(&mut |_| std::ops::ControlFlow::Continue(()))
        .unwrap();
    let picture = drawing.picture().unwrap();
    let question = "what is in the picture?";
    let mut context = to_answer(&model, &[], None, &picture, None, question, false).unwrap();
    let written = context.write(&WriteOptions::greedy(16), &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    assert!(!written.unwrap().text.is_empty());
}

#[test]
fn calibration_knows_how_much_every_column_of_every_matrix_matters() {
    let source = Source::open(&golden().join("checkpoint")).unwrap();
    let asked = Calibrate {
        count: 1,
        timesteps: 2,
        ..Calibrate::default()
    };
    let calibration = calibrate(&source, &asked, true, &mut |_, _| {}).unwrap();
    let mut checked = 0;
    for (name, tensor) in &source.tensors {
        // Tables are looked up, and the autoencoder's kernels are no matrices of columns.
        let table = name.contains("embd") && name != "v.patch_embd.weight";
        if tensor.shape.len() != 2 || table || name.starts_with("vae.") {
            continue;
        }
        let columns = &calibration.importance[name];
        assert_eq!(columns.len(), tensor.shape[1], "{name}");
        assert!(columns.iter().all(|c| c.is_finite() && *c >= 0.0), "{name}");
        assert!(columns.iter().any(|c| *c > 0.0), "{name}");
        checked += 1;
    }
    assert!(checked > 60, "{checked}");
    // 1 drawing of 1 step, with and without the prompt.
    let tokens = calibration.inputs(1).len() / source.config.language.hidden;
    assert!(tokens > 0);
    assert!(calibration.generate.is_some() && calibration.understand.is_some());
}

#[test]
fn what_the_weights_alone_decide_needs_no_calibration() {
    let source = Source::open(&golden().join("checkpoint")).unwrap();
    let recipe = format!(
        "[depth]\nunderstand = {{ drop = 1, part = \"ffn\", layers = [2] }}\n\
         [width]\nunderstand = {{ keep = 0.5, layers = [1] }}\nscore = \"magnitude\"\n\
         [experts]\ncount = 8\nactive = 4\nrouter = \"zero\"\nscore = \"magnitude\"\n{F32}"
    );
    let parsed = Recipe::parse(&recipe).unwrap();
    assert!(!parsed.calibrates());
    let folder = tempfile::tempdir().unwrap();
    let report = run(&source, &recipe, &folder.path().join("x.gguf")).unwrap();
    let predicted = predict(&source, &parsed).unwrap();
    assert_eq!(
        (report.bytes, report.parameters, &report.types),
        (predicted.bytes, predicted.parameters, &predicted.types)
    );

    let result = made(&source, &recipe);
    assert_eq!(
        result.config.language.layers[2].skip_understand,
        Some(Part::FeedForward)
    );
    let decoded = |part: &str| {
        let name = format!("blk.1.ffn_{part}.weight");
        let tensor = source.tensors[&name].clone();
        let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
        let values = kinglet_quant::plan::Part::whole(name, tensor)
            .decode()
            .unwrap();
        (values, rows, cols)
    };
    let (gate, neurons, hidden) = decoded("gate");
    let (up, ..) = decoded("up");
    let (down, ..) = decoded("down");
    let length = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let score = |n: usize| {
        length(&mut gate[n * hidden..][..hidden].iter().copied())
            * length(&mut up[n * hidden..][..hidden].iter().copied())
            * length(&mut (0..hidden).map(|row| down[row * neurons + n]))
    };
    let mut order: Vec<usize> = (0..neurons).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    order.truncate(neurons / 2);
    order.sort_unstable();
    let expected: Vec<f32> = order
        .iter()
        .flat_map(|n| gate[n * hidden..][..hidden].to_vec())
        .collect();
    assert_eq!(f32s(&result.tensors["blk.1.ffn_gate.weight"]), expected);
}

#[test]
fn what_cannot_be_is_refused_by_name_before_any_work() {
    let source = Source::open(&golden().join("checkpoint")).unwrap();
    for (recipe, named) in [
        ("[depth]\ndrops = 3\n", "drops"),
        ("[widths]\n", "widths"),
        (
            "[depth]\nunderstand = { drop = 5, part = \"block\" }\n",
            "[depth] understand: drop is 5",
        ),
        (
            "[depth]\ngenerate = { drop = 1, part = \"half\" }\n",
            "half",
        ),
        (
            "[depth]\ngenerate = { drop = 3, part = \"ffn\", layers = [1, 2] }\n",
            "2 layers to choose from",
        ),
        ("[width]\ngenerate = { keep = 0.0 }\n", "[width] generate"),
        (
            "[width]\nunderstand = { keep = 0.5, layers = \"1..9\" }\n",
            "1..9",
        ),
        (
            "[width]\nunderstand = { keep = 0.5, layers = [4] }\n",
            "no layer 4",
        ),
        (
            "[experts]\ncount = 7\nactive = 3\n",
            "7 experts; 5 or 8 would do",
        ),
        ("[experts]\ncount = 8\nactive = 9\n", "active is 9"),
        ("[experts]\ncount = 0\nactive = 0\n", "active is 0"),
        ("[experts]\nactive = 1\n", "count"),
        (
            "[experts]\ncount = 8\nactive = 4\nlayers = \"2..5\"\n",
            "2..5",
        ),
        ("[steps]\ntimesteps = 1\n", "[steps] timesteps"),
        ("[calibration]\ncount = 0\n", "[calibration] count"),
        (
            "[calibration]\nscenes = \"/nowhere/at/all\"\n",
            "/nowhere/at/all",
        ),
        ("[precision]\ndefault = \"Q9_Z\"\n", "Q9_Z"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut worked = false;
        let refused = Recipe::parse(recipe).and_then(|recipe| {
            let out = folder.path().join("out.gguf");
            let options = Options {
                measure: 1,
                ..Options::default()
            };
            compress(&source, &recipe, &out, &options, &mut |_, _, _| {
                worked = true
            })
        });
        let refused = refused.expect_err(recipe).to_string();
        assert!(refused.contains(named), "{recipe}: {refused}");
        assert!(!worked, "{recipe}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
