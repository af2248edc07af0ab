//! Models of random weights: their shapes are true, and nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use kinglet_container::gguf::{Gguf, Value, Writer};
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::Format;
use kinglet_kernels::blocks::encode_row;
use kinglet_model::config::{
    DrawConfig, EditConfig, ExpertsConfig, LanguageConfig, LatentConfig, LayerConfig, PictureRule,
    Renorm, VisionConfig,
};
use kinglet_model::{Config, Sampler, Source, metadata, names};
use kinglet_tests::shape::{SIDES, Shape, VISION, VISION_INNER};

use crate::{BenchError, Result};

/// Rows that differ; a matrix repeats them.
const ROWS: usize = 16;

/// Bytes of matrices, shared between tensors: the first bytes of a long run of rows.
#[derive(Default)]
struct Weights(BTreeMap<(&'static str, usize), Bytes>);

impl Weights {
    fn matrix(&mut self, format: Format, rows: usize, cols: usize) -> Result<Bytes> {
        let row_bytes = format.row_bytes(cols)?;
        let key = (format.name(), cols);
        let there = self.0.get(&key).map_or(0, Bytes::len);
        if there < rows * row_bytes {
            let mut some = Vec::new();
            for row in 0..ROWS {
                // Evenly spread between -0.05 and 0.05, in an order without a pattern.
                let value = |i: usize| ((i * 7919 + row * 104_729) % 1009) as f32 / 10_080.0 - 0.05;
                let values: Vec<f32> = (0..cols).map(value).collect();
                encode_row(format, &values, &mut some)?;
            }
            let mut all = Vec::with_capacity(rows * row_bytes);
            while all.len() < rows * row_bytes {
                let left = rows * row_bytes - all.len();
                all.extend_from_slice(&some[..left.min(some.len())]);
            }
            self.0.insert(key, all.into());
        }
        Ok(self.0[&key].slice(..rows * row_bytes))
    }
}

fn kind(format: Format) -> Option<TensorType> {
    let mut kinds = TensorType::ALL.iter().copied();
    kinds.find(|kind| kind.name() == format.name())
}

/// A model of this shape, its matrices in `format` where the blocks divide the rows and else in F16.
pub(crate) fn source(shape: &Shape, format: Format) -> Result<Source> {
    let mut weights = Weights::default();
    let mut tensors = BTreeMap::new();
    let originals = shape.language_and_vision();
    let named = originals
        .into_iter()
        .filter_map(|(name, shape)| Some((names::from_original(&name)?, shape)));
    let autoencoder = Shape::autoencoder()
        .into_iter()
        .map(|(name, shape)| (format!("{}{name}", names::AUTOENCODER_PREFIX), shape));
    for (name, shape) in named.chain(autoencoder) {
        let (format, bytes) = match shape[..] {
            [len] => {
                let value: f32 = if name.ends_with(".bias") { 0.0 } else { 1.0 };
                let values = value.to_le_bytes().repeat(len);
                (Format::F32, Bytes::from(values))
            }
            [rows, ref rest @ ..] => {
                let cols = rest.iter().product::<usize>();
                let fits = rest.len() == 1 && cols.is_multiple_of(format.block_values());
                let format = if fits { format } else { Format::F16 };
                (format, weights.matrix(format, rows, cols)?)
            }
            [] => (Format::F32, Bytes::new()),
        };
        let kind = kind(format).ok_or_else(|| BenchError::Peer(format!("no type {format}")))?;
        tensors.insert(name, Tensor { kind, shape, bytes });
    }
    let path = kinglet_tests::root().join("tests/golden/checkpoint/tokenizer.json");
    let tokenizer = std::fs::read_to_string(&path).map_err(|e| BenchError::File(path, e))?;
    Ok(Source {
        name: "random weights".to_owned(),
        config: config(shape),
        tokenizer,
        tensors,
        defaults: Vec::new(),
        packed: None,
    })
}

/// A model of this shape with the language weights of a GGUF file, and the format that most of them are in. What the
/// file does not have stays random; a file without an output layer writes with its table of tokens.
pub(crate) fn with_weights_of(shape: &Shape, file: &Path) -> Result<(Source, Format)> {
    let weights = Gguf::open(file)?;
    let mut count = BTreeMap::<&str, usize>::new();
    for (_, tensor) in weights.tensors() {
        *count.entry(tensor.kind.name()).or_default() += tensor.values();
    }
    let most = count.into_iter().max_by_key(|(_, values)| *values);
    let format = most.and_then(|(most, _)| Format::ALL.iter().copied().find(|f| f.name() == most));
    let format = format.ok_or_else(|| BenchError::Peer("a file without weights".to_owned()))?;
    let mut source = source(shape, format)?;
    for (name, tensor) in &mut source.tensors {
        let own = weights.tensor(name);
        let own = own.or_else(|| {
            weights
                .tensor("token_embd.weight")
                .filter(|_| name == "output.weight")
        });
        if let Some(stored) = own {
            if stored.shape != tensor.shape {
                return Err(BenchError::Peer(format!("{name} has another shape")));
            }
            *tensor = stored.clone();
        }
    }
    Ok((source, format))
}

fn config(shape: &Shape) -> Config {
    let layer = |i| LayerConfig {
        experts: if shape.is_sparse(i) {
            ExpertsConfig {
                count: shape.experts,
                used: shape.experts / 2,
                shared: 0,
            }
        } else {
            ExpertsConfig::default()
        },
        ..LayerConfig::default()
    };
    Config {
        name: "random weights".to_owned(),
        draws: true,
        language: LanguageConfig {
            blocks: shape.layers,
            hidden: shape.hidden,
            feed_forward: shape.inner,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            vocabulary: shape.vocabulary,
            context_length: 32_768,
            rms_epsilon: 1e-6,
            rope_base: 1e6,
            layers: (0..shape.layers).map(layer).collect(),
        },
        vision: VisionConfig {
            blocks: shape.vision_layers,
            hidden: VISION,
            feed_forward: VISION_INNER,
            heads: 16,
            patch: 14,
            position_side: SIDES.0,
            epsilon: 1e-6,
            rule: PictureRule {
                max: 980,
                min: 224,
                stride: 14,
                max_pixels: 14 * 14 * 9 * 1024,
            },
            tokens: None,
        },
        latent: LatentConfig {
            channels: 16,
            downsample: 8,
            patch: 2,
            position_side: SIDES.1,
            scale: 0.3611,
            shift: 0.1159,
            groups: 32,
            rule: PictureRule {
                max: 1024,
                min: 512,
                stride: 16,
                max_pixels: 14 * 14 * 9 * 1024,
            },
            preview: None,
        },
        draw: DrawConfig {
            timesteps: 50,
            shift: 3.0,
            guidance: 4.0,
            interval: (0.4, 1.0),
            renorm: Renorm::Global,
            renorm_min: 0.0,
            sampler: Sampler::Euler,
        },
        edit: EditConfig::default(),
    }
}

/// The model as a container.
pub(crate) fn write(source: &Source, path: &Path) -> Result<()> {
    let mut metadata = metadata::write(&source.config);
    let tokenizer = source.tokenizer.as_str().into();
    metadata.push((metadata::TOKENIZER.to_owned(), tokenizer));
    write_tensors(source, path, &metadata, |_| true)
}

/// The understanding half as a Qwen2 model, which is what it is but for the norms of queries and keys,
/// for llama.cpp.
pub(crate) fn write_qwen2(source: &Source, path: &Path) -> Result<()> {
    let l = &source.config.language;
    let size = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    let metadata: Vec<(String, Value)> = [
        ("general.architecture", "qwen2".into()),
        ("qwen2.block_count", size(l.blocks)),
        ("qwen2.context_length", size(l.context_length)),
        ("qwen2.embedding_length", size(l.hidden)),
        ("qwen2.feed_forward_length", size(l.feed_forward)),
        ("qwen2.attention.head_count", size(l.heads)),
        ("qwen2.attention.head_count_kv", size(l.kv_heads)),
        (
            "qwen2.attention.layer_norm_rms_epsilon",
            l.rms_epsilon.into(),
        ),
        ("qwen2.rope.freq_base", l.rope_base.into()),
        ("qwen2.vocab_size", size(l.vocabulary)),
        ("tokenizer.ggml.model", "no_vocab".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let language = |name: &&String| {
        let own = ["blk.", "token_embd.", "output"];
        let other = ["_gen", "q_norm", "k_norm"];
        own.iter().any(|o| name.starts_with(o)) && !other.iter().any(|o| name.contains(o))
    };
    write_tensors(source, path, &metadata, language)
}

fn write_tensors(
    source: &Source,
    path: &Path,
    metadata: &[(String, Value)],
    which: impl Fn(&&String) -> bool,
) -> Result<()> {
    let tensors: Vec<(String, TensorType, Vec<usize>)> = (source.tensors.keys())
        .filter(which)
        .map(|name| (name, &source.tensors[name]))
        .map(|(name, t)| (name.clone(), t.kind, t.shape.clone()))
        .collect();
    let mut writer = Writer::create(path, metadata, &tensors)?;
    for (name, _, _) in &tensors {
        writer.tensor(name, &source.tensors[name].bytes)?;
    }
    Ok(writer.finish()?)
}
