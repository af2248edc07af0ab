//! The names of tensors: original checkpoint and GGUF.
//!
//! `_moe_gen` in an original name marks the generation twin of a language tensor; in GGUF it is
//! `_gen`. Autoencoder tensors keep their names behind `vae.`.

/// Original and GGUF names outside of layers.
const TOP: &[(&str, &str)] = &[
    (
        "language_model.model.embed_tokens.weight",
        "token_embd.weight",
    ),
    ("language_model.lm_head.weight", "output.weight"),
    ("language_model.model.norm.weight", "output_norm.weight"),
    (
        "language_model.model.norm_moe_gen.weight",
        "output_norm_gen.weight",
    ),
    ("time_embedder.mlp.0.weight", "time.0.weight"),
    ("time_embedder.mlp.0.bias", "time.0.bias"),
    ("time_embedder.mlp.2.weight", "time.2.weight"),
    ("time_embedder.mlp.2.bias", "time.2.bias"),
    ("vae2llm.weight", "lat.in.weight"),
    ("vae2llm.bias", "lat.in.bias"),
    ("llm2vae.weight", "lat.out.weight"),
    ("llm2vae.bias", "lat.out.bias"),
    ("latent_pos_embed.pos_embed", "lat.position_embd.weight"),
    ("connector.fc1.weight", "mm.0.weight"),
    ("connector.fc1.bias", "mm.0.bias"),
    ("connector.fc2.weight", "mm.2.weight"),
    ("connector.fc2.bias", "mm.2.bias"),
    ("vit_pos_embed.pos_embed", "mm.position_embd.weight"),
    // Kinglet's own: patches to fewer tokens.
    ("vision_tokens.norm.weight", "mm.tokens.norm.weight"),
    ("vision_tokens.query", "mm.tokens.query.weight"),
    ("vision_tokens.k_proj.weight", "mm.tokens.attn_k.weight"),
    ("vision_tokens.v_proj.weight", "mm.tokens.attn_v.weight"),
    (
        "vision_tokens.o_proj.weight",
        "mm.tokens.attn_output.weight",
    ),
    (
        "vit_model.vision_model.embeddings.patch_embedding.weight",
        "v.patch_embd.weight",
    ),
    (
        "vit_model.vision_model.embeddings.patch_embedding.bias",
        "v.patch_embd.bias",
    ),
    (
        "vit_model.vision_model.embeddings.position_embedding.weight",
        "v.position_embd.weight",
    ),
    (
        "vit_model.vision_model.post_layernorm.weight",
        "v.post_ln.weight",
    ),
    (
        "vit_model.vision_model.post_layernorm.bias",
        "v.post_ln.bias",
    ),
];

const LANGUAGE_PREFIX: &str = "language_model.model.layers.";
const LANGUAGE_GGUF: &str = "blk.";

