"""Stage 2: the vision tower, by what each patch shows: its kind and where the middle of its object lies.

A sample costs a sixth of one of the next stage, which then begins with a tower that can tell things apart. The
heads are thrown away.
"""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import state
from model import Bagel, pixels
from optimizer import Both, share_of_rate
from run import Run, arguments, autocast
from scenes import composed, shown
from sizes import SIZES
from tokens import VISION_END, VISION_START
from world import NOTHING, Variants


class Heads(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.kind, self.centre = nn.Linear(width, NOTHING + 1), nn.Linear(width, 2)

    def forward(self, x, kinds, centres):
        """(loss, share of the patches on things that are named right, error of centres in pixels)"""
        out = self.kind(x).float().flatten(0, 1)
        thing = kinds < NOTHING
        named = F.cross_entropy(out, kinds)
        off = (self.centre(x).float().flatten(0, 1)[thing] - centres[thing]).abs().mean()
        right = (out.argmax(-1) == kinds)[thing].float().mean()
        return named + off, float(right), float(off) * 56


def sample(rng, variants):
    scene = composed(rng, variants)
    return shown(rng, scene), scene.cells(14), scene.centres(14)


def stacked(items, device):
    pictures, kinds, centres = (np.stack(column) for column in zip(*items))
    flat = lambda t: torch.as_tensor(t, device=device).flatten(0, 1)
    return pixels(pictures, device), flat(kinds), flat(centres)


def main():
    a = arguments(__doc__, samples=150_000, batch=64)
    rng = state.fresh_rng(3)
    c = SIZES[a.size]
    variants = Variants(0)
    net = Bagel(c, [VISION_START, VISION_END]).to(a.device)
    heads = Heads(c.vision_hidden).to(a.device)
    named = net.train_only(net.vision_names()) + [("heads." + n, p) for n, p in heads.named_parameters()]
    optimizer = Both(named)
    run = Run(a, {"net": net, "heads": heads}, optimizer, rng)
    unseen = np.random.default_rng(4241), Variants(777, 12)
    held = stacked([sample(*unseen) for _ in range(256)], a.device)
    run.skip_clock()
    while run.going():
        # Never the same picture again: the tower learns three looks at one by heart.
        pictures, kinds, centres = stacked([sample(rng, variants) for _ in range(a.batch)], a.device)
        with autocast(a.device):
            loss, right, off = heads(net.look(pictures), kinds, centres)
        loss.backward()
        optimizer.step(share_of_rate(run.step, run.done, flat=0.4))
        run.after_step(a.batch, loss=loss.item(), patches=right, pixels=off)
        if run.step % 300 == 0:
            with torch.no_grad(), autocast(a.device):
                _, right, off = heads(net.look(held[0]), *held[1:])
            run.note(held_patches=round(right, 4), held_pixels=round(off, 2))
            run.skip_clock()
    run.save()


if __name__ == "__main__":
    main()
