//! Bad input on the command line: one clear line, the right exit code, nothing half-written.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use kinglet_container::Tensor;
use kinglet_container::gguf::{Gguf, Writer};
use kinglet_tests::program::{put, refused};
use kinglet_tests::{SHOWN, kinglet, program, root};

fn scene() -> String {
    kinglet_tests::scene().to_string_lossy().into_owned()
}

fn bundled() -> Vec<u8> {
    std::fs::read(root().join("runtime/assets/kinglet-tiny.gguf")).unwrap()
}

#[test]
fn a_missing_or_damaged_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    refused(
        &["see", &scene(), "--model", "nowhere.gguf"],
        &["nowhere.gguf"],
    );
    let empty = put(folder.path(), "empty.gguf", b"");
    refused(&["inspect", &empty], &["empty.gguf", "ends"]);
    let text = put(folder.path(), "text.gguf", b"this is no model at all");
    refused(&["inspect", &text], &["text.gguf", "no GGUF"]);
    let bytes = bundled();
    for share in [1, 10, 50, 90, 99] {
        let cut = put(
            folder.path(),
            "cut.gguf",
            &bytes[..bytes.len() * share / 100],
        );
        refused(&["inspect", &cut], &["cut.gguf"]);
    }
    let directory = folder.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    refused(
        &["inspect", &directory.to_string_lossy()],
        &["llm_config.json"],
    );
}

#[test]
fn pictures_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(&["see", "nowhere.png"], &["nowhere.png"]);
    let empty = put(folder.path(), "empty.png", b"");
    refused(&["see", &empty], &["empty.png", "0 bytes"]);
    let text = put(folder.path(), "text.png", b"hello");
    refused(&["see", &text], &["text.png"]);
    let huge = put(folder.path(), "huge.png", &png_header(30_000, 30_000));
    refused(&["see", &huge], &["huge.png"]);
    let cut = std::fs::read(scene()).unwrap();
    let cut = put(folder.path(), "cut.png", &cut[..cut.len() / 2]);
    refused(&["see", &cut], &["cut.png"]);
}

/// A PNG whose header announces this size, with next to no data.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut out = (data.len() as u32).to_be_bytes().to_vec();
        out.extend(kind);
        out.extend(data);
        out.extend(crc(&out[4..]).to_be_bytes());
        out
    };
    let mut header = width.to_be_bytes().to_vec();
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    out.extend(chunk(b"IHDR", &header));
    // An empty deflate stream with its zlib frame.
    out.extend(chunk(b"IDAT", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]));
    out.extend(chunk(b"IEND", &[]));
    out
}

/// CRC-32 as PNG uses it, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xEDB8_8320 & (c & 1).wrapping_neg())
        })
    })
}

#[test]
fn a_picture_comes_from_standard_input_too() {
    let mut child = kinglet(&["see", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = std::fs::read(scene()).unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let (code, stdout, _) = program::finished(child.wait_with_output().unwrap());
    assert_eq!((code, stdout.trim()), (0, SHOWN));
}

/// Two pictures and what changed between them, of the held-out scenes.
fn change() -> (String, String, String) {
    let folder = root().join("tools/eval/scenes");
    let truth = std::fs::read(folder.join("truth.json")).unwrap();
    let truth: serde_json::Value = serde_json::from_slice(&truth).unwrap();
    let scenes = truth.as_array().unwrap().iter();
    let mut scenes = scenes.filter(|s| s["asks"][0][2].as_str().unwrap().contains("background"));
    let scene = scenes
        .find(|scene| scene["asks"][0][0] == "changed")
        .unwrap();
    let file = |i: usize| {
        let file = folder.join(scene["pictures"][i].as_str().unwrap());
        file.to_string_lossy().into_owned()
    };
    let answer = scene["asks"][0][2].as_str().unwrap().to_owned();
    (file(0), file(1), answer)
}

#[test]
fn two_pictures_are_compared() {
    let (before, after, answer) = change();
    let ask = ["see", &after, "--before", &before, "--ask", "what changed?"];
    let (code, stdout, stderr) = program::run(&ask);
    assert_eq!((code, stdout.trim()), (0, &*answer), "{stderr}");
    refused(
        &["see", &after, "--before", "nowhere.png"],
        &["nowhere.png"],
    );
    let both = [&ask[..], &["--region", "0,0,50,50"]].concat();
    assert_eq!(program::run(&both).0, 2);
}

#[test]
fn drawing_options_are_checked_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.png");
    let out = out.to_string_lossy();
    refused(
        &["draw", "a cat", "-o", &out, "--size", "100x100"],
        &["100x100", "16"],
    );
    refused(
        &["draw", "a cat", "-o", &out, "--size", "16000x16"],
        &["16000x16"],
    );
    refused(&["draw", "a cat", "-o", &out, "--steps", "0"], &["steps"]);
    refused(
        &["draw", "a cat", "-o", &out, "--steps", "1000000"],
        &["steps"],
    );
    refused(
        &["draw", "a cat", "-o", &out, "--guidance", "NaN"],
        &["guidance"],
    );
    let long = "a ".repeat(60_000);
    refused(&["draw", &long, "-o", &out], &["120000 bytes"]);
    let medium = "cat ".repeat(2000);
    refused(&["draw", &medium, "-o", &out], &["context"]);
    refused(
        &["draw", "a cat", "--steps", "1", "-o", "/nowhere/out.png"],
        &["/nowhere/out.png"],
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "something was left behind"
    );
}

#[test]
fn the_same_seed_gives_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |name: &str, seed: &str| {
        let out = folder.path().join(name);
        let out = out.to_string_lossy();
        let arguments = [
            "draw", "a cat", "--steps", "2", "--size", "64x32", "--seed", seed, "-o", &out,
        ];
        assert_eq!(program::run(&arguments).0, 0);
        std::fs::read(folder.path().join(name)).unwrap()
    };
    assert_eq!(draw("a.png", "7"), draw("b.png", "7"));
    assert_ne!(draw("c.png", "8"), draw("a.png", "7"));
}

