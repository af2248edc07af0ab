"""Whether this training form computes what the original code does: relative errors against the golden vectors.

python check_golden.py [tests/golden]
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from autoencoder import Autoencoder
from drawing import keeping
from export import checkpoint_name
from model import Bagel
from sizes import Sizes

BOUND = 1e-5


def sizes_of(folder, adapted=None):
    """Sizes of a checkpoint, whose language model may be that of an adapted one; its settings."""
    read = lambda name, folder=folder: json.loads((folder / f"{name}.json").read_text())
    language, vision, whole = read("llm_config", adapted or folder), read("vit_config"), read("config")
    ae = whole["vae_config"]
    return Sizes(
        hidden=language["hidden_size"], inner=language["intermediate_size"], layers=language["num_hidden_layers"],
        heads=language["num_attention_heads"], kv_heads=language["num_key_value_heads"],
        head_dim=language["hidden_size"] // language["num_attention_heads"], vocabulary=language["vocab_size"],
        theta=language["rope_theta"], grid=whole["vit_max_num_patch_per_side"], vision_hidden=vision["hidden_size"],
        vision_inner=vision["intermediate_size"], vision_layers=vision["num_hidden_layers"] - 1,
        vision_heads=vision["num_attention_heads"], ae_width=ae["ch"], ae_factors=tuple(ae["ch_mult"]),
        ae_blocks=ae["num_res_blocks"], ae_groups=ae.get("num_groups", 32),
        experts=language.get("num_experts", 0), active=language.get("top_k", 0),
    ), whole  # fmt: skip


def causal(n):
    return torch.ones(1, n, n, dtype=torch.bool).tril()


def loaded(root, adapted=None):
    c, whole = sizes_of(root / "checkpoint", adapted)
    markers = json.loads((root / "goldens" / "meta.json").read_text())["new_token_ids"]
    net = Bagel(c, [markers["start_of_image"], markers["end_of_image"]])
    stored = load_file((adapted or root / "checkpoint") / "ema.safetensors")
    # The tables of places have a side of their own each.
    net.latent_pos_embed = torch.empty(whole["max_latent_size"] ** 2, c.hidden)
    net.load_state_dict({name: stored[checkpoint_name(name)].float() for name in net.state_dict()})
    return net, c, whole


@torch.no_grad()
def main(root="../../tests/golden"):
    root = Path(root)
    golden = lambda name: load_file(root / "goldens" / f"{name}.safetensors")
    net, c, whole = loaded(root)
    ae = Autoencoder(c)
    weights = load_file(root / "checkpoint" / "ae.safetensors")
    ae.load_state_dict({name: weights.get(name, value) for name, value in ae.state_dict().items()})
    worst = {}

    def near(name, got, expected):
        worst[name] = float((got.reshape(expected.shape) - expected).norm() / expected.norm())

    at = lambda start, n: torch.arange(start, start + n)[None]
    text = golden("text_only")
    ids = text["prompt.ids"].long()[None]
    hidden, _ = net.read(ids, at(0, ids.shape[1]), causal(ids.shape[1]))
    near("text: logits", net.lm_head(hidden), text["prompt.logits"])

    seen, pictures = golden("understanding"), golden("preprocess")
    vision = net.look(pictures["und.vit_tensor"][None].float())
    near("vision tower", vision, golden("vit")["vit_features"])
    size = [side // 14 for side in pictures["und.vit_tensor"].shape[1:]]
    hidden, cache = net.see(vision, 0, None, size)
    near("picture", hidden, seen["image.llm_output_normed"][1:-1])
    ids = seen["prompt.ids"].long()[None]
    hidden, _ = net.read(ids, at(1, ids.shape[1]), causal(ids.shape[1]), cache)
    near("question: logits", net.lm_head(hidden), seen["prompt.logits"])

    # Latents' places are counted in their own table.
    own = c.grid
    object.__setattr__(c, "grid", whole["max_latent_size"])
    drawn = golden("t2i_velocity")
    grid = [side // 16 for side in drawn["image_hw"].tolist()]
    ids = drawn["prompt.ids"].long()[None]
    _, cache = net.read(ids, at(0, ids.shape[1]), causal(ids.shape[1]))
    noise, position = drawn["noise"][None].float(), torch.tensor([ids.shape[1]])
    for time in ("0.1", "0.75", "1.0"):
        times = torch.tensor([float(time)])
        near(f"velocity at {time}", net.velocity(noise, times, position, cache, None, grid)[0], drawn[f"velocity.nocfg.t{time}"])
        alone = net.velocity(noise, times, torch.tensor([0]), None, None, grid)[0]
        near(f"velocity at {time}, no prompt", alone, drawn[f"velocity.uncond.t{time}"])

    sparse, of_sparse, _ = loaded(root, root / "moe")
    object.__setattr__(of_sparse, "grid", whole["max_latent_size"])
    adapted = load_file(root / "moe" / "t2i.safetensors")
    _, cache = sparse.read(ids, at(0, ids.shape[1]), causal(ids.shape[1]))
    for time in ("0.1", "0.75", "1.0"):
        got = sparse.velocity(adapted["noise"][None].float(), torch.tensor([float(time)]), position, cache, None, grid)[0]
        near(f"experts: velocity at {time}", got, adapted[f"velocity.nocfg.t{time}"])

    edit = golden("edit")
    grid = [side // 16 for side in edit["image_hw"].tolist()]
    mean, spread = ae.moments(edit["image_vae_tensor"][None].float())
    latent = mean + torch.exp(0.5 * spread) * edit["vae_noise"]
    latent = (latent - whole["vae_config"]["shift_factor"]) * whole["vae_config"]["scale_factor"]
    b, channels, high, wide = latent.shape
    tokens = latent.view(b, channels, high // 2, 2, wide // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 4 * channels)

    def shown(cache):
        object.__setattr__(c, "grid", own)
        picture = edit["image_vit_tensor"][None].float()
        _, cache = net.see(net.look(picture), 1, cache, [side // 14 for side in picture.shape[2:]])
        object.__setattr__(c, "grid", whole["max_latent_size"])
        return (cache,)

    cache = keeping(net.remember(tokens, 0, None, grid), shown)[0]
    ids = edit["prompt.ids"].long()[None]
    _, cache = net.read(ids, at(2, ids.shape[1]), causal(ids.shape[1]), cache)
    noise, position = edit["noise"][None].float(), torch.tensor([2 + ids.shape[1]])
    for time in ("0.5", "1.0"):
        got = net.velocity(noise, torch.tensor([float(time)]), position, cache, None, grid)[0]
        near(f"edit: velocity at {time}", got, edit[f"velocity.nocfg.t{time}"])

    coded = golden("vae")
    near("encoder", torch.cat(ae.moments(coded["encode.image"].float()), 1), coded["encode.moments"])
    unscaled = coded["decode.latent_nchw"].float() / whole["vae_config"]["scale_factor"] + whole["vae_config"]["shift_factor"]
    near("decoder", ae.decoder(unscaled), coded["decode.image_float"])
    for name, error in worst.items():
        print(f"{error:9.2e}  {name}{'' if error < BOUND else '  TOO FAR'}")
    if any(error >= BOUND for error in worst.values()):
        raise SystemExit("the training form is another model")


if __name__ == "__main__":
    main(*sys.argv[1:])
