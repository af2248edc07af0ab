"""What every stage's command line shares: where it runs, how long, where it keeps its state and its curve."""

import argparse
import functools
import json
import time

import torch

import state


def arguments(description, samples, batch, **more):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", help="folder of this stage's state; a run that finds one there goes on with it")
    parser.add_argument("--from", dest="begin", help="a compact state to begin with where `out` is empty")
    parser.add_argument("--samples", type=int, default=samples, help="pictures until the rate reaches its floor")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--stop-minutes", type=float, default=1e9, help="stop then, with the state kept")
    for name, (kind, default, text) in more.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, help=text)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return a


class Run:
    """Counts samples, writes curve.jsonl, saves every few minutes and at the end."""

    def __init__(self, a, modules, optimizer, rng, **kept):
        self.a, self.modules, self.optimizer, self.rng = a, modules, optimizer, rng
        untouched = [f"{m}/{n}" for m, module in modules.items() for n, p in module.named_parameters() if not p.requires_grad]
        facts = state.load(a.out, modules, optimizer, rng) or (a.begin and state.load(a.begin, modules, optimizer, rng))
        facts = facts or {"step": 0, "seen": 0, "seconds": 0.0, "curve": []}
        self.untouched, self.kept = untouched, kept
        self.step, self.seen, self.seconds, self.curve = (facts[k] for k in ("step", "seen", "seconds", "curve"))
        self.saved = self.started = self.mark = time.time()
        self.means = {}
        if self.step:
            print(f"goes on at step {self.step}, {self.seen} samples", flush=True)

    @property
    def done(self):
        return self.seen / self.a.samples

    def going(self):
        return self.seen < self.a.samples and time.time() - self.started < self.a.stop_minutes * 60

    def after_step(self, count, **values):
        self.step += 1
        self.seen += count
        now = time.time()
        self.seconds += now - self.mark
        self.mark = now
        for name, value in values.items():
            self.means[name] = value if name not in self.means else 0.98 * self.means[name] + 0.02 * value
        if self.step % 50 == 0:
            self.note(**{k: round(v, 4) for k, v in self.means.items()})
        if now - self.saved > self.a.save_minutes * 60:
            self.save()

    def note(self, **values):
        row = {"step": self.step, "seen": self.seen, "minutes": round(self.seconds / 60, 2), **values}
        self.curve.append(row)
        print(json.dumps(row), flush=True)

    def skip_clock(self):
        """Leaves what ran since the last step (an examination, a pool's filling) out of the minutes."""
        self.mark = time.time()

    def save(self):
        own = {k: getattr(self, k) for k in ("step", "seen", "seconds", "curve", "untouched")}
        facts = own | self.kept
        state.save(self.a.out, self.modules, self.optimizer, self.rng, facts)
        self.saved = time.time()
        self.skip_clock()


@functools.cache
def short(device):
    """bfloat16 where products in it are quicker, else float32.

    A processor that has no instructions for bfloat16 emulates it, many times slower, and one that has them may still be
    no quicker than in float32, so it is measured.
    """
    if device != "cpu":
        return torch.bfloat16
    if not torch.cpu._is_avx512_bf16_supported():
        return torch.float32
    return min((torch.bfloat16, torch.float32), key=_product_seconds)


def _product_seconds(kind):
    """The least of a few times for a product as large as a layer's."""
    rows, weights = torch.ones(2048, 256, dtype=kind), torch.ones(1024, 256, dtype=kind)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        torch.nn.functional.linear(rows, weights)
        times.append(time.perf_counter() - started)
    return min(times)


def autocast(device):
    return torch.autocast(device, torch.bfloat16, enabled=short(device) == torch.bfloat16)
