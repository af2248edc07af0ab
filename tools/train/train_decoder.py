"""Stage 1 goes on: the decoder alone, over an encoder that stays as it is, so that what drawing has learnt of latents holds.

Besides pixels and edges, what the trained vision tower makes of the decoded picture is to be what it makes of the
picture itself: a blur that costs few decibels can cost what a thing is known by.
"""

import numpy as np
import torch

import layouts
import state
from assembled import assembled
from autoencoder import Autoencoder
from model import pixels
from run import Run, arguments, autocast
from sizes import SIZES
from train_autoencoder import Adam, psnr, scenes, slopes
from world import SIZE, Variants, finished

CROP = 56  # both encoders' strides divide it


def drawn(rng, upright, count):
    """Half of what is drawn is decoded from it, half is of any picture, which edits start from."""
    return np.stack([finished(layouts.scene(rng, upright).paint()) for _ in range(count)])


def loss_of(net, tower, x, noise):
    """Errors of pixels and edges, and of the tower's features; noise: on latents of about unit variance, since drawings
    are not exact."""
    with torch.no_grad():
        z = net.latents(x).float()
        wanted = tower.look(x).float()
    y = net.decode(z + noise * torch.randn_like(z)).float()
    off = y - x
    edges = sum((a - b).abs().mean() for a, b in zip(slopes(y), slopes(x)))
    features = (tower.look(y).float() - wanted).pow(2).mean()
    return off.abs().mean() + 2 * (off * off).mean() + 0.5 * edges, features


def main():
    more = dict(
        autoencoder=(str, None, "a state of stage 1"),
        understanding=(str, None, "a state of stage 3, for its tower"),
        features=(float, 0.1, "weight of what the tower sees"),
        noise=(float, 0.1, "on latents"),
    )
    a = arguments(__doc__, samples=48_000, batch=8, **more)
    rng = state.fresh_rng(2)
    variants, upright = Variants(0), layouts.Upright()
    make = lambda count: np.concatenate([drawn(rng, upright, count // 2), scenes(rng, variants, count - count // 2)])
    pool = make(4000)
    held = pixels(drawn(np.random.default_rng(99), upright, 64), a.device)
    net = Autoencoder(SIZES[a.size]).to(a.device)
    tower = assembled(a.size, a.understanding).to(a.device).eval().requires_grad_(False)
    state.load(a.autoencoder, {"ae": net})
    optimizer = Adam(net.decoder.parameters(), 1e-3)
    run = Run(a, {"ae": net}, optimizer, rng)
    run.note(psnr=round(psnr(net, held), 2))
    run.skip_clock()
    while run.going():
        crop = CROP if run.done < 0.75 else SIZE
        rows = []
        for i in rng.integers(len(pool), size=a.batch):
            top, left = rng.integers(SIZE + 1 - crop, size=2)
            rows.append(pool[i, top : top + crop, left : left + crop])
        pool[rng.integers(len(pool), size=2)] = make(2)
        with autocast(a.device):
            plain, features = loss_of(net, tower, pixels(np.stack(rows), a.device), a.noise)
        (plain + a.features * features).backward()
        fall = 0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * min(run.done, 1)))
        optimizer.step(min(1.0, (run.step + 1) / 100) * fall)
        run.after_step(a.batch, loss=plain.item(), features=features.item())
        if run.step % 500 == 0:
            run.note(psnr=round(psnr(net, held), 2))
            run.skip_clock()
    run.note(psnr=round(psnr(net, held), 2))
    run.save()


if __name__ == "__main__":
    main()
