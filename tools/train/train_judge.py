"""The judge of drawings: says for every cell of 8 pixels what lies there, how large it is and where its middle is, or
that it is junk.

Two judges of different seeds have never seen the model's training seeds. `kinglet-eval` takes the mean of what they
say; of a picture that makes a list of things with their places, so that counts, relations and edits can be judged as well.
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
# By how much of a thing's size a cell may differ about its centre, if what it names may be the thing's kind or not:
# if that kind is at most e^DOUBT times less likely than the likeliest.
SAME, OTHER, DOUBT = 0.45, 0.15, 6.0
LEAST = 3  # cells; fewer are nothing
REFUSED = ("spoilt", "means", "blank", "noise")
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
        self.head = nn.Conv2d(before, JUNK + 1 + 3, 1)

    def forward(self, x):
        """[B, 3, 112, 112] in -1..1 -> kinds [B, JUNK + 1, 14, 14], [B, 3, 14, 14]: centres as `Scene.centres` and the
        longest side in halves of the picture"""
        layers = iter(zip(self.convolutions, self.norms))
        for width in LAYERS:
            if width:
                convolution, norm = next(layers)
                x = F.relu(norm(convolution(x)))
            else:
                x = F.max_pool2d(x, 2)
        return self.head(x).split([JUNK + 1, 3], 1)

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
    scene.things = [spoiled(rng, variants, t, JUNK) if rng.random() < 0.15 else t for t in scene.things]
    return scene


def empty(rng, variants):
    """A picture with nothing in it: one colour, noise, or the mean of many scenes with one kind of thing."""
    roll = rng.random()
    if roll < 0.4:
        return np.full((SIZE, SIZE, 3), rng.integers(0, 256, 3), np.uint8)
    if roll < 0.7:
        side = int(rng.choice([7, 14, 28, 56, 112]))
        small = torch.from_numpy(rng.uniform(0, 255, (1, 3, side, side)).astype(np.float32))
        return F.interpolate(small, SIZE, mode="bilinear")[0].permute(1, 2, 0).numpy().astype(np.uint8)
    return class_mean(rng, variants, int(rng.integers(len(NAMES))), 12)


def class_mean(rng, variants, kind, count):
    scenes = [scattered(rng, variants, 1, [kind]).paint() for _ in range(count)]
    return np.mean(scenes, 0).round().clip(0, 255).astype(np.uint8)


def bent(x):
    """Bent by a pixel or so, as a decoder bends: still what it is."""
    field = F.interpolate(torch.randn(len(x), 2, 14, 14), SIZE, mode="bicubic").permute(0, 2, 3, 1) * 1.2 / (SIZE / 2)
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid + field.to(x.device), padding_mode="border", align_corners=False)


def softened(rng, x):
    small = F.interpolate(x, int(rng.integers(36, 100)), mode="bilinear", antialias=True)
    return F.interpolate(small, SIZE, mode="bilinear")


def sample(rng, variants):
    if rng.random() < 0.06:
        cells = (SIZE // STRIDE) ** 2
        return empty(rng, variants), np.full(cells, NOTHING), np.full((cells, 3), np.nan, np.float32)
    scene = composed(rng, variants)
    owners = scene.owners(STRIDE)
    kinds = np.array([t.kind for t in scene.things] + [NOTHING])[owners]
    sizes = np.array([max(t.width, t.height) for t in scene.things] + [np.nan], np.float32)[owners] / (SIZE / 2)
    picture = scene.paint()
    picture = through_camera(rng, picture) if rng.random() < 0.2 else finished(picture)
    return picture, kinds, np.concatenate([scene.centres(STRIDE), sizes[:, None]], 1)


def things(kinds, places):
    """What judges say of one picture, [(kind, x, y, cells)]: cells that agree about a centre are one thing."""
    side = SIZE // STRIDE
    logs = torch.log_softmax(kinds.flatten(1), 0)
    real = torch.cat([logs[:NOTHING], logs[JUNK:]])
    told = (places.flatten(1) * (SIZE / 2)).T.tolist()
    groups = []
    for cell in (logs.argmax(0) != NOTHING).nonzero().flatten().tolist():
        x, y, size = (cell % side + 0.5) * STRIDE + told[cell][0], (cell // side + 0.5) * STRIDE + told[cell][1], told[cell][2]
        found = [(g.distance(x, y) / g.reach(size, real[:, cell]), i) for i, g in enumerate(groups)]
        nearest = min(found, default=(1, 0))
        if nearest[0] >= 1:
            groups.append(Group(len(real)))
        groups[nearest[1] if nearest[0] < 1 else -1].add(x, y, size, real[:, cell])
    named = lambda kind: NAMES[kind] if kind < NOTHING else "junk"
    return [(named(int(g.logs.argmax())), g.x / g.count, g.y / g.count, g.count) for g in groups if g.count >= LEAST]


class Group:
    """Cells of one thing."""

    def __init__(self, kinds):
        self.x = self.y = self.size = self.count = 0
        self.logs = torch.zeros(kinds)

    def distance(self, x, y):
        return max(abs(self.x / self.count - x), abs(self.y / self.count - y))

    def reach(self, size, logs):
        """Pixels by which a cell's word of the centre may differ."""
        mean = (self.size + size) / (self.count + 1)
        return mean * (SAME if float(logs.max() - logs[self.logs.argmax()]) < DOUBT else OTHER)

    def add(self, x, y, size, logs):
        self.x, self.y, self.size, self.count = self.x + x, self.y + y, self.size + size, self.count + 1
        self.logs += logs


