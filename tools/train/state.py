"""A run's state on disk: it stops and goes on where it was. Safetensors of at most 15 MB each, and one JSON file.

Weights keep 32 bits; the optimizers' momenta are kept in bfloat16, second moments in 32 bits (they span too much).
A compact state, for carrying a run to another machine, is weights in bfloat16 alone: momenta come back within
a hundred steps. `python state.py FULL COMPACT` makes one; a run whose folder is empty starts from it with --from.
`python state.py BEFORE AFTER MEAN` makes one of the mean weights of two compact ones of a run.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

SHARD = 15_000_000


def save(folder, modules, optimizer, rng, facts):
    """modules: {name: module}; facts: what else the run must know, as JSON. Replaces the folder in one step."""
    tensors = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"{name}/{key}"] = value.detach().cpu().contiguous().clone()
    for i, (part, _) in enumerate(optimizer.parts if optimizer else []):
        for j, state in part.state_dict()["state"].items():
            for key, value in state.items():
                if torch.is_tensor(value):
                    short = value.to(torch.bfloat16) if key in ("momentum", "exp_avg") else value
                    tensors[f"optimizer/{i}/{j}/{key}"] = short.detach().cpu().contiguous().clone()
    tensors["torch_rng"] = torch.get_rng_state()
    write(folder, tensors, {"rng": rng.bit_generator.state, **facts})


def write(folder, tensors, facts):
    """Replaces the folder in one step."""
    making = Path(f"{folder}.part")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    shard, size, count = {}, 0, 0
    for key, value in tensors.items():
        bytes_ = value.numel() * value.element_size()
        if shard and size + bytes_ > SHARD:
            save_file(shard, making / f"{count:03}.safetensors")
            shard, size, count = {}, 0, count + 1
        shard[key] = value
        size += bytes_
    save_file(shard, making / f"{count:03}.safetensors")
    (making / "run.json").write_text(json.dumps(facts))
    old = Path(f"{folder}.old")
    shutil.rmtree(old, ignore_errors=True)
    if Path(folder).exists():
        os.rename(folder, old)
    os.rename(making, folder)
    shutil.rmtree(old, ignore_errors=True)


def begin(folder, tensors, sizes):
    """Writes weights that no run has made, for one to begin with. sizes: the model's, where they are not its usual ones."""
    write(folder, tensors, dict(step=0, seen=0, seconds=0.0, curve=[], untouched=[], rng=None, sizes=sizes))


def read(folder):
    """(tensors, facts) of a folder that `write` made; None where there is none."""
    folder = Path(folder)
    if not folder.exists() and Path(f"{folder}.old").exists():
        folder = Path(f"{folder}.old")
    if not (folder / "run.json").exists():
        return None
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors, json.loads((folder / "run.json").read_text())


def facts_of(folder):
    found = read(folder)
    if found is None:
        raise SystemExit(f"there is no state in {folder}")
    return found[1]


def compact(full, folder):
    """The weights that training has changed, in bfloat16, and the facts without the state of chance."""
    tensors, facts = read(full)
    changed = {k: v for k, v in tensors.items() if not k.startswith(("optimizer/", "torch_rng")) and k not in facts["untouched"]}
    facts["rng"] = None
    write(folder, {k: v.to(torch.bfloat16) if v.dim() else v for k, v in changed.items()}, facts)


def mean(before, after, folder):
    """The mean of two compact states' weights: where the rate has risen and fallen again in between, it is better than
    both (Izmailov and others, 2018). The facts are the later one's."""
    (early, _), (late, facts) = read(before), read(after)
    write(folder, {k: ((v.float() + late[k].float()) / 2).to(v.dtype) if v.dim() else late[k] for k, v in early.items()}, facts)


def load(folder, modules, optimizer=None, rng=None):
    """Fills what `save` or `compact` kept; returns the facts, or None where there is no state."""
    found = read(folder)
    if found is None:
        return None
    tensors, facts = found
    for name, module in modules.items():
        own = {k.split("/", 1)[1]: v.float() for k, v in tensors.items() if k.startswith(name + "/")}
        lacking = module.load_state_dict(own, strict=False)
        unknown = lacking.unexpected_keys + [k for k in lacking.missing_keys if f"{name}/{k}" not in facts["untouched"]]
        if unknown:
            raise ValueError(f"{folder} is not a state of this run: {unknown[0]}")
    for i, (part, _) in enumerate(optimizer.parts if optimizer else []):
        whole = part.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"optimizer/{i}/"):
                j, name = key.split("/")[2:]
                value = value.float() if value.dtype == torch.bfloat16 else value
                whole["state"].setdefault(int(j), {})[name] = value
        part.load_state_dict(whole)
    if rng is not None and facts["rng"]:
        rng.bit_generator.state = facts["rng"]
        torch.set_rng_state(tensors["torch_rng"])
    elif rng is not None:
        # A compact state: other pictures than those that the run has begun with.
        rng.bit_generator.state = fresh_rng(facts["seen"]).bit_generator.state
    return facts


def load_part(folder, name, module, keys):
    """Fills these parameters of a module with those that another run kept under its name."""
    tensors, _ = read(folder) or ({}, None)
    lacking = [key for key in keys if f"{name}/{key}" not in tensors]
    if lacking:
        raise ValueError(f"{folder} has no {name}/{lacking[0]}")
    module.load_state_dict({key: tensors[f"{name}/{key}"].float() for key in keys}, strict=False)


def fresh_rng(seed):
    return np.random.Generator(np.random.PCG64(seed))


if __name__ == "__main__":
    {2: compact, 3: mean}[len(sys.argv) - 1](*sys.argv[1:])