/// Parts of a language layer: original module, GGUF name. The generation twin appends its mark to
/// the first element of the module's path that carries it (`mlp_moe_gen.gate_proj`).
const LANGUAGE: &[(&str, &str, &str)] = &[
    ("input_layernorm", "input_layernorm_moe_gen", "attn_norm"),
    ("self_attn.q_proj", "self_attn.q_proj_moe_gen", "attn_q"),
    ("self_attn.k_proj", "self_attn.k_proj_moe_gen", "attn_k"),
    ("self_attn.v_proj", "self_attn.v_proj_moe_gen", "attn_v"),
    (
        "self_attn.o_proj",
        "self_attn.o_proj_moe_gen",
        "attn_output",
    ),
    (
        "self_attn.q_norm",
        "self_attn.q_norm_moe_gen",
        "attn_q_norm",
    ),
    (
        "self_attn.k_norm",
        "self_attn.k_norm_moe_gen",
        "attn_k_norm",
    ),
    (
        "post_attention_layernorm",
        "post_attention_layernorm_moe_gen",
        "ffn_norm",
    ),
    ("mlp.gate_proj", "mlp_moe_gen.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "mlp_moe_gen.up_proj", "ffn_up"),
    ("mlp.down_proj", "mlp_moe_gen.down_proj", "ffn_down"),
    ("mlp.gate", "mlp_moe_gen.gate", "ffn_gate_inp"),
    ("mlp.gate_img", "mlp_moe_gen.gate_img", "ffn_gate_inp_img"),
    (
        "mlp.gate_shared",
        "mlp_moe_gen.gate_shared",
        "ffn_gate_inp_shexp",
    ),
    (
        "mlp.shared_expert.gate_proj",
        "mlp_moe_gen.shared_expert.gate_proj",
        "ffn_gate_shexp",
    ),
    (
        "mlp.shared_expert.up_proj",
        "mlp_moe_gen.shared_expert.up_proj",
        "ffn_up_shexp",
    ),
    (
        "mlp.shared_expert.down_proj",
        "mlp_moe_gen.shared_expert.down_proj",
        "ffn_down_shexp",
    ),
];

/// Parts of one expert. In GGUF all experts of a layer are one tensor, `ffn_gate_exps` and so on;
/// an original checkpoint stores each by itself, which is called `ffn_gate_exps.E` here.
const EXPERT: &[(&str, &str)] = &[
    ("gate_proj", "ffn_gate_exps"),
    ("up_proj", "ffn_up_exps"),
    ("down_proj", "ffn_down_exps"),
];

const VISION_PREFIX: &str = "vit_model.vision_model.encoder.layers.";
const VISION_GGUF: &str = "v.blk.";

const VISION: &[(&str, &str)] = &[
    ("layer_norm1", "ln1"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.out_proj", "attn_out"),
    ("layer_norm2", "ln2"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
];

/// What `_gen` names append.
pub const GENERATION_SUFFIX: &str = "_gen";

/// What the autoencoder's tensors begin with.
pub const AUTOENCODER_PREFIX: &str = "vae.";

/// Whether only drawing needs the tensor with this GGUF name.
pub fn draws(name: &str) -> bool {
    let joined = split_expert(name).map(|(joined, _)| joined);
    let name = joined.as_deref().unwrap_or(name);
    let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
    let beginnings = ["lat.", "time.", AUTOENCODER_PREFIX];
    module.ends_with(GENERATION_SUFFIX) || beginnings.iter().any(|b| name.starts_with(b))
}

/// The GGUF name of a tensor of the original `ema.safetensors`; none if it is no tensor of a dense
/// checkpoint.
pub fn from_original(name: &str) -> Option<String> {
    if let Some((_, gguf)) = TOP.iter().find(|(original, _)| *original == name) {
        return Some((*gguf).to_owned());
    }
    if let Some((layer, module, kind)) = layer(name, LANGUAGE_PREFIX) {
        if let Some((branch, expert)) = module.split_once(".experts.") {
            let suffix = match branch {
                "mlp" => "",
                "mlp_moe_gen" => GENERATION_SUFFIX,
                _ => return None,
            };
            let (number, part) = expert.split_once('.')?;
            let number: usize = number.parse().ok()?;
            let (_, gguf) = EXPERT.iter().find(|(original, _)| *original == part)?;
            return Some(format!(
                "{LANGUAGE_GGUF}{layer}.{gguf}{suffix}.{number}.{kind}"
            ));
        }
        return LANGUAGE.iter().find_map(|(und, generation, gguf)| {
            if module == *und {
                Some(format!("{LANGUAGE_GGUF}{layer}.{gguf}.{kind}"))
            } else if module == *generation {
                Some(format!(
                    "{LANGUAGE_GGUF}{layer}.{gguf}{GENERATION_SUFFIX}.{kind}"
                ))
            } else {
                None
            }
        });
    }
    let (layer, module, kind) = layer(name, VISION_PREFIX)?;
    let (_, gguf) = VISION.iter().find(|(original, _)| *original == module)?;
    Some(format!("{VISION_GGUF}{layer}.{gguf}.{kind}"))
}

/// The name in the original `ema.safetensors` of a tensor with this GGUF name, one expert being
/// `blk.N.ffn_gate_exps.E.weight`: the inverse of [`from_original`].
pub fn to_original(name: &str) -> Option<String> {
    if let Some((original, _)) = TOP.iter().find(|(_, gguf)| *gguf == name) {
        return Some((*original).to_owned());
    }
    if let Some((layer, part, kind)) = layer(name, VISION_GGUF) {
        let (original, _) = VISION.iter().find(|(_, gguf)| *gguf == part)?;
        return Some(format!("{VISION_PREFIX}{layer}.{original}.{kind}"));
    }
    let (layer, part, kind) = layer(name, LANGUAGE_GGUF)?;
    if let Some((part, expert)) = part.split_once('.') {
        let expert: usize = expert.parse().ok()?;
        let (branch, part) = match part.strip_suffix(GENERATION_SUFFIX) {
            Some(part) => ("mlp_moe_gen", part),
            None => ("mlp", part),
        };
        let (original, _) = EXPERT.iter().find(|(_, gguf)| *gguf == part)?;
        return Some(format!(
            "{LANGUAGE_PREFIX}{layer}.{branch}.experts.{expert}.{original}.{kind}"
        ));
    }
    let module = LANGUAGE.iter().find_map(|(und, generation, gguf)| {
        if part == *gguf {
            Some(und)
        } else if part.strip_suffix(GENERATION_SUFFIX) == Some(*gguf) {
            Some(generation)
        } else {
            None
        }
    })?;
    Some(format!("{LANGUAGE_PREFIX}{layer}.{module}.{kind}"))
}

/// The name of expert `e` of the joined experts `name`: the inverse of [`split_expert`].
pub fn expert(name: &str, e: usize) -> String {
    let part = name.strip_suffix(".weight").unwrap_or(name);
    format!("{part}.{e}.weight")
}

/// Whether a GGUF name is that of a layer's joined experts.
pub fn is_experts(name: &str) -> bool {
    EXPERT.iter().any(|(_, gguf)| {
        let plain = format!(".{gguf}.weight");
        let generation = format!(".{gguf}{GENERATION_SUFFIX}.weight");
        name.ends_with(&plain) || name.ends_with(&generation)
    })
}

/// Splits the name of one expert, `blk.N.ffn_gate_exps.E.weight`, into that of the joined experts
/// and the expert's number.
pub fn split_expert(name: &str) -> Option<(String, usize)> {
    let (rest, number) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let joined = format!("{rest}.weight");
    let number = number.parse().ok()?;
    is_experts(&joined).then_some((joined, number))
}

/// Splits `PREFIX` `N.` `module` `.weight` into number, module and the last part.
fn layer<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let number = number.parse().ok()?;
    matches!(kind, "weight" | "bias").then_some((number, module, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_are_told_apart() {
        let cases = [
            (
                "language_model.model.layers.3.mlp.gate_proj.weight",
                "blk.3.ffn_gate.weight",
            ),
            (
                "language_model.model.layers.3.mlp_moe_gen.gate_proj.weight",
                "blk.3.ffn_gate_gen.weight",
            ),
            (
                "language_model.model.layers.0.self_attn.q_proj_moe_gen.bias",
                "blk.0.attn_q_gen.bias",
            ),
            (
                "vit_model.vision_model.encoder.layers.12.mlp.fc1.bias",
                "v.blk.12.ffn_up.bias",
            ),
        ];
        for (original, gguf) in cases {
            assert_eq!(from_original(original).as_deref(), Some(gguf));
            assert_eq!(to_original(gguf).as_deref(), Some(original));
        }
        assert_eq!(
            from_original("language_model.model.layers.x.mlp.up_proj.weight"),
            None
        );
        assert_eq!(from_original("something.else"), None);
        assert_eq!(to_original("blk.0.ffn_gate_exps.x.weight"), None);
        assert_eq!(to_original("blk.0.something.weight"), None);
    }
}