@torch.no_grad()
def examine(nets, held, device):
    """Shares of held-out pictures whose whole list is right, by what is in them; of junk, those that are refused."""
    marks = {}
    for name, (pictures, truths) in held.items():
        x = pixels(pictures, device)
        kinds, places = (sum(net(x)[i] for net in nets).float().cpu() / len(nets) for i in (0, 1))
        said = [sorted(t[0] for t in things(*one)) for one in zip(kinds, places)]
        marks[name] = round(float(np.mean([refused(s, t) if name in REFUSED else s == t for s, t in zip(said, truths)])), 4)
    return marks


def refused(said, truth):
    """Neither the thing alone nor, where there was none, anything."""
    return said != truth if truth else not said or "junk" in said


def held_out(count=100):
    rng, variants = np.random.default_rng(4244), Variants(777, 12)
    scenes = {str(n): [scattered(rng, variants, n) for _ in range(count)] for n in range(1, 5)}
    scenes["related"] = [related(rng, variants) for _ in range(count)]
    held = {
        name: (np.stack([finished(s.paint()) for s in some]), [sorted(t.name for t in s.things) for s in some])
        for name, some in scenes.items()
    }
    spoilt, means = [], []
    kinds = rng.integers(len(NAMES), size=count)
    for kind in kinds:
        scene = scattered(rng, variants, 1, [int(kind)])
        scene.things = [spoiled(rng, variants, t, JUNK) for t in scene.things]
        spoilt.append(finished(scene.paint()))
        means.append(class_mean(rng, variants, int(kind), 32))
    truths = [[NAMES[kind]] for kind in kinds]
    held["spoilt"], held["means"] = (np.stack(spoilt), truths), (np.stack(means), truths)
    blank = [np.full((SIZE, SIZE, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(count)]
    noise = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(count)]
    held["blank"], held["noise"] = (np.stack(blank), [[]] * count), (np.stack(noise), [[]] * count)
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
        pictures, kinds, places = (np.stack(column) for column in zip(*(sample(rng, variants) for _ in range(a.batch))))
        x = pixels(pictures, a.device)
        x = bent(x) if rng.random() < 0.5 else x
        x = softened(rng, x) if rng.random() < 0.6 else x
        kinds = torch.as_tensor(kinds, device=a.device)
        places = torch.as_tensor(places, device=a.device)
        with autocast(a.device):
            said, told = (t.float().flatten(2) for t in net(x))
        covered = kinds != NOTHING
        off = (told.transpose(1, 2)[covered] - places[covered]).abs().mean()
        named = F.cross_entropy(said, kinds)
        (named + off).backward()
        fall = 0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * min(run.done, 1)))
        optimizer.step(min(1.0, (run.step + 1) / 100) * fall)
        right = (said.argmax(1) == kinds)[covered].float().mean()
        run.after_step(a.batch, loss=named.item(), cells=float(right), pixels=float(off) * SIZE / 2)
        if run.step % 500 == 0:
            run.note(**examine([net.eval()], held, a.device))
            net.train()
            run.skip_clock()
    run.note(**examine([net.eval()], held, a.device))
    run.save()
    save_file(net.eval().folded(), f"{a.out}.safetensors")


if __name__ == "__main__":
    main()