#[test]
fn a_preview_is_like_the_picture_that_comes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (out, preview) = (path("out.png"), path("preview.png"));
    let arguments = [
        "draw",
        "a strawberry at the top left on a blue background",
        "--seed",
        "3",
        "-o",
        &out,
        "--preview",
        &preview,
    ];
    let (code, _, stderr) = program::run(&arguments);
    assert_eq!(code, 0, "{stderr}");
    let read = |path: &str| {
        let bytes = std::fs::read(path).unwrap();
        kinglet_model::Picture::decode(&bytes).unwrap()
    };
    let (picture, preview) = (read(&out), read(&preview));
    let cell = picture.width() / preview.width();
    assert_eq!(preview.height() * cell, picture.height());
    // The preview against the mean colours of the picture, as it lies and upside down.
    let (mut off, mut upside_down) = (0.0, 0.0);
    for (at, byte) in preview.rgb().iter().enumerate() {
        let (pixel, colour) = (at / 3, at % 3);
        let mean = |row: usize| {
            let sum: f64 = (0..cell * cell)
                .map(|i| {
                    let y = row * cell + i / cell;
                    let x = pixel % preview.width() * cell + i % cell;
                    f64::from(picture.rgb()[(y * picture.width() + x) * 3 + colour])
                })
                .sum();
            sum / (cell * cell) as f64
        };
        let row = pixel / preview.width();
        off += (f64::from(*byte) - mean(row)).abs();
        upside_down += (f64::from(*byte) - mean(preview.height() - 1 - row)).abs();
    }
    let n = preview.rgb().len() as f64;
    println!(
        "mean error {:.1} levels, {:.1} upside down",
        off / n,
        upside_down / n
    );
    assert!(off / n < 20.0 && off < 0.6 * upside_down);

    let missing = path("missing/preview.png");
    let out = path("second.png");
    refused(
        &[
            "draw",
            "a cat",
            "--steps",
            "2",
            "-o",
            &out,
            "--preview",
            &missing,
        ],
        &["preview.png"],
    );
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    for arguments in [
        &["sing"][..],
        &["draw"],
        &["see"],
        &["draw", "a cat", "-o", "x.png", "--size", "big"],
        &["demo", "--events", "0"],
        &["see", "x.png", "--colour"],
    ] {
        let (code, stdout, _) = program::run(arguments);
        assert_eq!((code, &*stdout), (2, ""), "{arguments:?}");
    }
    assert_eq!(program::run(&["--help"]).0, 0);
}

#[test]
fn a_configuration_is_checked_key_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let config = |text: &str| put(folder.path(), "kinglet.toml", text.as_bytes());
    let run = |text: &str, words: &[&str]| {
        let file = config(text);
        refused(&["run", "--config", &file], words);
    };
    refused(&["run", "--config", "nowhere.toml"], &["nowhere.toml"]);
    run("[device", &["kinglet.toml"]);
    run("", &["device"]);
    let good = "[device]\nname = \"a\"\n[broker]\nurl = \"mqtt://localhost\"\n";
    run(&format!("{good}[telescope]\n"), &["telescope"]);
    run(
        &good.replace("name = \"a\"", "name = \"a\"\ncolour = 1"),
        &["colour"],
    );
    run(&good.replace("\"a\"", "\"A B\""), &["device.name", "A B"]);
    run(
        &good.replace("mqtt://localhost", "localhost"),
        &["broker.url"],
    );
    run(
        &good.replace("localhost", "broker.example"),
        &["allow_insecure"],
    );
    let camera = format!("{good}[[camera]]\nname = \"c\"\nsource = \"tape:x\"\n");
    // The source itself is not repeated: it may hold a password.
    run(&camera, &["camera", "\"c\"", "snapshot:"]);
    let watch =
        format!("{good}[[watch]]\nname = \"w\"\ncamera = \"c\"\nwhen = \"motion\"\nask = \"?\"\n");
    run(&watch, &["watch.camera"]);
    let state = put(folder.path(), "file", b"");
    let state = good.replace(
        "name = \"a\"",
        &format!("name = \"a\"\nstate = \"{state}/x\""),
    );
    run(&state, &["state"]);
}

