"""Drawing with a Bagel in training: contexts of prompts and pictures, Euler steps with guidance, contact sheets.

The program's own sampler is what counts for marks; this one is for looking at a run while it goes on.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw

from model import from_tokens, to_tokens
from run import autocast

TOKENS = 49  # of a picture: 7 x 7 cells of 16 pixels


@torch.no_grad()
def encoded(ae, pictures, device):
    """pictures [B, 3, side, side] in -1..1 -> latent tokens [B, TOKENS, 64]"""
    with autocast(device):
        return torch.cat([to_tokens(ae.latents(part).float()) for part in pictures.split(16)])


@torch.no_grad()
def painted(ae, tokens, device):
    """Latent tokens -> pictures [B, side, side, 3] u8"""
    with autocast(device):
        parts = [ae.decode(from_tokens(part)).float().clamp(-1, 1) for part in tokens.split(16)]
    return torch.cat(parts).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def prompted(net, words, texts, start=0, cache=None):
    """Puts a text a row behind a cache, at rope position `start`; "" puts nothing. -> (cache, next position [B])"""
    rows = [words.block(text) if text else [] for text in texts]
    longest, device = max(1, *map(len, rows)), net.markers.device
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    positions = torch.arange(start, start + longest, device=device).expand(len(rows), -1)
    mask = torch.ones(1, longest, longest, dtype=torch.bool, device=device).tril()
    _, (layers, seen) = net.read(ids, positions, mask, cache)
    seen = seen.clone()
    seen[:, -longest:] = torch.arange(longest, device=device) < lengths[:, None]
    return (layers, seen), start + lengths


def keeping(cache, put):
    """What `put` makes of a cache; gradients go on through the cache itself and stop in what was put behind it."""
    layers, seen = cache
    with torch.no_grad():
        (behind, seen), *more = put(([(k.detach(), v.detach()) for k, v in layers], seen))
    joined = lambda own, new: torch.cat([own.to(new.dtype), new[:, :, own.shape[2] :]], 2)
    return ([tuple(map(joined, *pair)) for pair in zip(layers, behind)], seen), *more


def shown_to(net, latents, vision):
    """Puts a picture as editing does, as latents and then as patches; -> cache, the next position being 2."""
    return keeping(net.remember(latents, 0), lambda cache: (net.see(vision, 1, cache)[1],))[0]


def guided(velocities, scale):
    """The velocity with the words, led away from the one without them and never made longer (global renorm)."""
    if len(velocities) == 1:
        return velocities[0]
    v, w = velocities
    led = w + scale * (v - w)
    length = lambda t: t.flatten(1).norm(dim=1)
    return led * (length(v) / (length(led) + 1e-8)).clamp(max=1)[:, None, None]


def times_of(steps, shift):
    """From 1 to 0; a shift above 1 has more of them near the noise."""
    even = torch.linspace(1, 0, steps + 1)
    return shift * even / (1 + (shift - 1) * even)


@torch.no_grad()
def follow(net, contexts, count, seed, steps=24, scale=2.0, shift=1.0, device="cpu"):
    """Euler steps from noise; contexts: (with the text, without it), each (cache, position [B])."""
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(count, TOKENS, 64, generator=chance).to(device)
    times = times_of(steps, shift)
    for now, then in zip(times[:-1], times[1:]):
        asked = contexts if scale != 1 else contexts[:1]
        with autocast(device):
            at_now = now.expand(count).to(device)
            velocities = [net.velocity(x, at_now, at, cache)[0].float() for cache, at in asked]
        x = x - guided(velocities, scale) * (now - then)
    return x


def draw(net, ae, words, prompts, seed=0, device="cpu", **options):
    nowhere = torch.zeros(len(prompts), dtype=torch.long, device=device)
    with autocast(device):
        contexts = prompted(net, words, prompts), (None, nowhere)
    return painted(ae, follow(net, contexts, len(prompts), seed, device=device, **options), device)


@torch.no_grad()
def edit(net, ae, words, pictures, orders, seed=0, device="cpu", **options):
    """pictures [B, 3, side, side] in -1..1"""
    with autocast(device):
        before = shown_to(net, encoded(ae, pictures, device), net.look(pictures))
        at = torch.full((len(orders),), 2, device=device)
        contexts = prompted(net, words, orders, 2, before), (before, at)
    return painted(ae, follow(net, contexts, len(orders), seed, device=device, **options), device)


def sheet(path, rows, texts, across=8):
    """rows: pictures to stand above each other, [count, side, side, 3] each; a text under each column."""
    side, line = rows[0].shape[1], 12
    high = len(rows) * (side + 2) + line
    lines = -(-len(texts) // across)
    image = Image.new("RGB", (across * (side + 4), lines * high), "white")
    pen = ImageDraw.Draw(image)
    for i, text in enumerate(texts):
        left, top = i % across * (side + 4), i // across * high
        for j, pictures in enumerate(rows):
            image.paste(Image.fromarray(np.asarray(pictures[i])), (left, top + j * (side + 2)))
        pen.text((left, top + high - line), text.replace(" background", "")[: side // 5], "black")
    image.save(path)
