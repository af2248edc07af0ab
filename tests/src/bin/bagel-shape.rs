//! Makes a directory of the true shape of BAGEL-7B-MoT from random numbers: for trying what happens
//! at that size without the weights. Nothing that it says means anything.
//!
//! usage: bagel-shape OUT_DIR [--layers N] [--experts N]
//!
//! 28 layers take 29.5 GB of disk. `--experts N` makes the generation half of all layers but the
//! first and the last sparse, with N experts of which half are used.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

const HIDDEN: usize = 3584;
const INNER: usize = 18_944;
const KV: usize = 512;
const HEAD: usize = 128;
const VOCABULARY: usize = 152_064;
const VISION: usize = 1152;
const VISION_INNER: usize = 4304;
const VISION_LAYERS: usize = 26;
/// Side of the tables of positions, in patches and in latent tokens.
const SIDES: (usize, usize) = (70, 64);

type Tensors = Vec<(String, Vec<usize>)>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bagel-shape: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let option = |name: &str, default: usize| -> Result<usize, std::num::ParseIntError> {
        let at = arguments.iter().position(|a| a == name);
        match at.and_then(|i| arguments.get(i + 1)) {
            Some(value) => value.parse(),
            None => Ok(default),
        }
    };
    let out = Path::new(
        arguments
            .first()
            .ok_or("usage: bagel-shape OUT_DIR [--layers N] [--experts N]")?,
    );
    let (layers, experts) = (option("--layers", 28)?, option("--experts", 0)?);
    std::fs::create_dir_all(out)?;

    let mut llm = json!({
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": VOCABULARY,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    });
    if experts > 0 {
        llm["num_experts"] = experts.into();
        llm["num_shared_experts"] = 0.into();
        llm["top_k"] = (experts / 2).into();
    }
    // As in the release, one layer more is announced than is stored, and config.json is not there.
    let vit = json!({
        "hidden_size": VISION, "intermediate_size": VISION_INNER, "num_hidden_layers": VISION_LAYERS + 1,
        "num_attention_heads": 16, "patch_size": 14, "layer_norm_eps": 1e-6,
    });
    std::fs::write(out.join("llm_config.json"), llm.to_string())?;
    std::fs::write(out.join("vit_config.json"), vit.to_string())?;
    let tokenizer = kinglet_tests::root().join("tests/golden/checkpoint/tokenizer.json");
    std::fs::copy(tokenizer, out.join("tokenizer.json"))?;
    write(
        &out.join("ema.safetensors"),
        "BF16",
        2,
        &language_and_vision(layers, experts),
    )?;
    write(&out.join("ae.safetensors"), "F32", 4, &autoencoder())?;
    Ok(())
}

fn language_and_vision(layers: usize, experts: usize) -> Tensors {
    let mut out = Tensors::new();
    let mut put = |name: String, shape: &[usize]| out.push((name, shape.to_vec()));
    put(
        "language_model.model.embed_tokens.weight".into(),
        &[VOCABULARY, HIDDEN],
    );
    put(
        "language_model.lm_head.weight".into(),
        &[VOCABULARY, HIDDEN],
    );
    put("language_model.model.norm.weight".into(), &[HIDDEN]);
    put("language_model.model.norm_moe_gen.weight".into(), &[HIDDEN]);
    for i in 0..layers {
        for suffix in ["", "_moe_gen"] {
            let name = |part: &str| format!("language_model.model.layers.{i}.{part}");
            for (part, width) in [("q", HIDDEN), ("k", KV), ("v", KV)] {
                put(
                    name(&format!("self_attn.{part}_proj{suffix}.weight")),
                    &[width, HIDDEN],
                );
                put(
                    name(&format!("self_attn.{part}_proj{suffix}.bias")),
                    &[width],
                );
            }
            put(
                name(&format!("self_attn.o_proj{suffix}.weight")),
                &[HIDDEN, HIDDEN],
            );
            put(name(&format!("self_attn.q_norm{suffix}.weight")), &[HEAD]);
            put(name(&format!("self_attn.k_norm{suffix}.weight")), &[HEAD]);
            put(name(&format!("input_layernorm{suffix}.weight")), &[HIDDEN]);
            put(
                name(&format!("post_attention_layernorm{suffix}.weight")),
                &[HIDDEN],
            );
            let sparse = experts > 0 && !suffix.is_empty() && i > 0 && i + 1 < layers;
            let mut feed_forward = |inside: &str, inner: usize| {
                for part in ["gate", "up"] {
                    put(
                        name(&format!("mlp{suffix}.{inside}{part}_proj.weight")),
                        &[inner, HIDDEN],
                    );
                }
                put(
                    name(&format!("mlp{suffix}.{inside}down_proj.weight")),
                    &[HIDDEN, inner],
                );
            };
            if sparse {
                for e in 0..experts {
                    feed_forward(&format!("experts.{e}."), INNER / experts);
                }
                put(name("mlp_moe_gen.gate.weight"), &[experts, HIDDEN]);
                put(name("mlp_moe_gen.gate_shared.weight"), &[1, HIDDEN]);
            } else {
                feed_forward("", INNER);
            }
        }
    }
    let mut linear = |name: &str, outputs: usize, inputs: usize| {
        out.push((format!("{name}.weight"), vec![outputs, inputs]));
        out.push((format!("{name}.bias"), vec![outputs]));
    };
    linear("time_embedder.mlp.0", HIDDEN, 256);
    linear("time_embedder.mlp.2", HIDDEN, HIDDEN);
    linear("vae2llm", HIDDEN, 64);
    linear("llm2vae", 64, HIDDEN);
    linear("connector.fc1", HIDDEN, VISION);
    linear("connector.fc2", HIDDEN, HIDDEN);
    let vision = "vit_model.vision_model";
    linear(&format!("{vision}.embeddings.patch_embedding"), VISION, 588);
    for i in 0..VISION_LAYERS {
        let name = |part: &str| format!("{vision}.encoder.layers.{i}.{part}");
        for part in ["q", "k", "v", "out"] {
            linear(&name(&format!("self_attn.{part}_proj")), VISION, VISION);
        }
        linear(&name("mlp.fc1"), VISION_INNER, VISION);
        linear(&name("mlp.fc2"), VISION, VISION_INNER);
    }
    let mut put = |name: String, shape: &[usize]| out.push((name, shape.to_vec()));
    for i in 0..VISION_LAYERS {
        for part in [
            "layer_norm1.weight",
            "layer_norm1.bias",
            "layer_norm2.weight",
            "layer_norm2.bias",
        ] {
            put(format!("{vision}.encoder.layers.{i}.{part}"), &[VISION]);
        }
    }
    put(format!("{vision}.post_layernorm.weight"), &[VISION]);
    put(format!("{vision}.post_layernorm.bias"), &[VISION]);
    let (patches, latents) = (SIDES.0 * SIDES.0, SIDES.1 * SIDES.1);
    put(
        format!("{vision}.embeddings.position_embedding.weight"),
        &[patches, VISION],
    );
    put("vit_pos_embed.pos_embed".into(), &[patches, HIDDEN]);
    put("latent_pos_embed.pos_embed".into(), &[latents, HIDDEN]);
    out
}

fn autoencoder() -> Tensors {
    const WIDTHS: [usize; 4] = [128, 256, 512, 512];
    let mut out = Tensors::new();
    let mut put = |name: String, shape: &[usize]| {
        out.push((format!("{name}.weight"), shape.to_vec()));
        out.push((format!("{name}.bias"), vec![shape[0]]));
    };
    let block = |put: &mut dyn FnMut(String, &[usize]), name: &str, from: usize, to: usize| {
        put(format!("{name}.norm1"), &[from]);
        put(format!("{name}.conv1"), &[to, from, 3, 3]);
        put(format!("{name}.norm2"), &[to]);
        put(format!("{name}.conv2"), &[to, to, 3, 3]);
        if from != to {
            put(format!("{name}.nin_shortcut"), &[to, from, 1, 1]);
        }
    };
    for (half, first) in [("encoder", 3), ("decoder", 16)] {
        let deepest = WIDTHS[3];
        let mut width = if half == "encoder" {
            WIDTHS[0]
        } else {
            deepest
        };
        put(format!("{half}.conv_in"), &[width, first, 3, 3]);
        for i in 0..4 {
            let (name, level, blocks, resample) = if half == "encoder" {
                (format!("encoder.down.{i}"), i, 2, "downsample")
            } else {
                (format!("decoder.up.{}", 3 - i), 3 - i, 3, "upsample")
            };
            for b in 0..blocks {
                block(&mut put, &format!("{name}.block.{b}"), width, WIDTHS[level]);
                width = WIDTHS[level];
            }
            if i < 3 {
                put(format!("{name}.{resample}.conv"), &[width, width, 3, 3]);
            }
        }
        for b in ["block_1", "block_2"] {
            block(&mut put, &format!("{half}.mid.{b}"), deepest, deepest);
        }
        put(format!("{half}.mid.attn_1.norm"), &[deepest]);
        for part in ["q", "k", "v", "proj_out"] {
            put(
                format!("{half}.mid.attn_1.{part}"),
                &[deepest, deepest, 1, 1],
            );
        }
        put(format!("{half}.norm_out"), &[width]);
        let last = if half == "encoder" { 32 } else { 3 };
        put(format!("{half}.conv_out"), &[last, width, 3, 3]);
    }
    out
}

/// Writes a safetensors file of small random values.
fn write(path: &Path, kind: &str, size: usize, tensors: &Tensors) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(tensors: &Tensors) -> usize {
        tensors
            .iter()
            .map(|(_, s)| s.iter().product::<usize>())
            .sum()
    }

    #[test]
    fn the_release_has_as_many_tensors_and_parameters() {
        let (ema, ae) = (language_and_vision(28, 0), autoencoder());
        assert_eq!((ema.len(), ae.len()), (1223, 244));
        assert_eq!(parameters(&ema), 14_607_260_128);
        assert_eq!(parameters(&ae), 83_819_683);
    }
}
