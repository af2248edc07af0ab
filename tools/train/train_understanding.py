"""Stage 2: understanding: the vision tower, the connector and the understanding branch.

A picture is seen once and asked several questions, each in a branch of its own that sees the picture and
itself. Two linear heads that are thrown away predict what each patch shows, from the vision tower's output and from
the language model's last state: without them naming comes many times later. Some samples are two pictures and
what changed between them.
"""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import state
import talk
from edits import changed
from model import Bagel, pixels
from optimizer import Both, share_of_rate
from run import Run, arguments, autocast
from sizes import SIZES
from tokens import IM_END, IM_START, VISION_END, VISION_START, Words, made
from world import NAMES, NOTHING, Variants, finished, related, scattered, through_camera, written_over

IGNORE = -100


def composed(rng, variants):
    if rng.random() < 0.3:
        return related(rng, variants)
    return scattered(rng, variants, int(rng.choice(5, p=[0.04, 0.36, 0.24, 0.18, 0.18])))


def shown(rng, scene):
    picture = scene.paint()
    if rng.random() < 0.04:
        picture = written_over(rng, picture, NAMES[rng.integers(len(NAMES))])
    return through_camera(rng, picture) if rng.random() < 0.35 else finished(picture)


def one(rng, variants):
    """(pictures, scenes): one picture, or the two of a change."""
    scene = composed(rng, variants)
    return [shown(rng, scene)], [scene], None


def two(rng, variants):
    while True:
        scene = scattered(rng, variants, int(rng.integers(1, 4)))
        if change := changed(rng, variants, scene):
            return [shown(rng, scene), shown(rng, change[0])], [scene, change[0]], change[2]


def branches(words, pairs, start):
    """Independent questions and answers after a picture: ids, positions, branch numbers, labels."""
    ids, positions, numbers, labels = [], [], [], []
    for k, (question, answer) in enumerate(pairs):
        q, a = words.block(question), words.block(answer)
        ids += q + a
        positions += range(start, start + len(q) + len(a))
        numbers += [k + 1] * (len(q) + len(a))
        labels += [IGNORE] * len(q) + a[1:] + [IGNORE]
    return ids, positions, numbers, labels


def padded(rows, device):
    """Rows of `branches`, filled up to one length; the mask lets a branch see itself, causally."""
    longest = max(len(row[0]) for row in rows)
    fill = [0, 0, 0, IGNORE]
    out = [torch.tensor([list(r[i]) + [fill[i]] * (longest - len(r[i])) for r in rows], device=device) for i in range(4)]
    ids, positions, numbers, labels = out
    mask = (numbers[:, :, None] == numbers[:, None]) & torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    return ids, positions, mask, labels


class Heads(nn.Module):
    """What a patch shows, from both towers; for training only."""

    def __init__(self, c):
        super().__init__()
        self.vision, self.language = (nn.Linear(w, NOTHING + 1) for w in (c.vision_hidden, c.hidden))


def loss_of(net, heads, pictures, cells, text, device):
    """pictures: a list (of one or two) of [B, 112, 112, 3]; returns (answers' loss, patches' loss, patches named right)."""
    cache, dense, named = None, 0.0, 0.0
    for position, (picture, cell) in enumerate(zip(pictures, cells)):
        hidden, vision, cache = net.see(pixels(picture, device), position, cache)
        target = torch.as_tensor(cell, device=device).flatten()
        outs = [heads.vision(vision).float().flatten(0, 1), heads.language(hidden).float().flatten(0, 1)]
        dense = dense + sum(F.cross_entropy(out, target) for out in outs) / len(pictures)
        thing = target < NOTHING
        named = named + (outs[1].argmax(-1) == target)[thing].float().mean().nan_to_num() / len(pictures)
    ids, positions, mask, labels = text
    hidden, _ = net.read(ids, positions, mask, cache)
    asked = labels != IGNORE
    return F.cross_entropy(net.lm_head(hidden[asked]).float(), labels[asked]), dense, float(named)


@torch.no_grad()
def answers(net, words, pictures, questions, device, longest=24):
    """Greedy answers to one question each; pictures: list of [B, 112, 112, 3]."""
    out = []
    for at in range(0, len(questions), 64):
        part = slice(at, at + 64)
        cache = None
        with autocast(device):
            for position, picture in enumerate(pictures):
                cache = net.see(pixels(picture[part], device), position, cache)[2]
            rows = [words.block(q) + [IM_START] for q in questions[part]]
            said = [[] for _ in rows]
            open_ = set(range(len(rows)))
            for _ in range(longest):
                length = max(map(len, rows))
                ids = torch.tensor([r + [0] * (length - len(r)) for r in rows], device=device)
                positions = torch.arange(len(pictures), len(pictures) + length, device=device).expand(len(rows), -1)
                mask = torch.ones(1, length, length, dtype=torch.bool, device=device).tril()
                hidden, _ = net.read(ids, positions, mask, cache)
                last = hidden[torch.arange(len(rows)), torch.tensor([len(r) - 1 for r in rows])]
                for i, token in enumerate(net.lm_head(last).argmax(-1).tolist()):
                    if i in open_ and token == IM_END:
                        open_.discard(i)
                    elif i in open_:
                        said[i].append(token)
                    rows[i] = rows[i] + [token]
                if not open_:
                    break
        out += [words.text(ids) for ids in said]
    return out


