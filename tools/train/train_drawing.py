"""Stage 4: drawing and editing: the drawing branch, over an understanding branch that stays as stage 3 left it.

What is drawn depends on the very understanding weights that it was trained with: a prompt's keys and values come
from them. The flow: x = (1 - t) picture + t noise, the velocity is noise - picture. A head that is thrown away
predicts what each cell shows.
"""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import drawing
import layouts
import state
from assembled import assembled
from autoencoder import Autoencoder
from model import pixels
from optimizer import Both, share_of_rate
from run import Run, arguments, autocast
from tokens import Words, made
from world import NOTHING, Variants, finished, scattered


class Drawings:
    """A pool of scenes with their latents, some renewed at every turn."""

    def __init__(self, rng, ae, device, size):
        self.rng, self.upright, self.ae, self.device = rng, layouts.Upright(), ae, device
        self.rows = []
        for at in range(0, size, 500):
            self.rows += self.fresh(min(500, size - at))

    def scene(self):
        return layouts.scene(self.rng, self.upright)

    def asked(self, count):
        """(texts, what a model is shown before them)"""
        return [layouts.asked(self.rng, self.scene()) for _ in range(count)], ()

    def pictures(self, scenes):
        return pixels(np.stack([finished(scene.paint()) for scene in scenes]), self.device)

    def latents(self, scenes):
        return drawing.encoded(self.ae, self.pictures(scenes), self.device)

    def fresh(self, count):
        scenes = [self.scene() for _ in range(count)]
        return list(zip(scenes, self.latents(scenes)))

    def renew(self, count):
        count = max(count, 1)
        for i, row in zip(self.rng.integers(len(self.rows), size=count), self.fresh(count)):
            self.rows[i] = row

    def batch(self, count):
        """(latents, prompts, kinds of cells)"""
        rows = [self.rows[i] for i in self.rng.integers(len(self.rows), size=count)]
        prompts = [self.prompt(scene) for scene, _ in rows]
        return torch.stack([z for _, z in rows]), prompts, np.stack([s.cells(16) for s, _ in rows])

    def prompt(self, scene):
        return "" if self.rng.random() < 0.1 else layouts.asked(self.rng, scene)


class Edits(Drawings):
    """The same of scenes before and after an order; most of those before look like drawings, some like any picture."""

    def __init__(self, net, variants, *more):
        self.net, self.variants = net, variants
        super().__init__(*more)

    def change(self):
        while True:
            if self.rng.random() < 0.8:
                before = layouts.before_edit(self.rng, self.upright)
            else:
                before = scattered(self.rng, self.variants, int(self.rng.integers(1, 4)))
            if change := layouts.edited(self.rng, self.upright, before):
                return before, *change

    @torch.no_grad()
    def shown(self, scenes):
        """What editing puts before an order: latents and the tower's output of each scene."""
        pictures = self.pictures(scenes)
        with autocast(self.device):
            vision = torch.cat([self.net.look(part) for part in pictures.split(64)])
        return drawing.encoded(self.ae, pictures, self.device), vision

    def asked(self, count):
        befores, _, orders = zip(*[self.change() for _ in range(count)])
        return list(orders), self.shown(befores)

    def fresh(self, count):
        changes = [self.change() for _ in range(count)]
        befores, afters, orders = zip(*changes)
        return list(zip(afters, self.latents(afters), *self.shown(befores), orders))

    def batch(self, count):
        """(latents after, orders, kinds of cells after, latents before, the tower's output before)"""
        rows = [self.rows[i] for i in self.rng.integers(len(self.rows), size=count)]
        stack = lambda i: torch.stack([row[i] for row in rows])
        return stack(1), [row[4] for row in rows], np.stack([row[0].cells(16) for row in rows]), stack(2), stack(3)


def loss_of(net, head, latents, times, noise, context, cells):
    """context: (cache, position [B]); returns (squared error of the velocity, cells' loss)."""
    mixed = torch.lerp(latents, noise, times[:, None, None])
    cache, position = context
    v, inner = net.velocity(mixed, times, position, cache, tap=len(net.layers) * 2 // 3 - 1)
    off = (v.float() - (noise - latents)).pow(2).mean()
    return off, F.cross_entropy(head(inner).float().flatten(0, 1), cells)


def context_of(net, words, batch, rng):
    """What a batch is drawn from: its prompts; for edits the picture and the order, or one of them alone."""
    _, prompts, _, *before = batch
    roll = rng.random()
    if not before or roll < 0.1:
        return drawing.prompted(net, words, prompts)
    cache = drawing.shown_to(net, *before)
    if roll < 0.2:
        return cache, torch.full((len(prompts),), 2, device=net.markers.device)
    return drawing.keeping(cache, lambda cache: drawing.prompted(net, words, prompts, 2, cache))


def next_batch(a, run, rng, drawings, edits):
    """("draw" or "edit", a batch of it); at every second step some of the pool are new."""
    editing = rng.random() < a.edits
    pool, size = (edits, a.batch // 2) if editing else (drawings, a.batch)
    if run.step % 2:
        pool.renew(size // 5)
    return "edit" if editing else "draw", pool.batch(size)


def exam():
    """Prompts of every kind, the same ones at every examination."""
    rng, upright = np.random.default_rng(4243), layouts.Upright()
    return [layouts.caption(rng, layouts.scene(rng, upright)) for _ in range(48)]


def main():
    more = dict(
        tokenizer=(str, None, "its file"),
        understanding=(str, None, "a state of stage 3"),
        autoencoder=(str, None, "a state of stage 1"),
        edits=(float, 0.25, "share of steps that edit"),
        pool=(int, 6000, "drawings that are kept, and a third as many edits"),
        flat=(float, 0.6, "share of the samples after which the rate falls"),
    )
    a = arguments(__doc__, samples=600_000, batch=64, **more)
    rng = state.fresh_rng(7)
    net = assembled(a.size, a.understanding).to(a.device)
    c, names = net.c, net.drawing_names()
    head = nn.Linear(c.hidden, NOTHING + 1).to(a.device)
    words = Words(made(a.tokenizer, c.vocabulary))
    ae = Autoencoder(c).to(a.device)
    state.load(a.autoencoder, {"ae": ae})
    named = net.train_only(names) + [("head." + n, p) for n, p in head.named_parameters()]
    optimizer = Both(named)
    run = Run(a, {"net": net, "head": head}, optimizer, rng)
    drawings = Drawings(rng, ae, a.device, a.pool)
    edits = Edits(net, Variants(0), rng, ae, a.device, a.pool // 3)
    prompts = exam()
    run.skip_clock()
    while run.going():
        what, batch = next_batch(a, run, rng, drawings, edits)
        size = len(batch[0])
        latents, cells = batch[0], torch.as_tensor(batch[2], device=a.device).flatten()
        # Rather late than early: near the end of the flow a picture is made clean by what it shows already, and only
        # near its beginning by the words.
        times = torch.sigmoid(0.8 + 1.2 * torch.randn(size)).to(a.device)
        with autocast(a.device):
            context = context_of(net, words, batch, rng)
            off, shown = loss_of(net, head, latents, times, torch.randn(latents.shape).to(a.device), context, cells)
        (off + 0.2 * shown).backward()
        optimizer.step(share_of_rate(run.step, run.done, flat=a.flat, floor=0.01))
        run.after_step(size, **{what: off.item()})
        if run.step % 1000 == 0:
            drawing.sheet(f"{a.out}-{run.step:06}.png", [drawing.draw(net, ae, words, prompts, device=a.device)], prompts)
            run.skip_clock()
    run.save()


if __name__ == "__main__":
    main()