/// The golden checkpoint as GGUF in F32.
fn golden_gguf(folder: &Path) -> Gguf {
    let checkpoint = root().join("tests/golden/checkpoint");
    let recipe = put(folder, "f32.toml", b"[precision]\ndefault = \"F32\"\n");
    let out = folder.join("golden.gguf").to_string_lossy().into_owned();
    let arguments = [
        "compress",
        &checkpoint.to_string_lossy(),
        "-o",
        &out,
        "--recipe",
        &recipe,
    ];
    assert_eq!(program::run(&arguments).0, 0);
    Gguf::open(Path::new(&out)).unwrap()
}

/// A copy of a GGUF file with its tensors changed.
fn changed(
    gguf: &Gguf,
    path: &Path,
    change: impl Fn(&str, &Tensor) -> Option<(Vec<usize>, Vec<u8>)>,
) -> String {
    let tensors: Vec<_> = gguf
        .tensors()
        .iter()
        .filter_map(|(name, t)| {
            change(name, t).map(|(shape, bytes)| (name.clone(), t.kind, shape, bytes))
        })
        .collect();
    let described: Vec<_> = tensors
        .iter()
        .map(|(name, kind, shape, _)| (name.clone(), *kind, shape.clone()))
        .collect();
    let mut writer = Writer::create(path, gguf.metadata(), &described).unwrap();
    for (name, _, _, bytes) in &tensors {
        writer.tensor(name, bytes).unwrap();
    }
    writer.finish().unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn inspect_names_the_first_difference_and_lists_all() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = golden_gguf(folder.path());
    let file = changed(&gguf, &folder.path().join("bad.gguf"), |name, t| {
        let (shape, bytes) = (t.shape.clone(), t.bytes.to_vec());
        match name {
            "blk.0.attn_q.weight" | "vae.decoder.mid.attn_1.q.bias" => None,
            "output_norm.weight" => Some((vec![shape[0] / 2], bytes[..bytes.len() / 2].to_vec())),
            _ => Some((shape, bytes)),
        }
    });
    refused(&["inspect", &file], &["bad.gguf", "more; --json"]);
    let (code, stdout, _) = program::run(&["inspect", &file, "--json"]);
    assert_eq!(code, 1);
    let result: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let problems = result["problems"].as_array().unwrap();
    for name in [
        "blk.0.attn_q.weight",
        "vae.decoder.mid.attn_1.q.bias",
        "output_norm.weight",
    ] {
        let named = problems
            .iter()
            .filter(|p| p.as_str().unwrap().contains(name));
        assert_eq!(named.count(), 1, "{name} in {problems:?}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_found_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = golden_gguf(folder.path());
    let file = changed(&gguf, &folder.path().join("nan.gguf"), |name, t| {
        let mut bytes = t.bytes.to_vec();
        if name == "blk.1.ffn_up.weight" {
            bytes[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Some((t.shape.clone(), bytes))
    });
    assert_eq!(program::run(&["inspect", &file]).0, 0);
    refused(
        &["inspect", "--deep", &file],
        &["blk.1.ffn_up.weight", "NaN", "row 1"],
    );
    assert_eq!(program::run(&["inspect", "--deep"]).0, 0);
}

#[test]
fn configurations_that_contradict_themselves_are_refused_by_name() {
    let golden = root().join("tests/golden");
    let folder = tempfile::tempdir().unwrap();
    for from in ["checkpoint", "moe"] {
        for entry in std::fs::read_dir(golden.join(from)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let directory = folder.path().to_string_lossy().into_owned();
    assert_eq!(program::run(&["inspect", &directory]).0, 0);
    for (file, field, value, word) in [
        ("llm_config.json", "num_attention_heads", "3", "hidden size"),
        ("llm_config.json", "num_key_value_heads", "3", "key-value"),
        ("llm_config.json", "hidden_size", "0", "hidden size"),
        ("llm_config.json", "num_hidden_layers", "99999999", "layer"),
        ("llm_config.json", "vocab_size", "100", "token_embd"),
        ("llm_config.json", "top_k", "9", "experts"),
        ("llm_config.json", "intermediate_size", "161", "ffn"),
        ("llm_config.json", "rms_norm_eps", "-1.0", "epsilon"),
        ("vit_config.json", "num_attention_heads", "5", "vision"),
        ("config.json", "max_latent_size", "1", "picture rule"),
        (
            "config.json",
            "vit_max_num_patch_per_side",
            "9",
            "position_embd",
        ),
        ("config.json", "latent_patch_size", "3", "stride"),
    ] {
        let path = folder.path().join(file);
        let sound = std::fs::read(&path).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&sound).unwrap();
        json[field] = serde_json::from_str(value).unwrap();
        std::fs::write(&path, json.to_string()).unwrap();
        refused(&["inspect", &directory], &[word]);
        std::fs::write(&path, sound).unwrap();
    }
}