def examine(net, words, held, device):
    """Share of answers that are right to the letter, by question."""
    net.eval()
    marks = {}
    for name, (pictures, questions, truths) in held.items():
        said = answers(net, words, pictures, questions, device)
        marks[name] = round(float(np.mean([a == b for a, b in zip(said, truths)])), 3)
    net.train()
    return marks


def held_out(count, seed=4242):
    """Scenes of other seeds and variants, by question: {name: (pictures, questions, answers)}."""
    rng, variants = np.random.default_rng(seed), Variants(777, 12)
    asks = {
        "name": (talk.ask_what, 1), "list": (talk.ask_what, None), "count": (talk.ask_count, None),
        "count_of": (talk.ask_count_of, None), "is_there": (talk.ask_is_there, None), "where": (talk.ask_where, None),
        "which": (talk.ask_which, None), "relation": (talk.ask_relation, 0), "ground": (talk.ask_ground, None),
    }  # fmt: skip
    held = {}
    for name, (ask, kind) in asks.items():
        pictures, pairs = [], []
        while len(pairs) < count:
            scene = related(rng, variants) if kind == 0 else scattered(rng, variants, kind or int(rng.integers(2, 5)))
            if pair := ask(rng, scene):
                pictures.append(shown(rng, scene))
                pairs.append(pair)
        held[name] = ([np.stack(pictures)], [q for q, _ in pairs], [a for _, a in pairs])
    changes = [two(rng, variants) for _ in range(count)]
    stacked = [np.stack([c[0][i] for c in changes]) for i in (0, 1)]
    held["changed"] = (stacked, ["what changed?"] * count, [c[2] for c in changes])
    return held


def batch_of(rng, words, items, device):
    pictures = [np.stack([item[0][i] for item in items]) for i in range(len(items[0][0]))]
    cells = [np.stack([item[1][i].cells(14) for item in items]) for i in range(len(items[0][1]))]
    rows = []
    for _, scenes, change in items:
        pairs = talk.questions(rng, scenes[0], 4) if change is None else [("what changed?", change)]
        rows.append(branches(words, pairs, len(pictures)))
    return pictures, cells, padded(rows, device)


def main():
    a = arguments(__doc__, samples=300_000, batch=48, tokenizer=(str, None, "its file (made if missing)"))
    rng = state.fresh_rng(5)
    c = SIZES[a.size]
    words = Words(made(a.tokenizer, c.vocabulary))
    variants = Variants(0)
    net, heads = Bagel(c, [VISION_START, VISION_END]).to(a.device), Heads(c).to(a.device)
    drawing = net.drawing_names()
    named = [(n, p) for n, p in net.named_parameters() if n not in drawing]
    named += [("heads." + n, p) for n, p in heads.named_parameters()]
    for n, p in net.named_parameters():
        p.requires_grad_(n not in drawing)
    print("parameters", sum(p.numel() for p in net.parameters()), "trained here", sum(p.numel() for _, p in named), flush=True)
    optimizer = Both(named)
    run = Run(a, {"net": net, "heads": heads}, optimizer, rng)
    held = held_out(96)
    pool = [one(rng, variants) for _ in range(4000)]
    run.skip_clock()
    while run.going():
        if run.done > 0.15 and run.step % 8 == 7:
            items = [two(rng, variants) for _ in range(a.batch // 2)]
        else:
            for i in rng.integers(len(pool), size=a.batch // 3):
                pool[i] = one(rng, variants)
            items = [pool[i] for i in rng.integers(len(pool), size=a.batch)]
        pictures, cells, text = batch_of(rng, words, items, a.device)
        with autocast(a.device):
            answered, dense, right = loss_of(net, heads, pictures, cells, text, a.device)
        (answered + 0.5 * dense).backward()
        optimizer.step(share_of_rate(run.step, run.done, flat=0.5))
        run.after_step(a.batch, loss=answered.item(), dense=float(dense), patches=right)
        if run.step % 300 == 0:
            run.note(**examine(net, words, held, a.device))
            run.skip_clock()
    run.note(**examine(net, words, held, a.device))
    run.save()


if __name__ == "__main__":
    main()
