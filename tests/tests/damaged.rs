//! Checkpoints, recipes and disks that `kinglet compress` refuses: by name, before the work, with nothing
//! half-written.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use kinglet_tests::{program, root};
use serde_json::{Map, Value, json};

const QUERY: &str = "language_model.model.layers.0.self_attn.q_proj.weight";
/// The same by the name that a container gives it.
const QUERY_GGUF: &str = "blk.0.attn_q.weight";

/// A copy of the golden checkpoint that can be damaged, a recipe, and nothing else.
struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let setting = Setting {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(setting.path("checkpoint")).unwrap();
        for file in std::fs::read_dir(root().join("tests/golden/checkpoint")).unwrap() {
            let file = file.unwrap();
            let to = setting.path("checkpoint").join(file.file_name());
            std::fs::copy(file.path(), to).unwrap();
        }
        setting.recipe("[precision]\ndefault = \"Q8_0\"\n");
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn recipe(&self, text: &str) {
        std::fs::write(self.path("recipe.toml"), text).unwrap();
    }

    fn weights(&self) -> PathBuf {
        self.path("checkpoint/ema.safetensors")
    }

    /// Rewrites the weights: their header as text, and the bytes behind it.
    fn change(&self, change: impl Fn(&mut String, &mut Vec<u8>)) {
        let bytes = std::fs::read(self.weights()).unwrap();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = String::from_utf8(bytes[8..end].to_vec()).unwrap();
        let mut data = bytes[end..].to_vec();
        change(&mut header, &mut data);
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend(data);
        std::fs::write(self.weights(), out).unwrap();
    }

    /// The same with the header as JSON.
    fn change_entry(&self, change: impl Fn(&mut Map<String, Value>, &mut Vec<u8>)) {
        self.change(|header, data| {
            let mut json: Map<String, Value> = serde_json::from_str(header).unwrap();
            change(&mut json, data);
            *header = Value::Object(json).to_string();
        });
    }

    fn arguments(&self) -> [String; 6] {
        let text = |name: &str| self.path(name).to_string_lossy().into_owned();
        let (checkpoint, out, recipe) = (text("checkpoint"), text("out.gguf"), text("recipe.toml"));
        ["compress", &checkpoint, "-o", &out, "--recipe", &recipe].map(str::to_owned)
    }

    fn run(&self) -> (i32, String, String) {
        let arguments = self.arguments();
        program::run(&arguments.each_ref().map(String::as_str))
    }

    /// It must be refused in one line that has these words, and leave nothing.
    fn refused(&self, words: &[&str]) {
        let (code, stdout, stderr) = self.run();
        assert_eq!((code, &*stdout), (1, ""), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
        assert_eq!(self.left(), 2, "something was left behind: {stderr}");
    }

    fn left(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }

    fn result(&self) -> Vec<u8> {
        let (code, _, stderr) = self.run();
        assert_eq!(code, 0, "{stderr}");
        std::fs::read(self.path("out.gguf")).unwrap()
    }
}

#[test]
fn a_tensor_that_is_missing_or_renamed_is_named() {
    let setting = Setting::new();
    setting.change_entry(|json, data| {
        // Without a hole where it was.
        let entry = json.remove(QUERY).unwrap();
        let place = |v: &Value, i: usize| v["data_offsets"][i].as_u64().unwrap();
        let (start, end) = (place(&entry, 0), place(&entry, 1));
        data.drain(start as usize..end as usize);
        for other in json.values_mut() {
            if other.get("data_offsets").is_some() && place(other, 0) >= end {
                let moved = [0, 1].map(|i| place(other, i) - (end - start));
                other["data_offsets"] = json!(moved);
            }
        }
    });
    setting.refused(&[QUERY_GGUF, "missing"]);

    let setting = Setting::new();
    let other = QUERY.replace("q_proj", "q_prof");
    setting.change(|header, _| *header = header.replace(QUERY, &other));
    setting.refused(&[&other]);
}

#[test]
fn a_tensor_that_is_there_twice_is_refused_or_the_same() {
    // Twice under one name, with two places: one of them must be wrong.
    let setting = Setting::new();
    setting.change(|header, _| {
        let json: Map<String, Value> = serde_json::from_str(header).unwrap();
        let key = QUERY.replace("q_proj", "o_proj");
        let twice = format!("\"{QUERY}\":{},", json[&key]);
        let at = header.find(&format!("\"{QUERY}\"")).unwrap();
        header.insert_str(at, &twice);
    });
    let (code, _, stderr) = setting.run();
    if code == 0 {
        // The last one counts, and it is the one that belongs there.
        let sound = Setting::new().result();
        assert!(std::fs::read(setting.path("out.gguf")).unwrap() == sound);
    } else {
        assert!(stderr.contains("ema.safetensors"), "{stderr}");
        assert_eq!(setting.left(), 2);
    }
    // Two names for one place.
    let setting = Setting::new();
    setting.change_entry(|json, _| {
        let key = QUERY.replace("q_proj", "o_proj");
        json[QUERY] = json[&key].clone();
    });
    setting.refused(&["ema.safetensors"]);
}

#[test]
fn wrong_shapes_and_types_are_named() {
    let setting = Setting::new();
    setting.change_entry(|json, _| json[QUERY]["shape"] = json!([32, 128]));
    setting.refused(&[QUERY_GGUF, "[32, 128]", "[64, 64]"]);
    let setting = Setting::new();
    setting.change_entry(|json, _| json[QUERY]["dtype"] = json!("I16"));
    setting.refused(&[QUERY_GGUF, "I16"]);
    // More than the file has.
    let setting = Setting::new();
    setting.change_entry(|json, _| json[QUERY]["shape"] = json!([1u64 << 40, 1u64 << 40]));
    setting.refused(&["ema.safetensors"]);
    let setting = Setting::new();
    setting.change(|_, data| data.truncate(data.len() / 2));
    setting.refused(&["ema.safetensors"]);
}

#[test]
fn weights_that_are_no_numbers_are_named_before_anything_is_written() {
    for (bits, named) in [(0x7FC0u16, "NaN"), (0x7F80, "inf"), (0xFF80, "-inf")] {
        let setting = Setting::new();
        setting.change_entry(|json, data| {
            let start = json[QUERY]["data_offsets"][0].as_u64().unwrap() as usize;
            // Row 3 of 64 values.
            let at = start + 2 * (3 * 64 + 5);
            data[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        });
        setting.refused(&[QUERY_GGUF, named, "row 3"]);
    }
}

#[test]
fn headers_and_links_that_lead_nowhere_are_refused() {
    // A header of 200 MB: the length is read, and nothing else.
    let setting = Setting::new();
    let file = File::create(setting.weights()).unwrap();
    std::io::Write::write_all(&mut &file, &(200u64 << 20).to_le_bytes()).unwrap();
    file.set_len(8 + (200 << 20) + 1000).unwrap();
    setting.refused(&["ema.safetensors"]);

    let setting = Setting::new();
    std::fs::remove_file(setting.weights()).unwrap();
    std::os::unix::fs::symlink(setting.weights(), setting.weights()).unwrap();
    setting.refused(&["ema.safetensors"]);

    // A folder where the result is to lie.
    let setting = Setting::new();
    std::fs::create_dir(setting.path("out.gguf")).unwrap();
    let (code, _, stderr) = setting.run();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("out.gguf"), "{stderr}");
    assert_eq!(setting.left(), 3);
}

#[test]
fn an_index_beside_the_weights_is_not_believed() {
    let sound = Setting::new().result();
    let setting = Setting::new();
    let index =
        json!({ "metadata": { "total_size": 1 }, "weight_map": { QUERY: "../../nowhere" } });
    let path = setting.path("checkpoint/model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    assert!(setting.result() == sound);
}

#[test]
fn recipes_that_cannot_be_are_named() {
    for (recipe, words) in [
        (
            "[precision]\nbudget = \"1KB\"\n",
            &["budget of 1000", "smallest type"][..],
        ),
        ("[precision]\nbudget = \"much\"\n", &["much"]),
        ("[parts]\npaint = false\n", &["paint"]),
        ("[parts]\n", &["draw"]),
        (
            "[parts]\ndraw = false\n[experts]\ncount = 8\nactive = 4\n",
            &["[parts] draw", "[experts]"],
        ),
        (
            "[parts]\ndraw = false\n[depth]\ngenerate = { drop = 1, part = \"ffn\" }\n",
            &["[depth] generate"],
        ),
        ("[width]\nscore = \"taste\"\n", &["taste"]),
    ] {
        let setting = Setting::new();
        setting.recipe(recipe);
        setting.refused(&[&["recipe"], words].concat());
    }
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_the_work() {
    let setting = Setting::new();
    let mount = setting.path("disk");
    std::fs::create_dir(&mount).unwrap();
    // A small disk of our own, where the system lets us have one.
    let script = "mount -t tmpfs -o size=200k tmpfs \"$0\" || exit 99; \
                  \"$@\"; code=$?; ls -A \"$0\" | wc -l >&2; exit $code";
    let mut arguments = setting.arguments();
    arguments[3] = mount.join("out.gguf").to_string_lossy().into_owned();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(&mount)
        .arg(program::program())
        .args(arguments)
        .output();
    let Some(output) = output
        .ok()
        .filter(|o| matches!(o.status.code(), Some(0 | 1)))
    else {
        println!("NOT CHECKED: a full disk (no user namespaces here)");
        return;
    };
    let (code, _, stderr) = program::finished(output);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("disk is too full"), "{stderr}");
    assert!(stderr.contains("are free"), "{stderr}");
    assert_eq!(
        stderr.lines().last(),
        Some("0"),
        "something was left: {stderr}"
    );
}

#[test]
fn a_file_that_cannot_grow_any_further_is_gone_on_with_later() {
    let sound = Setting::new().result();
    let setting = Setting::new();
    // A bound on the length of files, whose signal is ignored so that writing fails instead.
    let script = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(program::program())
        .args(setting.arguments())
        .output()
        .unwrap();
    let (code, _, stderr) = program::finished(output);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("the same command goes on"), "{stderr}");
    assert!(!setting.path("out.gguf").exists());
    assert!(setting.path("out.gguf.partial").exists());
    assert!(setting.result() == sound);
    assert_eq!(setting.left(), 3);
}

#[test]
fn what_lies_where_the_work_would_is_not_overwritten() {
    let setting = Setting::new();
    let partial: &Path = &setting.path("out.gguf.partial");
    std::fs::write(partial, "somebody's download").unwrap();
    let (code, _, stderr) = setting.run();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("out.gguf.partial"), "{stderr}");
    assert_eq!(std::fs::read(partial).unwrap(), b"somebody's download");
}
