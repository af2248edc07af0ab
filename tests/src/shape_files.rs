//! A directory in the layout of the release, of any shape, filled with random numbers or with nothing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::shape::{Shape, Tensors, VISION, VISION_INNER};

/// What the tensors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// Small random values.
    Random,
    /// Zeros that take no room on disk, where the file system has sparse files: for what reads only
    /// headers.
    Hollow,
}

/// Writes the directory.
///
/// # Errors
/// What the file system says.
pub fn write_directory(out: &Path, shape: &Shape, filling: Filling) -> std::io::Result<()> {
    std::fs::create_dir_all(out)?;
    let mut llm = json!({
        "hidden_size": shape.hidden, "intermediate_size": shape.inner, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    });
    if shape.experts > 0 {
        llm["num_experts"] = shape.experts.into();
        llm["num_shared_experts"] = 0.into();
        llm["top_k"] = (shape.experts / 2).into();
    }
    // As in the release, one layer more is announced than is stored, and config.json is not there.
    let vit = json!({
        "hidden_size": VISION, "intermediate_size": VISION_INNER,
        "num_hidden_layers": shape.vision_layers + 1,
        "num_attention_heads": 16, "patch_size": 14, "layer_norm_eps": 1e-6,
    });
    std::fs::write(out.join("llm_config.json"), llm.to_string())?;
    std::fs::write(out.join("vit_config.json"), vit.to_string())?;
    let tokenizer = crate::root().join("tests/golden/checkpoint/tokenizer.json");
    std::fs::copy(tokenizer, out.join("tokenizer.json"))?;
    write(
        &out.join("ema.safetensors"),
        "BF16",
        2,
        &shape.language_and_vision(),
        filling,
    )?;
    write(
        &out.join("ae.safetensors"),
        "F32",
        4,
        &Shape::autoencoder(),
        filling,
    )
}

/// Writes a safetensors file.
fn write(
    path: &Path,
    kind: &str,
    size: usize,
    tensors: &Tensors,
    filling: Filling,
) -> std::io::Result<()> {
    let mut header = Map::new();
    let mut offset = 0;
    for (name, shape) in tensors {
        let end = offset + shape.iter().product::<usize>() * size;
        let entry = json!({ "dtype": kind, "shape": shape, "data_offsets": [offset, end] });
        header.insert(name.clone(), entry);
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    if filling == Filling::Hollow {
        let file = file.into_inner()?;
        return file.set_len((8 + header.len() + offset) as u64);
    }
    // One block of random values, written over and over: only the size has to be true.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut block = Vec::with_capacity(4 << 20);
    while block.len() < 4 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.03;
        block.extend_from_slice(&value.to_le_bytes()[4 - size..]);
    }
    let mut left = offset;
    while left > 0 {
        let piece = left.min(block.len());
        file.write_all(&block[..piece])?;
        left -= piece;
    }
    file.flush()
}
