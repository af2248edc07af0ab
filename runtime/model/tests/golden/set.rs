//! A golden set on disk, and the count of what was checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kinglet_container::tensors::SafeTensors;
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::Format;
use kinglet_kernels::blocks::{decode_row, encode_row};
use kinglet_model::linear::format_of;
use kinglet_model::{Picture, Source};

/// How close a run must come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// What the language and vision weights are stored as.
    pub(crate) format: Format,
    /// Largest relative L2 error of a tensor.
    pub(crate) tensor: f64,
    /// Largest relative L2 error at the end of a whole sample.
    pub(crate) sample: f64,
    /// Largest difference of a finished picture's bytes, in levels.
    pub(crate) levels: u8,
    /// How many choices (greedy tokens, experts) may be others than the set's: in a coarse format a
    /// near tie may fall the other way.
    pub(crate) choices: usize,
}

impl Bounds {
    /// As the set was made.
    pub(crate) const fn exact() -> Bounds {
        Bounds {
            format: Format::F32,
            tensor: 1e-4,
            sample: 1e-3,
            levels: 1,
            choices: 0,
        }
    }
}

pub(crate) struct Set {
    root: PathBuf,
    pub(crate) bounds: Bounds,
    files: BTreeMap<String, SafeTensors>,
    checked: BTreeSet<(String, String)>,
    /// Tensors that are inputs of a check rather than its result.
    inputs: BTreeSet<(String, String)>,
    worst: (f64, String),
    worst_sample: (f64, String),
    /// Choices that were made, and those that differ.
    choices: (usize, usize),
    too_far: Vec<String>,
}

