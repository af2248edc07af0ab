"""PyTorch on the same processor, in the same work as `kinglet-bench gpu --json`, whose lines it reads and completes.

usage: peer.py OURS.jsonl >BOTH.jsonl

Weights are bf16: PyTorch has no blocks of GGUF. Products and attention are its own; a token and a pass of the 7B
shape are its matrices and attention alone, without norms, so that its figures are rather too good. Each is tried
as it comes and compiled; both are rows.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

REPEATS, TURNS = 5, 20
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD, WORDS = 3584, 18944, 28, 28, 4, 128, 152064


def best(work, turns=TURNS):
    """Seconds of the quickest round."""
    work()
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(turns):
            work()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / turns)
    return min(times)


def values(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02


def matmul(rows, cols, tokens):
    """One token takes turns on weights that no cache holds."""
    copies = (2 << 30) // (2 * rows * cols) + 1 if tokens == 1 else 2
    weights, x = [values(rows, cols) for _ in range(copies)], values(tokens, cols)

    def work():
        for w in weights:
            F.linear(x, w)

    return work, 2e-9 * rows * cols * tokens * copies


def attention(queries, before):
    q = values(1, HEADS, queries, HEAD)
    k, v = (values(1, KV_HEADS, before + queries, HEAD) for _ in range(2))
    work = lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return work, 4e-9 * queries * (before + queries) * HEADS * HEAD


class Half:
    """One half of the language model: matrices and attention."""

    def __init__(self, head):
        kv = KV_HEADS * HEAD
        self.layers = [
            [values(HIDDEN + 2 * kv, HIDDEN), values(HIDDEN, HIDDEN), values(2 * INNER, HIDDEN), values(HIDDEN, INNER)]
            for _ in range(LAYERS)
        ]
        self.head = values(WORDS, HIDDEN) if head else None
        self.past = [(values(1, KV_HEADS, 80, HEAD), values(1, KV_HEADS, 80, HEAD)) for _ in range(LAYERS)]

    def run(self, x):
        tokens, kv = x.shape[0], KV_HEADS * HEAD
        for (qkv, out, gate_up, down), (keys, past) in zip(self.layers, self.past):
            q, k, v = F.linear(x, qkv).split([HIDDEN, kv, kv], 1)
            split = lambda t, heads: t.view(1, tokens, heads, HEAD).transpose(1, 2)
            k, v = torch.cat([keys, split(k, KV_HEADS)], 2), torch.cat([past, split(v, KV_HEADS)], 2)
            mixed = F.scaled_dot_product_attention(split(q, HEADS), k, v, enable_gqa=True)
            x = x + F.linear(mixed.transpose(1, 2).reshape(tokens, HIDDEN), out)
            gate, up = F.linear(x, gate_up).chunk(2, 1)
            x = x + F.linear(F.silu(gate) * up, down)
        return x if self.head is None else F.linear(x[-1:], self.head)


def work_of(row):
    """(what is run, how much of the row's unit that is), or nothing where PyTorch has no such work."""
    words = row["work"].replace(",", "").split()
    numbers = {w.split("=")[0]: int(w.split("=")[1]) for w in words if "=" in w}
    if words[0] == "matmul":
        return matmul(numbers["M"], numbers["K"], numbers["N"])
    if words[0] == "attention":
        return attention(int(words[1]), int(words[3]))
    if row["work"].endswith("decode") or "pass for" in row["work"]:
        token = row["work"].endswith("decode")
        side = 1 if token else int(words[-1].split("x")[0]) // 16
        half, x = Half(head=token), values(side * side, HIDDEN)
        return (lambda: half.run(x)), 1
    return None


@torch.no_grad()
def main(path):
    known = {}
    for line in open(path):
        row = json.loads(line)
        if row["work"] not in known:
            known[row["work"]] = []
            if found := work_of(row):
                work, amount = found
                tries = {"bf16": lambda: work}
                if not row["work"].startswith("matmul"):
                    tries["bf16, compiled"] = lambda: torch.compile(work, mode="max-autotune-no-cudagraphs")
                for name, make in tries.items():
                    try:
                        known[row["work"]].append((name, amount / best(make())))
                    except Exception as e:  # what does not compile there is said, and is no row
                        print(f"{row['work']}, {name}: {type(e).__name__}: {e}", file=sys.stderr)
                del found, work
                torch.cuda.empty_cache()
        for name, theirs in known[row["work"]] or [(None, None)]:
            peer = {"peer": f"PyTorch {torch.__version__}", "peer_config": name, "theirs": theirs, "ratio": row["ours"] / theirs}
            print(json.dumps({**row, **(peer if theirs else {})}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
