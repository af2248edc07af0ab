//! The shape of BAGEL-7B-MoT, and smaller ones of its kind: names and sizes of every tensor.

/// Names and sizes, outermost first.
pub type Tensors = Vec<(String, Vec<usize>)>;

/// Values of a patch's state in the vision encoder.
pub const VISION: usize = 1152;
/// Values inside its feed-forward networks.
pub const VISION_INNER: usize = 4304;
/// Side of the tables of positions, in patches and in latent tokens.
pub const SIDES: (usize, usize) = (70, 64);

/// What may differ from the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Values of a token's state.
    pub hidden: usize,
    /// Values inside a dense feed-forward network.
    pub inner: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Layers of the language half.
    pub layers: usize,
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Experts of the sparse layers; 0 = all are dense.
    pub experts: usize,
    /// The first and the last layer are dense in any case.
    pub dense_ends: bool,
    /// Layers of the vision encoder.
    pub vision_layers: usize,
}

impl Shape {
    /// BAGEL-7B-MoT as it was released.
    pub const RELEASE: Shape = Shape {
        hidden: 3584,
        inner: 18_944,
        heads: 28,
        kv_heads: 4,
        layers: 28,
        vocabulary: 152_064,
        experts: 0,
        dense_ends: true,
        vision_layers: 26,
    };

    /// Whether a layer's generation half is sparse.
    pub const fn is_sparse(&self, layer: usize) -> bool {
        self.experts > 0 && (!self.dense_ends || layer > 0 && layer + 1 < self.layers)
    }

    /// Values of a token's keys.
    pub const fn kv_width(&self) -> usize {
        self.hidden / self.heads * self.kv_heads
    }

    /// The tensors of ema.safetensors by their original names.
    pub fn language_and_vision(&self) -> Tensors {
        let Shape {
            hidden,
            inner,
            heads,
            layers,
            vocabulary,
            experts,
            vision_layers,
            ..
        } = *self;
        let (kv, head) = (self.kv_width(), hidden / heads);

        let mut out = Tensors::new();
        let mut put = |name: String, shape: &[usize]| out.push((name, shape.to_vec()));
        put(
            "language_model.model.embed_tokens.weight".into(),
            &[vocabulary, hidden],
        );
        put(
            "language_model.lm_head.weight".into(),
            &[vocabulary, hidden],
        );
        put("language_model.model.norm.weight".into(), &[hidden]);
        put("language_model.model.norm_moe_gen.weight".into(), &[hidden]);
        for i in 0..layers {
            for suffix in ["", "_moe_gen"] {
                let name = |part: &str| format!("language_model.model.layers.{i}.{part}");
                for (part, width) in [("q", hidden), ("k", kv), ("v", kv)] {
                    put(
                        name(&format!("self_attn.{part}_proj{suffix}.weight")),
                        &[width, hidden],
                    );
                    put(
                        name(&format!("self_attn.{part}_proj{suffix}.bias")),
                        &[width],
                    );
                }
                put(
                    name(&format!("self_attn.o_proj{suffix}.weight")),
                    &[hidden, hidden],
                );
                put(name(&format!("self_attn.q_norm{suffix}.weight")), &[head]);
                put(name(&format!("self_attn.k_norm{suffix}.weight")), &[head]);
                put(name(&format!("input_layernorm{suffix}.weight")), &[hidden]);
                put(
                    name(&format!("post_attention_layernorm{suffix}.weight")),
                    &[hidden],
                );
                let sparse = !suffix.is_empty() && self.is_sparse(i);
                let mut feed_forward = |inside: &str, width: usize| {
                    for part in ["gate", "up"] {
                        put(
                            name(&format!("mlp{suffix}.{inside}{part}_proj.weight")),
                            &[width, hidden],
                        );
                    }
                    put(
                        name(&format!("mlp{suffix}.{inside}down_proj.weight")),
                        &[hidden, width],
                    );
                };
                if sparse {
                    for e in 0..experts {
                        feed_forward(&format!("experts.{e}."), inner / experts);
                    }
                    put(name("mlp_moe_gen.gate.weight"), &[experts, hidden]);
                    put(name("mlp_moe_gen.gate_shared.weight"), &[1, hidden]);
                } else {
                    feed_forward("", inner);
                }
            }
        }
        let mut linear = |name: &str, outputs: usize, inputs: usize| {
            out.push((format!("{name}.weight"), vec![outputs, inputs]));
            out.push((format!("{name}.bias"), vec![outputs]));
        };
        linear("time_embedder.mlp.0", hidden, 256);
        linear("time_embedder.mlp.2", hidden, hidden);
        linear("vae2llm", hidden, 64);
        linear("llm2vae", 64, hidden);
        linear("connector.fc1", hidden, VISION);
        linear("connector.fc2", hidden, hidden);
        let vision = "vit_model.vision_model";
        linear(&format!("{vision}.embeddings.patch_embedding"), VISION, 588);
        for i in 0..vision_layers {
            let name = |part: &str| format!("{vision}.encoder.layers.{i}.{part}");
            for part in ["q", "k", "v", "out"] {
                linear(&name(&format!("self_attn.{part}_proj")), VISION, VISION);
            }
            linear(&name("mlp.fc1"), VISION_INNER, VISION);
            linear(&name("mlp.fc2"), VISION, VISION_INNER);
        }
        let mut put = |name: String, shape: &[usize]| out.push((name, shape.to_vec()));
        for i in 0..vision_layers {
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
        put("vit_pos_embed.pos_embed".into(), &[patches, hidden]);
        put("latent_pos_embed.pos_embed".into(), &[latents, hidden]);
        out
    }

    /// The tensors of ae.safetensors.
    pub fn autoencoder() -> Tensors {
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
        let (ema, ae) = (Shape::RELEASE.language_and_vision(), Shape::autoencoder());
        assert_eq!((ema.len(), ae.len()), (1223, 244));
        assert_eq!(parameters(&ema), 14_607_260_128);
        assert_eq!(parameters(&ae), 83_819_683);
    }
}