impl Set {
    pub(crate) fn open(bounds: Bounds) -> Self {
        let root = match std::env::var_os("KINGLET_GOLDEN_DIR") {
            Some(directory) => PathBuf::from(directory),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden"),
        };
        let mut files = BTreeMap::new();
        for folder in ["checkpoint", "goldens", "moe"] {
            let entries = std::fs::read_dir(root.join(folder))
                .unwrap_or_else(|e| panic!("{}: {e}", root.join(folder).display()));
            for entry in entries {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|e| e == "safetensors") {
                    let name = path.file_name().unwrap().to_string_lossy();
                    files.insert(
                        format!("{folder}/{name}"),
                        SafeTensors::open(&path).unwrap(),
                    );
                }
            }
        }
        Set {
            root,
            bounds,
            files,
            checked: BTreeSet::new(),
            inputs: BTreeSet::new(),
            worst: (0.0, "none".to_owned()),
            worst_sample: (0.0, "none".to_owned()),
            choices: (0, 0),
            too_far: Vec::new(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn json(&self, file: &str) -> serde_json::Value {
        let text = std::fs::read_to_string(self.root.join(file)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn names(&self, file: &str) -> Vec<String> {
        self.files[file]
            .iter()
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    pub(crate) fn shape(&self, file: &str, name: &str) -> Vec<usize> {
        self.peek(file, name).shape.clone()
    }

    /// A tensor that a later check will count.
    pub(crate) fn peek(&self, file: &str, name: &str) -> &Tensor {
        self.files[file].get(name).unwrap()
    }

    pub(crate) fn peek_picture(&self, file: &str, name: &str) -> Picture {
        let tensor = self.peek(file, name);
        Picture::from_rgb(tensor.shape[1], tensor.shape[0], tensor.bytes.to_vec()).unwrap()
    }

    /// A tensor that is an input: it has no result to be compared with.
    pub(crate) fn input(&mut self, file: &str, name: &str) -> &Tensor {
        self.inputs.insert((file.to_owned(), name.to_owned()));
        self.peek(file, name)
    }

    pub(crate) fn picture(&mut self, file: &str, name: &str) -> Picture {
        self.input(file, name);
        self.peek_picture(file, name)
    }

    pub(crate) fn check(&mut self, file: &str, name: &str, got: &[f32]) {
        let error = self.compare(file, name, got, self.bounds.tensor);
        if error > self.worst.0 {
            self.worst = (error, format!("{file}: {name}"));
        }
    }

    pub(crate) fn check_sample(&mut self, file: &str, name: &str, got: &[f32]) {
        let error = self.compare(file, name, got, self.bounds.sample);
        if error > self.worst_sample.0 {
            self.worst_sample = (error, format!("{file}: {name}"));
        }
    }

    pub(crate) fn check_if_there(&mut self, file: &str, name: &str, got: &[f32]) {
        if self.files[file].get(name).is_ok() {
            self.check(file, name, got);
        }
    }

    pub(crate) fn check_ids(&mut self, file: &str, name: &str, got: &[u32]) {
        assert_eq!(ids(self.peek(file, name)), got, "{file}: {name}");
        self.checked.insert((file.to_owned(), name.to_owned()));
    }

    pub(crate) fn check_ids_if_there(&mut self, file: &str, name: &str, got: &[u32]) {
        if self.files[file].get(name).is_ok() {
            self.check_ids(file, name, got);
        }
    }

    /// Ids that the model chose: tokens or experts.
    pub(crate) fn check_choices(&mut self, file: &str, name: &str, got: &[u32]) {
        let expected = ids(self.peek(file, name));
        assert_eq!(expected.len(), got.len(), "{file}: the size of {name}");
        self.choices.0 += got.len();
        self.choices.1 += expected.iter().zip(got).filter(|(e, g)| e != g).count();
        self.checked.insert((file.to_owned(), name.to_owned()));
    }

    pub(crate) fn check_choices_if_there(&mut self, file: &str, name: &str, got: &[u32]) {
        if self.files[file].get(name).is_ok() {
            self.check_choices(file, name, got);
        }
    }

    /// Whether every choice must be the set's.
    pub(crate) fn strict(&self) -> bool {
        self.bounds.choices == 0
    }

    /// The checkpoint in a directory, its weights stored in the format of this run: matrices of the
    /// language and vision halves whose rows it divides, as `kinglet compress` does it.
    pub(crate) fn source(&self, directory: &Path) -> Source {
        let mut source = Source::open(directory).unwrap();
        let to = self.bounds.format;
        for (name, tensor) in &mut source.tensors {
            let [_, cols] = tensor.shape[..] else {
                continue;
            };
            let from = format_of(tensor.kind).unwrap();
            let fits = cols.is_multiple_of(to.block_values());
            if to == Format::F32 || !fits || name.contains("position_embd") {
                continue;
            }
            let mut row = vec![0.0; cols];
            let mut bytes = Vec::new();
            for stored in tensor.bytes.chunks_exact(from.row_bytes(cols).unwrap()) {
                decode_row(from, stored, &mut row).unwrap();
                encode_row(to, &row, &mut bytes).unwrap();
            }
            let kinds = TensorType::ALL.iter();
            let kind = kinds.copied().find(|k| k.name() == to.name()).unwrap();
            (tensor.kind, tensor.bytes) = (kind, bytes.into());
        }
        source
    }

    /// 8-bit values may differ by one level where a float is truncated.
    pub(crate) fn check_bytes(&mut self, file: &str, name: &str, got: &[u8]) {
        let expected = &self.peek(file, name).bytes;
        assert_eq!(expected.len(), got.len(), "{file}: {name}");
        let largest = expected.iter().zip(got).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(
            largest <= Some(self.bounds.levels),
            "{file}: {name} is off by {largest:?} levels"
        );
        self.checked.insert((file.to_owned(), name.to_owned()));
    }

    pub(crate) fn check_picture(&mut self, file: &str, name: &str, got: &Picture) {
        let tensor = self.peek(file, name);
        assert_eq!(
            tensor.shape,
            [got.height(), got.width(), 3],
            "{file}: {name}"
        );
        assert!(tensor.bytes == got.rgb(), "{file}: {name} has other bytes");
        self.checked.insert((file.to_owned(), name.to_owned()));
    }

    fn compare(&mut self, file: &str, name: &str, got: &[f32], bound: f64) -> f64 {
        let expected = f32s(self.peek(file, name));
        assert_eq!(expected.len(), got.len(), "{file}: the size of {name}");
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let off = square(
            &mut expected
                .iter()
                .zip(got)
                .map(|(e, g)| f64::from(*e) - f64::from(*g)),
        );
        let all = square(&mut expected.iter().map(|e| f64::from(*e)));
        let error = (off / all.max(f64::MIN_POSITIVE)).sqrt();
        // An error that is no number is too far as well.
        if error.is_nan() || error > bound {
            self.too_far.push(format!(
                "{file}: {name} is off by {error:.1e}, at most {bound:.0e}"
            ));
        }
        self.checked.insert((file.to_owned(), name.to_owned()));
        error
    }

    /// Every tensor must have been checked, used as input, or be listed; a listed one must not have
    /// been checked. Prints the count.
    pub(crate) fn finish(self, elsewhere: &[(&str, &str, &str)], on: &str) {
        let mut total = 0;
        let mut inputs = 0;
        let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
        let mut forgotten = Vec::new();
        for (file, tensors) in &self.files {
            for (name, _) in tensors.iter() {
                let key = (file.clone(), name.to_owned());
                let reason = elsewhere
                    .iter()
                    .find(|(f, prefix, _)| f == file && name.starts_with(prefix));
                let checked = self.checked.contains(&key);
                if self.inputs.contains(&key) && !checked && reason.is_none() {
                    inputs += 1;
                    continue;
                }
                total += usize::from(reason.is_none());
                match (checked, reason) {
                    (true, None) => {}
                    (false, Some((_, _, reason))) => *listed.entry(reason).or_default() += 1,
                    (true, Some(_)) => {
                        panic!("{file}: {name} is checked and listed as checked elsewhere")
                    }
                    (false, None) => forgotten.push(format!("{file}: {name}")),
                }
            }
        }
        println!(
            "golden: {} of {total} tensors checked ({inputs} more are inputs and weights), largest error {:.1e} in {}",
            self.checked.len(),
            self.worst.0,
            self.worst.1
        );
        println!(
            "golden: on {} in {}: whole samples within {:.1e} ({}); {} of {} choices differ",
            on,
            self.bounds.format,
            self.worst_sample.0,
            self.worst_sample.1,
            self.choices.1,
            self.choices.0
        );
        for (reason, count) in &listed {
            println!("golden: {count} more tensors are checked by {reason}");
        }
        assert!(self.too_far.is_empty(), "too far: {:#?}", self.too_far);
        assert!(
            self.choices.1 <= self.bounds.choices,
            "{} choices differ, at most {} may",
            self.choices.1,
            self.bounds.choices
        );
        assert!(
            forgotten.is_empty(),
            "neither checked nor listed: {forgotten:#?}"
        );
    }
}

pub(crate) fn f32s(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.kind, TensorType::F32);
    let (values, _) = tensor.bytes.as_chunks::<4>();
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

pub(crate) fn ids(tensor: &Tensor) -> Vec<u32> {
    assert_eq!(tensor.kind, TensorType::I64);
    let (values, _) = tensor.bytes.as_chunks::<8>();
    values
        .iter()
        .map(|b| i64::from_le_bytes(*b).try_into().unwrap())
        .collect()
}
