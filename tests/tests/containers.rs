//! The same model out of a directory and out of GGUF.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet_container::gguf::Gguf;
use kinglet_kernels::{Cpu, Device, InstructionSet, Scalar};
use kinglet_model::config::Part;
use kinglet_model::{Model, Source, directory, names};
use kinglet_tests::{program, root};

fn model(path: &Path) -> Arc<Model<Scalar>> {
    Model::load(&Source::open(path).unwrap(), Scalar).unwrap()
}

/// Logits after a text, and a velocity after it.
fn numbers<D: Device>(model: &Arc<Model<D>>) -> (Vec<f32>, Vec<f32>) {
    let mut context = model.context();
    context.push_text("What is in the picture?").unwrap();
    let values = model.config.latent.token_values();
    let noise: Vec<f32> = (0..6 * values).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = model.device.upload(&noise, values).unwrap();
    let velocity = context.velocity(&x, 0.75, (2, 3), &mut None).unwrap();
    let rows = context.push_ids(&[1, 2], &mut None).unwrap();
    let logits = model.language.logits(&model.device, &rows).unwrap();
    let read = |x| model.device.download(x).unwrap();
    (read(&logits), read(&velocity))
}

/// Compresses a checkpoint with everything in this type.
fn compressed(checkpoint: &Path, format: &str, folder: &Path) -> PathBuf {
    let recipe = folder.join("recipe.toml");
    std::fs::write(&recipe, format!("[precision]\ndefault = \"{format}\"\n")).unwrap();
    let out = folder.join(format!("{format}.gguf"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let arguments = [
        &text(checkpoint),
        "-o",
        &text(&out),
        "--recipe",
        &text(&recipe),
    ];
    let (code, _, stderr) = program::run(&[&["compress"][..], &arguments].concat());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(program::run(&["inspect", &text(&out)]).0, 0);
    out
}

/// The MoE-adapted checkpoint: the dense one with two files replaced.
fn adapted(folder: &Path) -> PathBuf {
    let golden = root().join("tests/golden");
    let out = folder.join("adapted");
    std::fs::create_dir(&out).unwrap();
    for from in ["checkpoint", "moe"] {
        for file in [
            "ae.safetensors",
            "config.json",
            "vit_config.json",
            "tokenizer.json",
            "ema.safetensors",
            "llm_config.json",
        ] {
            let file = golden.join(from).join(file);
            if file.exists() {
                std::fs::copy(&file, out.join(file.file_name().unwrap())).unwrap();
            }
        }
    }
    out
}

fn error(a: &[f32], b: &[f32]) -> f32 {
    let square = |v: f32| v * v;
    let off: f32 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    let all: f32 = a.iter().map(|a| square(*a)).sum();
    (off / all).sqrt()
}

#[test]
fn a_directory_and_its_gguf_give_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for checkpoint in [
        root().join("tests/golden/checkpoint"),
        adapted(folder.path()),
    ] {
        let out = compressed(&checkpoint, "F32", folder.path());
        let (source, gguf) = (
            Source::open(&checkpoint).unwrap(),
            Source::open(&out).unwrap(),
        );
        assert_eq!(source.config.language, gguf.config.language);
        assert!(numbers(&model(&checkpoint)) == numbers(&model(&out)));
        // Once more, from GGUF to GGUF.
        let second = tempfile::tempdir().unwrap();
        let again = compressed(&out, "F32", second.path());
        assert!(numbers(&model(&again)) == numbers(&model(&out)));
    }
}

#[test]
fn a_directory_comes_back_out_of_its_gguf() {
    let folder = tempfile::tempdir().unwrap();
    for (name, checkpoint) in [
        ("dense", root().join("tests/golden/checkpoint")),
        ("adapted", adapted(folder.path())),
    ] {
        let gguf = compressed(&checkpoint, "F32", folder.path());
        let back = folder.path().join(format!("{name}-back"));
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let export = ["export", &text(&gguf), "-o", &text(&back)];
        let (code, _, stderr) = program::run(&export);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(program::run(&["inspect", &text(&back)]).0, 0);
        let (first, last) = (Source::open(&checkpoint), Source::open(&back));
        let (first, last) = (first.unwrap(), last.unwrap());
        assert_eq!(first.config.language, last.config.language);
        assert_eq!(first.config.vision, last.config.vision);
        assert_eq!(first.config.latent, last.config.latent);
        assert_eq!(first.config.draw, last.config.draw);
        assert_eq!(first.config.edit, last.config.edit);
        assert_eq!(first.tokenizer, last.tokenizer);
        assert!(last.defaults.is_empty(), "{:?}", last.defaults);
        assert!(first.tensors.keys().eq(last.tensors.keys()));
        assert!(numbers(&model(&checkpoint)) == numbers(&model(&back)));
        // The original code reads these; this one counts what is stored.
        let language = |directory: &Path| -> serde_json::Value {
            let text = std::fs::read(directory.join("llm_config.json")).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let (before, after) = (language(&checkpoint), language(&back));
        for key in ["num_experts", "top_k", "transformed_gen"] {
            assert_eq!(
                before["num_experts"].is_null(),
                after["num_experts"].is_null()
            );
            if !before["num_experts"].is_null() {
                assert_eq!(before[key], after[key], "{key}");
            }
        }
        // What is there is not overwritten.
        let (code, _, stderr) = program::run(&export);
        assert_eq!(code, 1);
        assert!(stderr.contains("exists"), "{stderr}");
    }
}

#[test]
fn a_directory_may_only_understand() {
    let folder = tempfile::tempdir().unwrap();
    let dense = root().join("tests/golden/checkpoint");
    for (name, checkpoint) in [("dense", dense), ("adapted", adapted(folder.path()))] {
        let mut source = Source::open(&checkpoint).unwrap();
        source.config.draws = false;
        source.tensors.retain(|name, _| !names::draws(name));
        let written = folder.path().join(format!("{name}-sees"));
        directory::write(&source, &written).unwrap();
        assert!(!written.join("ae.safetensors").exists());
        let path = written.to_string_lossy().into_owned();
        let (code, stdout, stderr) = program::run(&["inspect", &path]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("it understands only"), "{stdout}");

        // What drawing would need may lie beside it.
        let whole = folder.path().join(format!("{name}-whole"));
        std::fs::create_dir(&whole).unwrap();
        for entry in std::fs::read_dir(&checkpoint).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), whole.join(entry.file_name())).unwrap();
        }
        let config = whole.join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        let sees = text.replace("\"visual_gen\": true", "\"visual_gen\": false");
        assert_ne!(text, sees);
        std::fs::write(&config, sees).unwrap();
        for directory in [written, whole] {
            let read = Source::open(&directory).unwrap();
            assert!(read.tensors.keys().eq(source.tensors.keys()), "{name}");
            let model = Model::load(&read, Scalar).unwrap();
            assert!(model.latents().is_err());
            assert!(Model::audit(&read, &Scalar).is_empty());
        }
    }
}

