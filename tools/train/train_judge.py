"""The judge of drawings: says for every cell of 8 pixels what lies there and where its middle is, or that it is junk.

Two judges of different seeds have never seen the model's training seeds. `kinglet-eval` runs them; what they say of
a picture is a list of things with their places, so that counts, relations and edits can be judged as well.
"""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

import state
from junk import spoiled
from model import pixels
from run import Run, arguments, autocast
from train_autoencoder import Adam
from world import NAMES, NOTHING, SIZE, Variants, finished, related, scattered, through_camera

JUNK = NOTHING + 1
STRIDE = 8
# Channels of 3x3 convolutions; 0 halves the picture.
LAYERS = [24, 0, 48, 48, 0, 64, 64, 0, 128, 128, 128]


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions, self.norms, before = nn.ModuleList(), nn.ModuleList(), 3
        for width in filter(None, LAYERS):
            self.convolutions.append(nn.Conv2d(before, width, 3, 1, 1, bias=False))
            self.norms.append(nn.BatchNorm2d(width))
            before = width
        self.head = nn.Conv2d(before, JUNK + 1 + 2, 1)

    def forward(self, x):
        """[B, 3, 112, 112] in -1..1 -> kinds [B, JUNK + 1, 14, 14], centres [B, 2, 14, 14] as `Scene.centres`"""
        layers = iter(zip(self.convolutions, self.norms))
        for width in LAYERS:
            if width:
                convolution, norm = next(layers)
                x = F.relu(norm(convolution(x)))
            else:
                x = F.max_pool2d(x, 2)
        return self.head(x).split([JUNK + 1, 2], 1)

    def folded(self):
        """What is written: norms are part of the convolutions before them."""
        tensors = {"head.weight": self.head.weight.flatten(1), "head.bias": self.head.bias}
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            tensors[f"conv.{i}.weight"] = convolution.weight * factor[:, None, None, None]
            tensors[f"conv.{i}.bias"] = norm.bias - norm.running_mean * factor
        return {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}


def composed(rng, variants):
    scene = related(rng, variants) if rng.random() < 0.25 else scattered(rng, variants, int(rng.integers(0, 5)))
    scene.things = [spoiled(rng, variants, t, JUNK) if rng.random() < 0.2 else t for t in scene.things]
    return scene


def bent(x):
    """Bent by a pixel or so, as a decoder bends: still what it is."""
    field = F.interpolate(torch.randn(len(x), 2, 14, 14), SIZE, mode="bicubic").permute(0, 2, 3, 1) * 1.2 / (SIZE / 2)
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid + field.to(x.device), padding_mode="border", align_corners=False)


def softened(rng, x):
    small = F.interpolate(x, int(rng.integers(56, 100)), mode="bilinear", antialias=True)
    return F.interpolate(small, SIZE, mode="bilinear")


def sample(rng, variants):
    scene = composed(rng, variants)
    kinds = np.array([t.kind for t in scene.things] + [NOTHING])[scene.owners(STRIDE)]
    picture = scene.paint()
    picture = through_camera(rng, picture) if rng.random() < 0.2 else finished(picture)
    return picture, kinds, scene.centres(STRIDE)


def things(kinds, centres):
    """What a judge says of one picture, [(kind, x, y, cells)]: cells that agree about a centre are one thing."""
    side = SIZE // STRIDE
    logs = torch.log_softmax(kinds.flatten(1), 0)
    covered = (logs.argmax(0) != NOTHING).nonzero().flatten().tolist()
    middles = centres.flatten(1) * (SIZE / 2)
    groups = []
    for cell in covered:
        x = (cell % side + 0.5) * STRIDE + float(middles[0, cell])
        y = (cell // side + 0.5) * STRIDE + float(middles[1, cell])
        near = [g for g in groups if abs(g[0] / g[2] - x) < 10 and abs(g[1] / g[2] - y) < 10]
        if near:
            group = min(near, key=lambda g: abs(g[0] / g[2] - x) + abs(g[1] / g[2] - y))
        else:
            groups.append(group := [0.0, 0.0, 0, torch.zeros(len(logs))])
        group[0], group[1], group[2], group[3] = group[0] + x, group[1] + y, group[2] + 1, group[3] + logs[:, cell]
    kept = [g for g in groups if g[2] > 2]
    likely = lambda g: int(torch.cat([g[3][:NOTHING], g[3][JUNK:]]).argmax())
    return [(NAMES[k] if (k := likely(g)) < NOTHING else "junk", g[0] / g[2], g[1] / g[2], g[2]) for g in kept]


@torch.no_grad()
def examine(net, held, device):
    """Shares of held-out scenes whose whole list is right, by what is in them, and of those with junk that are refused."""
    net.eval()
    marks = {}
    for name, scenes in held.items():
        pictures = pixels(np.stack([finished(s.paint()) for s in scenes]), device)
        right = 0
        for scene, kinds, centres in zip(scenes, *(t.float().cpu() for t in net(pictures))):
            said = sorted(t[0] for t in things(kinds, centres))
            right += "junk" in said if name == "junk" else said == sorted(t.name for t in scene.things)
        marks[name] = round(right / len(scenes), 4)
    net.train()
    return marks


def held_out():
    rng, variants = np.random.default_rng(4244), Variants(777, 12)
    held = {str(n): [scattered(rng, variants, n) for _ in range(100)] for n in range(1, 5)}
    held["related"] = [related(rng, variants) for _ in range(100)]
    held["junk"] = []
    while len(held["junk"]) < 100:
        scene = scattered(rng, variants, 1)
        scene.things = [spoiled(rng, variants, scene.things[0], JUNK)]
        held["junk"].append(scene)
    return held


def main():
    a = arguments(__doc__, samples=200_000, batch=32, seed=(int, 31, "of its scenes and its beginning"))
    rng = state.fresh_rng(a.seed)
    torch.manual_seed(a.seed)
    variants, held = Variants(a.seed), held_out()
    net = Judge().to(a.device)
    optimizer = Adam(net.parameters(), 3e-3)
    run = Run(a, {"judge": net}, optimizer, rng)
    while run.going():
        pictures, kinds, centres = (np.stack(column) for column in zip(*(sample(rng, variants) for _ in range(a.batch))))
        x = pixels(pictures, a.device)
        x = bent(x) if rng.random() < 0.5 else x
        x = softened(rng, x) if rng.random() < 0.5 else x
        kinds = torch.as_tensor(kinds, device=a.device)
        centres = torch.as_tensor(centres, device=a.device)
        with autocast(a.device):
            said, middles = (t.float().flatten(2) for t in net(x))
        covered = kinds != NOTHING
        off = (middles.transpose(1, 2)[covered] - centres[covered]).abs().mean()
        named = F.cross_entropy(said, kinds)
        (named + off).backward()
        fall = 0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * min(run.done, 1)))
        optimizer.step(min(1.0, (run.step + 1) / 100) * fall)
        right = (said.argmax(1) == kinds)[covered].float().mean()
        run.after_step(a.batch, loss=named.item(), cells=float(right), pixels=float(off) * SIZE / 2)
        if run.step % 500 == 0:
            run.note(**examine(net, held, a.device))
            run.skip_clock()
    run.note(**examine(net, held, a.device))
    run.save()
    save_file(net.eval().folded(), f"{a.out}.safetensors")


if __name__ == "__main__":
    main()
