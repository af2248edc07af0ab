"""Trains the referees of drawings: small CNNs that name the one object in a picture.

usage: judge.py OUT.safetensors MINUTES plain|strict

A judge without a class for junk accepts blobs of the right colours. The strict one has such a
class, fed with shuffled and warped pictures. Both must agree for a drawing to count. Batch norms
are folded into the convolutions, so the file holds `conv.N.{weight,bias}` and `head.{weight,bias}`
in f16; the marks on held-out scenes are in its metadata.
"""

import math
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

from scenes import NAMES, SIZE, Variants, single

JUNK = len(NAMES)
WIDTHS = [24, 48, 96, 128]
INPUT = 48


class Judge(nn.Module):
    """Four pairs of 3x3 convolutions with pooling on 48x48 pixels, maximum over places, linear."""

    def __init__(self, classes):
        super().__init__()
        ends = [3] + [w for w in WIDTHS for _ in range(2)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1, bias=False) for a, b in zip(ends, ends[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in ends[1:])
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x):
        x = F.interpolate(x, INPUT, mode="area")
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = F.relu(norm(conv(x)))
            if i % 2:
                x = F.max_pool2d(x, 2)
        return self.head(x.amax((2, 3)))

    def folded(self):
        tensors = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            tensors[f"conv.{i}.weight"] = conv.weight * scale[:, None, None, None]
            tensors[f"conv.{i}.bias"] = norm.bias - norm.running_mean * scale
        return {k: v.detach().half().contiguous() for k, v in tensors.items()}


def to_floats(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def warped(x, pixels, knots):
    shift = F.interpolate(torch.randn(len(x), 2, knots, knots), SIZE, mode="bicubic")
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x.shape, align_corners=False)
    grid = grid + shift.permute(0, 2, 3, 1) * pixels / (SIZE / 2)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def junk(x):
    """The right colours in the wrong shape: tiles shuffled round the centre, or a strong warp."""
    if torch.rand(1).item() < 0.5:
        tile = [8, 16, 28][torch.randint(3, (1,)).item()]
        side = SIZE // tile
        t = x.view(-1, 3, side, tile, side, tile).permute(0, 2, 4, 1, 3, 5).reshape(len(x), side * side, 3, tile, tile).clone()
        place = torch.arange(side * side)
        off = ((place // side + 0.5 - side / 2).abs()).maximum((place % side + 0.5 - side / 2).abs())
        inner = (off < 0.36 * side).nonzero()[:, 0]
        for b in range(len(x)):
            t[b, inner] = t[b, inner[torch.randperm(len(inner))]]
        return t.view(-1, side, side, 3, tile, tile).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
    return warped(x, 5 + 8 * torch.rand(1).item(), [8, 14, 20][torch.randint(3, (1,)).item()])


def augmented(rng, x):
    if rng.random() < 0.5:
        x = x.flip(3)
    if rng.random() < 0.5:  # it must not mind a soft decoder
        x = F.interpolate(x, int(rng.integers(40, 80)), mode="bilinear", antialias=True)
        x = F.interpolate(x, SIZE, mode="bilinear")
    return x * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1)) + 0.1 * rng.random() * torch.randn_like(x)


def main(out, minutes, strict):
    seed = 301 if strict else 401
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    variants = Variants(seed, 30)
    labels = rng.integers(JUNK, size=9000)
    pictures = np.stack([single(rng, variants, c, centred=False) for c in labels])
    held_rng, held = np.random.default_rng(seed + 1), Variants(seed + 2, 12)
    held_labels = torch.arange(6 * JUNK) % JUNK
    held_x = to_floats([single(held_rng, held, int(c), centred=True) for c in held_labels])

    net = Judge(JUNK + strict)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.02)
    budget, start, step = minutes * 60, time.time(), 0
    while (done := (time.time() - start) / budget) < 1:
        rate = 3e-3 * min(1, (step + 1) / 50) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        i = rng.integers(len(pictures), size=64)
        x, y = augmented(rng, to_floats(list(pictures[i]))), torch.from_numpy(labels[i]).clone()
        if strict:
            x[:16], y[:16] = junk(x[:16]), JUNK
            x[16:32] = warped(x[16:32], 1.2, 14)  # small warps stay what they are
        loss = F.cross_entropy(net(x), y, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(step, f"loss {loss.item():.3f}", f"{step * 64 / (time.time() - start):.0f} pictures/s", flush=True)

    net.eval()
    marks = {"classes": " ".join(NAMES)}
    with torch.no_grad():
        marks["right"] = f"{(net(held_x).argmax(1) == held_labels).float().mean().item():.4f}"
        if strict:
            batches = [net(junk(held_x[k : k + 8])) for k in range(0, len(held_x), 8)]
            marks["junk_refused"] = f"{(torch.cat(batches).argmax(1) == JUNK).float().mean().item():.4f}"
    print(marks, flush=True)
    save_file(net.folded(), out, marks)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3] == "strict")