#[test]
fn quantized_tensors_and_skipped_layers_survive_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = compressed(&adapted(folder.path()), "Q8_0", folder.path());
    let mut source = Source::open(&gguf).unwrap();
    source.config.language.layers[0].skip_understand = Some(Part::Attention);
    source.config.language.layers[2].skip_generate = Some(Part::Block);
    let back = folder.path().join("back");
    directory::write(&source, &back).unwrap();
    let read = Source::open(&back).unwrap();
    assert_eq!(read.config.language, source.config.language);
    let load = |source| numbers(&Model::load(source, Scalar).unwrap());
    assert!(load(&read) == load(&source));
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        4,
        "something was left behind"
    );

    source.config.language.layers[1].experts.used = 1;
    let refused = directory::write(&source, &folder.path().join("uneven")).unwrap_err();
    assert!(
        refused.to_string().contains("different numbers of experts"),
        "{refused}"
    );
    assert!(!folder.path().join("uneven").exists());
}

#[test]
fn smaller_formats_stay_within_their_bounds() {
    let folder = tempfile::tempdir().unwrap();
    for checkpoint in [
        root().join("tests/golden/checkpoint"),
        adapted(folder.path()),
    ] {
        let exact = numbers(&model(&checkpoint));
        // Random weights with no structure: a router near a tie may choose another expert.
        for (format, bound) in [("F16", 0.002), ("BF16", 1e-6), ("Q8_0", 0.05)] {
            let out = compressed(&checkpoint, format, folder.path());
            let got = numbers(&model(&out));
            let (logits, velocity) = (error(&exact.0, &got.0), error(&exact.1, &got.1));
            println!("{format}: logits {logits:.1e}, velocity {velocity:.1e}");
            assert!(
                logits < bound && velocity < bound,
                "{format}: {logits} {velocity}"
            );
        }
    }
}

