"""Takes a checkpoint directory whose drawing branch `kinglet compress` has split into experts (and `kinglet export` has
written) back as a state that training goes on from.

python adapted.py CHECKPOINT OUT [SIZE]
"""

import dataclasses
import json
import sys
from pathlib import Path

from safetensors.torch import load_file

import state
from export import checkpoint_name
from model import Bagel
from sizes import SIZES


def main(checkpoint, out, size="tiny"):
    checkpoint = Path(checkpoint)
    language = json.loads((checkpoint / "llm_config.json").read_text())
    c, stored = SIZES[size], load_file(checkpoint / "ema.safetensors")
    routers = [stored.get(checkpoint_name(f"layers.{i}.mlp_moe_gen.gate.weight")) for i in range(c.layers)]
    inner = [0 < i < c.layers - 1 for i in range(c.layers)]
    if [router is not None for router in routers] != inner or language["num_shared_experts"]:
        raise SystemExit(f"{checkpoint}: layers 1 to {c.layers - 2} are to have experts, and none of them shared")
    own = dict(experts=len(routers[1]), active=language["top_k"])
    names = Bagel(dataclasses.replace(c, **own), [0, 1]).drawing_names()
    tensors = {f"net/{name}": stored[checkpoint_name(name)].float() for name in names}
    state.begin(out, tensors, own)
    print(f"{len(tensors)} tensors, {own['active']} of {own['experts']} experts active, in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
