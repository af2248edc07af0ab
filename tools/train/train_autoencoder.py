"""Stage 1: the autoencoder. L1 + 2 L2 + gradients + a little KL, on crops first: three times as many steps a minute."""

import numpy as np
import torch

import state
from autoencoder import Autoencoder
from model import pixels
from run import Run, arguments, autocast
from sizes import SIZES
from world import SIZE, Variants, finished, scattered, through_camera


def scenes(rng, variants, count):
    out = []
    for _ in range(count):
        picture = scattered(rng, variants, int(rng.integers(0, 5))).paint()
        out.append(through_camera(rng, picture) if rng.random() < 0.2 else finished(picture))
    return np.stack(out)


def slopes(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


class Adam:
    """AdamW in the shape that state.py keeps."""

    def __init__(self, parameters, rate):
        self.parameters = list(parameters)
        self.parts = [(torch.optim.AdamW(self.parameters, rate, betas=(0.9, 0.98), weight_decay=1e-4), rate)]

    def step(self, share):
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        optimizer, rate = self.parts[0]
        optimizer.param_groups[0]["lr"] = rate * share
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def loss_of(net, x):
    mean, spread = (t.float() for t in net.moments(x))
    spread = spread.clamp(-12, 6)
    y = net.decoder(mean + torch.exp(0.5 * spread) * torch.randn_like(mean)).float()
    off = y - x
    kl = 0.5 * (mean * mean + spread.exp() - 1 - spread).mean()
    edges = sum((a - b).abs().mean() for a, b in zip(slopes(y), slopes(x)))
    return off.abs().mean() + 2 * (off * off).mean() + 0.5 * edges + 5e-4 * kl


@torch.no_grad()
def psnr(net, x):
    """dB on pictures in -1..1"""
    parts = [net.decoder(net.moments(p)[0]).clamp(-1, 1) for p in x.split(16)]
    return float((-10 * torch.log10(((torch.cat(parts) - x) / 2).pow(2).mean((1, 2, 3)))).mean())


@torch.no_grad()
def measure_scale(net, x):
    """One shift and one scale, so that latents have about zero mean and unit variance."""
    z = torch.cat([net.moments(p)[0].float() for p in x.split(16)])
    net.shift.fill_(z.mean())
    net.scale.fill_(1 / z.std())


def main():
    a = arguments(__doc__, samples=90_000, batch=8)
    rng = state.fresh_rng(1)
    variants = Variants(0)
    pool = scenes(rng, variants, 8000)
    held = pixels(scenes(np.random.default_rng(99), Variants(777, 12), 64), a.device)
    net = Autoencoder(SIZES[a.size]).to(a.device)
    optimizer = Adam(net.parameters(), 1.5e-3)
    run = Run(a, {"ae": net}, optimizer, rng)
    while run.going():
        crop = 64 if run.done < 0.8 else SIZE
        rows = []
        for i in rng.integers(len(pool), size=a.batch):
            top, left = rng.integers(SIZE + 1 - crop, size=2)
            rows.append(pool[i, top : top + crop, left : left + crop])
        for i in rng.integers(len(pool), size=2):
            pool[i] = scenes(rng, variants, 1)[0]
        with autocast(a.device):
            loss = loss_of(net, pixels(np.stack(rows), a.device))
        loss.backward()
        fall = 1.0 if run.done < 0.5 else 0.03 + 0.97 * (0.5 + 0.5 * np.cos(np.pi * (run.done - 0.5) / 0.5))
        optimizer.step(min(1.0, (run.step + 1) / 100) * fall)
        run.after_step(a.batch, loss=loss.item())
        if run.step % 500 == 0:
            run.note(psnr=round(psnr(net, held), 2))
            run.skip_clock()
    measure_scale(net, pixels(pool[:512], a.device))
    run.note(psnr=round(psnr(net, held), 2), shift=float(net.shift), scale=float(net.scale))
    run.save()


if __name__ == "__main__":
    main()