#[test]
fn experts_of_an_odd_width_are_padded_with_neurons_that_add_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = adapted(folder.path());
    let source = Source::open(&checkpoint).unwrap();
    let width = source.tensors["blk.1.ffn_gate_exps_gen.0.weight"].shape[0];
    assert!(
        !width.is_multiple_of(32),
        "the set's experts need no padding"
    );
    let gguf = Source::open(&compressed(&checkpoint, "Q8_0", folder.path())).unwrap();
    let experts = source.config.language.layers[1].experts.count;
    let (padded, hidden) = (width.next_multiple_of(32), source.config.language.hidden);
    assert_eq!(
        gguf.tensors["blk.1.ffn_gate_exps_gen.weight"].shape,
        [experts, padded, hidden]
    );
    assert_eq!(
        gguf.tensors["blk.1.ffn_down_exps_gen.weight"].shape,
        [experts, hidden, padded]
    );
}

#[test]
fn a_recipe_with_passes_is_reported_on_a_page_and_in_the_container() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let recipe = "[calibration]\ncount = 2\ntimesteps = 3\n\
                  [depth]\nunderstand = { drop = 1, part = \"ffn\" }\n\
                  [experts]\ncount = 8\nactive = 4\nlayers = [1, 2]\n\
                  [precision]\ndefault = \"F32\"\n";
    std::fs::write(path("recipe.toml"), recipe).unwrap();
    let checkpoint = root().join("tests/golden/checkpoint");
    let (code, stdout, stderr) = program::run(&[
        "compress",
        &checkpoint.to_string_lossy(),
        "-o",
        &path("out.gguf"),
        "--recipe",
        &path("recipe.toml"),
        "--measure",
        "1",
        "--report",
        &path("report.html"),
        "--json",
    ]);
    assert_eq!(code, 0, "{stderr}");
    let result: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["report"]["measures"]["scenes"], 1);
    let passes = result["report"]["passes"].as_array().unwrap();
    let names: Vec<&str> = passes.iter().map(|p| p["pass"].as_str().unwrap()).collect();
    assert_eq!(names, ["source", "depth", "experts", "precision"]);
    let page = std::fs::read_to_string(path("report.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("</svg>"));
    let gguf = Gguf::open(Path::new(&path("out.gguf"))).unwrap();
    let stored = gguf
        .find("kinglet.report")
        .and_then(|v| v.as_str())
        .unwrap();
    let stored: serde_json::Value = serde_json::from_str(stored).unwrap();
    assert_eq!(stored, result["report"]);
    let (code, stdout, _) = program::run(&["inspect", &path("out.gguf")]);
    assert_eq!(code, 0);
    assert!(
        stdout.contains("2 layers with 8 experts, 4 active"),
        "{stdout}"
    );
}

#[test]
fn a_packed_container_gives_the_same_numbers_and_other_machines_refuse_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let checkpoint = adapted(folder.path());
    for format in ["F16", "Q8_0", "Q4_0"] {
        let plain = compressed(&checkpoint, format, folder.path());
        let plain = plain.to_string_lossy().into_owned();
        for set in InstructionSet::ALL {
            let packed = text(&format!("{format}-{set}.gguf"));
            let arguments = ["compress", &plain, "-o", &packed, "--pack", set.name()];
            let (code, _, stderr) = program::run(&arguments);
            assert_eq!(code, 0, "{stderr}");
            let packed = Source::open(Path::new(&packed)).unwrap();
            let cpu = Cpu::new(set);
            if let Ok(cpu) = cpu {
                let expected = Source::open(Path::new(&plain)).unwrap();
                let expected = numbers(&Model::load(&expected, cpu).unwrap());
                let got = numbers(&Model::load(&packed, cpu).unwrap());
                assert_eq!(got, expected, "{format} on {set}");
            }
            let refused = Model::load(&packed, Scalar).err().unwrap().to_string();
            assert!(refused.contains("is packed for"), "{refused}");
            assert!(packed.not_finite().is_err());
            assert!(directory::write(&packed, &folder.path().join("no")).is_err());
        }
    }
    let avx2 = text("Q8_0-avx2.gguf");
    let mut inspect = program::kinglet(&["inspect", &avx2]);
    inspect.env("KINGLET_KERNELS", "scalar");
    let (code, _, stderr) = program::finished(inspect.output().unwrap());
    assert_eq!(code, 1);
    assert!(
        stderr.contains("\"avx2-2\"") && stderr.contains("\"scalar-2\""),
        "{stderr}"
    );
    let again = [
        "compress",
        &avx2,
        "-o",
        &text("no.gguf"),
        "--pack",
        "scalar",
    ];
    assert_eq!(program::run(&again).0, 1);
}
