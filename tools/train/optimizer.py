"""Muon for the matrices of layers, AdamW for the rest.

Muon (Keller Jordan and others, 2024): momentum, then its orthogonal factor by five Newton-Schulz steps of the
quintic 3.4445 x - 4.7750 x^3 + 2.0315 x^5.
"""

import itertools

import torch

from run import short


def orthogonal(matrix):
    x = matrix.to(short(matrix.device.type))
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, rate, momentum=0.95):
        super().__init__(parameters, dict(lr=rate, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                direction = orthogonal(p.grad.lerp(state["momentum"], group["momentum"]))
                p.add_(direction, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


class Both:
    """The two optimizers as one, with a rate that is a share of each one's full rate; those named in `slow` have
    `slow_share` of that."""

    def __init__(self, named, muon_rate=0.02, adam_rate=1.5e-3, slow=(), slow_share=1.0):
        # Not a router: its few rows choose, and are no map of one space to another.
        in_layers = lambda n, p: p.ndim == 2 and n.startswith(("layers.", "vit.")) and not n.endswith("moe_gen.gate.weight")
        matrices = [(n, p) for n, p in named if in_layers(n, p)]
        others = [(n, p) for n, p in named if not in_layers(n, p)]
        self.parts = []
        # Runs of neighbours, so that a kept state's numbers mean the same parameters whatever is slow.
        groups = lambda pairs: [
            {"params": [p for _, p in run], "share": slow_share if is_slow else 1.0}
            for is_slow, run in itertools.groupby(pairs, lambda pair: pair[0] in slow)
        ]
        if matrices:
            self.parts.append((Muon(groups(matrices), muon_rate), muon_rate))
        if others:
            self.parts.append((torch.optim.AdamW(groups(others), adam_rate, betas=(0.9, 0.98), weight_decay=0.01), adam_rate))
        self.parameters = [p for _, p in named]

    def step(self, share):
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, rate in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * share * group["share"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def share_of_rate(step, done, flat=0.0, floor=0.03):
    """Warm-up over 100 steps, full until `flat` of the run is done, then falling on a line to `floor`."""
    fall = 1.0 if done <= flat else max(floor, 1 - (done - flat) / (1 - flat))
    return min(1.0, (step + 1) / 100) * fall
