"""Writes trained states as a checkpoint directory in BAGEL's own layout, which `kinglet compress` takes. Without a
drawing state, a checkpoint that understands only.

python export.py UNDERSTANDING AUTOENCODER TOKENIZER OUT [DRAWING]
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import state
from assembled import assembled
from model import EPS

LANGUAGE, VISION = "language_model.model.", "vit_model.vision_model."
PLACES = [
    (("layers.", "norm.", "norm_moe_gen.", "embed_tokens."), LANGUAGE, ""),
    (("lm_head.",), "language_model.", ""),
    (("vae2llm.", "llm2vae."), "", ""),
    (("latent_pos_embed", "vit_pos_embed"), "", ".pos_embed"),
    (("fc1.", "fc2."), "connector.", ""),
    (("vision_tokens.",), "", ""),
    (("patch_embedding.", "position_embedding."), VISION + "embeddings.", ""),
    (("post_layernorm.",), VISION, ""),
]


def checkpoint_name(name):
    if name.startswith("vit."):
        return VISION + "encoder.layers." + name.removeprefix("vit.")
    if name.startswith("time_embedder."):
        return name.replace("time_embedder.", "time_embedder.mlp.")
    for starts, before, after in PLACES:
        if name.startswith(starts):
            return before + name + after
    raise ValueError(f"the tensor {name} has no place in a checkpoint")


def settings(c, ae, draws, steps, shift):
    """{file: content} of the configuration, for sizes `c` and the autoencoder's measured scale; steps: those that the
    drawing branch was distilled to, with its guidance inside, or None; shift: of these steps' times."""
    scale = 1.0 if steps else 2.0
    language = dict(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2", vocab_size=c.vocabulary, hidden_size=c.hidden,
        intermediate_size=c.inner, num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim, hidden_act="silu", max_position_embeddings=1024, rms_norm_eps=EPS, rope_theta=c.theta,
        tie_word_embeddings=False, torch_dtype="bfloat16", qk_norm=True, layer_module="Qwen2MoTDecoderLayer",
    )  # fmt: skip
    if c.experts:
        language |= dict(
            num_experts=c.experts, num_shared_experts=0, top_k=c.active, transformed_gen=list(range(1, c.layers - 1)),
            transformed_und=False, freeze_experts=False,
        )  # fmt: skip
    # BAGEL leaves the tower's last layer out, so the file names one more than there are.
    vision = dict(
        model_type="siglip_vision_model", hidden_size=c.vision_hidden, intermediate_size=c.vision_inner,
        num_hidden_layers=c.vision_layers + 1, num_attention_heads=c.vision_heads, num_channels=3, image_size=c.grid * 14,
        patch_size=14, hidden_act="gelu_pytorch_tanh", layer_norm_eps=EPS, attention_dropout=0.0,
    )  # fmt: skip
    picture = lambda stride: dict(max_image_size=112, min_image_size=112, image_stride=stride, max_pixels=1806336)
    whole = dict(
        model_type="bagel", visual_gen=draws, visual_und=True, vit_max_num_patch_per_side=c.grid, latent_patch_size=2,
        max_latent_size=c.grid, connector_act="gelu_pytorch_tanh", interpolate_pos=False, timestep_shift=1.0,
        vae_config=dict(
            in_channels=3, out_ch=3, downsample=8, ch=c.ae_width, ch_mult=list(c.ae_factors), num_res_blocks=c.ae_blocks,
            z_channels=16, num_groups=c.ae_groups, scale_factor=float(ae["ae/scale"]), shift_factor=float(ae["ae/shift"]),
        ),
        vae_transform=picture(16), vit_transform=picture(14),
        draw=dict(
            num_timesteps=(steps or 24) + 1, timestep_shift=shift, cfg_text_scale=scale, cfg_interval=[0.0, 1.0],
            cfg_renorm_type="global", cfg_renorm_min=0.0,
        ),
        edit=dict(cfg_text_scale=scale, cfg_img_scale=1.0, cfg_renorm_type="global"),
    )  # fmt: skip
    if c.tokens:
        whole["vision_tokens"] = dict(count=c.tokens, from_layer=c.tokens_from)
    return {"llm_config.json": language, "vit_config.json": vision, "config.json": whole}


def main(understanding, autoencoder, tokenizer, out, drawing=None, size="tiny"):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    whole, ae = assembled(size, understanding, drawing), state.read(autoencoder)[0]
    c, drawing_names, net = whole.c, whole.drawing_names(), whole.state_dict()
    if not drawing:
        net = {k: v for k, v in net.items() if k not in drawing_names and k != "latent_pos_embed"}
    named = {checkpoint_name(k): v.to(torch.bfloat16).contiguous() for k, v in net.items()}
    save_file(named, out / "ema.safetensors")
    pieces = {k.removeprefix("ae/"): v.float().contiguous() for k, v in ae.items() if k.startswith(("ae/encoder", "ae/decoder"))}
    if drawing:
        save_file(pieces, out / "ae.safetensors")
    facts = state.facts_of(drawing) if drawing else {}
    own = settings(c, ae, bool(drawing), facts.get("steps"), facts.get("shift", 1.0))
    for file, content in own.items():
        (out / file).write_text(json.dumps(content, indent=1) + "\n")
    shutil.copy(tokenizer, out / "tokenizer.json")
    count = lambda tensors: sum(t.numel() for t in tensors.values())
    print(f"{len(named)} tensors of {count(named)} values in {out}{'' if drawing else ', which understands only'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
