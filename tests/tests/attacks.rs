//! Hostile containers. Every refusal of the reader has its file in `tests/attacks/`; the corpus is
//! made here, so that each file is what its name says, and it seeds the fuzz targets.
//!
//! `KINGLET_BLESS=1` writes the corpus anew.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use bytes::Bytes;
use kinglet_container::gguf::Gguf;
use kinglet_container::tensors::SafeTensors;
use kinglet_container::{ContainerError, Refusal};
use kinglet_tests::root;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s].concat()
}

/// A metadata entry with a value of this type.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

/// A tensor's description; sizes innermost first.
fn info(name: &str, sizes: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name.as_bytes());
    out.extend((sizes.len() as u32).to_le_bytes());
    out.extend(sizes.iter().flat_map(|s| s.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

fn gguf(entries: &[Vec<u8>], infos: &[Vec<u8>], data: usize) -> Vec<u8> {
    let counts = [infos.len() as u64, entries.len() as u64];
    raw(3, counts, entries, infos, data)
}

fn raw(
    version: u32,
    counts: [u64; 2],
    entries: &[Vec<u8>],
    infos: &[Vec<u8>],
    data: usize,
) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend(counts.iter().flat_map(|c| c.to_le_bytes()));
    out.extend(entries.concat());
    out.extend(infos.concat());
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

fn sound() -> Vec<u8> {
    gguf(
        &[
            entry("general.name", 8, &string(b"sound")),
            entry(
                "a.list",
                9,
                &[
                    &4u32.to_le_bytes()[..],
                    &2u64.to_le_bytes(),
                    &[1, 0, 0, 0, 2, 0, 0, 0],
                ]
                .concat(),
            ),
        ],
        &[info("t", &[8, 2], 0, 0), info("u", &[32], 8, 64)],
        128,
    )
}

type Attack = (&'static str, Vec<u8>, fn(&Refusal) -> bool);

fn attacks() -> Vec<Attack> {
    let u32s = |v: u32| v.to_le_bytes().to_vec();
    let huge = u64::MAX.to_le_bytes();
    let f32_at = |offset| info("t", &[8], 0, offset);
    vec![
        ("empty", vec![], |r| matches!(r, Refusal::Truncated { .. })),
        ("magic", b"GGML\x03\0\0\0".to_vec(), |r| {
            matches!(r, Refusal::Magic)
        }),
        ("version-2", raw(2, [0, 0], &[], &[], 0), |r| {
            matches!(r, Refusal::Version(2))
        }),
        ("big-endian", raw(3 << 24, [0, 0], &[], &[], 0), |r| {
            matches!(r, Refusal::Version(_))
        }),
        ("tensor-count", raw(3, [u64::MAX, 0], &[], &[], 0), |r| {
            matches!(r, Refusal::TooMany { .. })
        }),
        (
            "tensor-count-beyond-file",
            raw(3, [60_000, 0], &[], &[], 0),
            |r| matches!(r, Refusal::Truncated { .. }),
        ),
        ("key-count", raw(3, [0, 5000], &[], &[], 8000), |r| {
            matches!(r, Refusal::TooMany { .. })
        }),
        ("key-length", gguf(&[huge.to_vec()], &[], 64), |r| {
            matches!(r, Refusal::TooMany { .. })
        }),
        ("key-empty", gguf(&[entry("", 0, &[1])], &[], 0), |r| {
            matches!(r, Refusal::EmptyName(_))
        }),
        (
            "key-not-utf8",
            gguf(&[[string(b"\xff\xfe"), u32s(0)].concat()], &[], 64),
            |r| matches!(r, Refusal::NotUtf8(_)),
        ),
        (
            "key-twice",
            gguf(&[entry("a", 0, &[1]), entry("a", 0, &[1])], &[], 0),
            |r| matches!(r, Refusal::Duplicate(_)),
        ),
        (
            "value-type",
            gguf(&[entry("a", 13, &[0; 8])], &[], 0),
            |r| matches!(r, Refusal::UnknownValueType { .. }),
        ),
        ("bool", gguf(&[entry("a", 7, &[2])], &[], 0), |r| {
            matches!(r, Refusal::BadBool { .. })
        }),
        (
            "string-length",
            gguf(&[entry("a", 8, &huge)], &[], 0),
            |r| matches!(r, Refusal::TooMany { .. }),
        ),
        (
            "array-length",
            gguf(&[entry("a", 9, &[&u32s(0)[..], &huge].concat())], &[], 0),
            |r| matches!(r, Refusal::TooMany { .. }),
        ),
        (
            "array-beyond-file",
            gguf(
                &[entry(
                    "a",
                    9,
                    &[&u32s(10)[..], &4_000_000u64.to_le_bytes()].concat(),
                )],
                &[],
                64,
            ),
            |r| matches!(r, Refusal::Truncated { .. }),
        ),
        (
            "array-of-arrays",
            gguf(
                &[entry(
                    "a",
                    9,
                    &[&u32s(9)[..], &1u64.to_le_bytes(), &u32s(0), &huge].concat(),
                )],
                &[],
                64,
            ),
            |r| matches!(r, Refusal::NestedArray(_)),
        ),
        (
            "alignment-type",
            gguf(
                &[entry("general.alignment", 10, &32u64.to_le_bytes())],
                &[],
                0,
            ),
            |r| matches!(r, Refusal::WrongType { .. }),
        ),
        (
            "alignment-zero",
            gguf(&[entry("general.alignment", 4, &u32s(0))], &[], 0),
            |r| matches!(r, Refusal::Alignment(0)),
        ),
        (
            "alignment-33",
            gguf(&[entry("general.alignment", 4, &u32s(33))], &[], 0),
            |r| matches!(r, Refusal::Alignment(33)),
        ),
        (
            "alignment-huge",
            gguf(&[entry("general.alignment", 4, &u32s(1 << 31))], &[], 0),
            |r| matches!(r, Refusal::Alignment(_)),
        ),
        (
            "tensor-name-empty",
            gguf(&[], &[info("", &[8], 0, 0)], 32),
            |r| matches!(r, Refusal::EmptyName(_)),
        ),
        (
            "tensor-twice",
            gguf(&[], &[f32_at(0), f32_at(32)], 64),
            |r| matches!(r, Refusal::Duplicate(_)),
        ),
        (
            "tensor-type",
            gguf(&[], &[info("t", &[8], 99, 0)], 32),
            |r| matches!(r, Refusal::UnknownTensorType { .. }),
        ),
        (
            "tensor-dimensions",
            gguf(&[], &[info("t", &[1; 5], 0, 0)], 32),
            |r| matches!(r, Refusal::TooMany { .. }),
        ),
        (
            "tensor-size-zero",
            gguf(&[], &[info("t", &[0, 8], 0, 0)], 32),
            |r| matches!(r, Refusal::Shape { .. }),
        ),
        (
            "tensor-size-overflow",
            gguf(&[], &[info("t", &[1 << 40, 1 << 40], 0, 0)], 32),
            |r| matches!(r, Refusal::Shape { .. }),
        ),
        (
            "tensor-bytes-overflow",
            gguf(&[], &[info("t", &[1 << 62], 0, 0)], 32),
            |r| matches!(r, Refusal::Shape { .. }),
        ),
        (
            "tensor-block",
            gguf(&[], &[info("t", &[33], 8, 0)], 64),
            |r| matches!(r, Refusal::Shape { .. }),
        ),
        ("tensor-misaligned", gguf(&[], &[f32_at(4)], 64), |r| {
            matches!(r, Refusal::Misaligned { .. })
        }),
        ("tensor-beyond-file", gguf(&[], &[f32_at(64)], 64), |r| {
            matches!(r, Refusal::OutOfBounds { .. })
        }),
        (
            "tensor-offset-overflow",
            gguf(&[], &[f32_at(u64::MAX - 31)], 64),
            |r| matches!(r, Refusal::OutOfBounds { .. }),
        ),
        (
            "tensors-overlap",
            gguf(&[], &[info("a", &[16], 0, 0), info("b", &[8], 0, 32)], 64),
            |r| matches!(r, Refusal::Overlap(..)),
        ),
    ]
}

fn corpus() -> PathBuf {
    root().join("tests/attacks")
}

fn refusal(bytes: Vec<u8>) -> Option<Refusal> {
    match Gguf::parse(Bytes::from(bytes), "attack") {
        Ok(_) => None,
        Err(ContainerError::Refused { refusal, .. }) => Some(refusal),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn every_attack_is_refused_for_its_reason() {
    let bless = std::env::var_os("KINGLET_BLESS").is_some();
    let mut names = Vec::new();
    for (name, bytes, expected) in attacks() {
        let path = corpus().join(format!("{name}.gguf"));
        if bless {
            std::fs::write(&path, &bytes).unwrap();
        }
        let stored = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(
            stored == bytes,
            "{name} is not what it says; KINGLET_BLESS=1 writes it anew"
        );
        let refusal = refusal(bytes).unwrap_or_else(|| panic!("{name} was accepted"));
        assert!(expected(&refusal), "{name}: {refusal}");
        assert!(!refusal.to_string().is_empty());
        names.push(format!("{name}.gguf"));
    }
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            names.contains(&name),
            "{name} is in the corpus and not in the list"
        );
    }
    println!("attacks: {} refused for their reasons", names.len());
}

#[test]
fn a_sound_file_is_read_and_every_cut_of_it_refused() {
    let bytes = sound();
    let file = Gguf::parse(bytes.clone().into(), "sound").unwrap();
    assert_eq!(file.tensor("t").unwrap().shape, [2, 8]);
    assert_eq!(file.tensor("u").unwrap().bytes.len(), 34);
    let end = bytes.len() - 128 + 64 + 34;
    for len in 0..end {
        assert!(
            refusal(bytes[..len].to_vec()).is_some(),
            "cut at {len}, it was accepted"
        );
    }
}

#[test]
fn no_change_of_bytes_makes_the_readers_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut seeds: Vec<Vec<u8>> = attacks().into_iter().map(|(_, bytes, _)| bytes).collect();
    seeds.push(sound());
    let ema = std::fs::read(root().join("tests/golden/goldens/think.safetensors")).unwrap();
    let (mut refused, mut accepted) = (0, 0);
    for i in 0..40_000 {
        let safetensors = i % 4 == 0;
        let mut bytes = if safetensors {
            ema.clone()
        } else {
            seeds[rng.random_range(0..seeds.len())].clone()
        };
        // Changes near the front hit headers.
        for _ in 0..rng.random_range(1..6) {
            if bytes.is_empty() {
                break;
            }
            let at = rng.random_range(0..bytes.len().min(700));
            match rng.random_range(0..4) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                2 => bytes.truncate(at),
                _ => bytes.insert(at, rng.random()),
            }
        }
        let ok = if safetensors {
            SafeTensors::parse(bytes.into(), "changed").is_ok()
        } else {
            Gguf::parse(bytes.into(), "changed").is_ok()
        };
        if ok { accepted += 1 } else { refused += 1 }
    }
    println!("attacks: of 40,000 changed files {refused} were refused, {accepted} still sound");
    assert!(refused > 10_000 && accepted > 0);
}
