"""Vectors of fewer vision tokens for the Rust tests: the golden checkpoint with random compression, computed by this
training form (which check_golden.py compares with the original code). The original code has no such thing.

python golden_tokens.py [tests/golden] [tests/fewer-tokens.safetensors]
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from check_golden import causal, sizes_of
from export import checkpoint_name
from model import Bagel

CASES = [(4, 0), (1, 1)]  # tokens, and the first layer that has them


@torch.no_grad()
def main(root="../../tests/golden", out="../../tests/fewer-tokens.safetensors"):
    root = Path(root)
    golden = lambda name: load_file(root / "goldens" / f"{name}.safetensors")
    seen, pictures = golden("understanding"), golden("preprocess")
    sizes, whole = sizes_of(root / "checkpoint")
    markers = json.loads((root / "goldens" / "meta.json").read_text())["new_token_ids"]
    stored = load_file(root / "checkpoint" / "ema.safetensors")
    kept = {}
    for count, first in CASES:
        torch.manual_seed(count)
        own = dataclasses.replace(sizes, tokens=count, tokens_from=first)
        net = Bagel(own, [markers["start_of_image"], markers["end_of_image"]])
        net.latent_pos_embed = torch.empty(whole["max_latent_size"] ** 2, sizes.hidden)
        own = {n: p for n, p in net.state_dict().items() if n.startswith("vision_tokens.")}
        for name, value in own.items():
            chance = torch.randn_like(value)
            value.copy_(1 + 0.3 * chance if "norm" in name else chance * value.shape[-1] ** -0.5)
        own["vision_tokens.query"].mul_(sizes.hidden**0.5)
        net.load_state_dict(own | {n: stored[checkpoint_name(n)].float() for n in net.state_dict() if n not in own})

        size = [side // 14 for side in pictures["und.vit_tensor"].shape[1:]]
        hidden, cache = net.see(net.look(pictures["und.vit_tensor"][None].float()), 0, None, size)
        ids = seen["prompt.ids"].long()[None]
        read, _ = net.read(ids, torch.arange(1, 1 + ids.shape[1])[None], causal(ids.shape[1]), cache)
        values = {checkpoint_name(name): value for name, value in own.items()}
        values |= {"image": hidden[0], "logits": net.lm_head(read)[0]}
        kept |= {f"{count}.{first}/{name}": value.contiguous() for name, value in values.items()}
    save_file(kept, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
