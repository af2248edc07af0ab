"""Stage 3: understanding: the connector and the understanding branch over a vision tower that stage 2 has trained.

A picture is seen once and asked several questions, each in a branch of its own that sees the picture and itself. Some
attention heads learn where words should look (grounding.py). A head that is thrown away predicts what each patch shows
from the language model's last state. Some samples are two pictures and what changed between them. The tower is left as
it is for the first part of the run and learns along after it. No picture comes twice.
"""

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F

import grounding
import state
import talk
from model import Bagel, pixels
from optimizer import Both, share_of_rate
from run import Run, arguments, autocast
from scenes import change_of, composed, shown
from sizes import SIZES
from tokens import IM_END, IM_START, VISION_END, VISION_START, Words, made
from train_vision import Heads
from world import NAMES, Variants, related, scattered

IGNORE = -100
MISSED = ("looks", "places", "counts", "firsts", "standing", "middles", "gathers")  # of grounding.Facts, in the curve


class Sample:
    """A picture (or the two of a change) with what is asked of it."""

    def __init__(self, rng, variants, twice=False, often=()):
        before, after, self.change = change_of(rng, variants) if twice else (composed(rng, variants, often), None, None)
        self.scenes = [before, after] if twice else [before]
        self.pictures = [shown(rng, scene) for scene in self.scenes]
        self.kinds = [scene.cells(14) for scene in self.scenes]
        self.centres = [scene.centres(14) for scene in self.scenes]
        self.middles = [scene.middles(14) for scene in self.scenes]

    def asked(self, rng, words, most):
        """As many questions as go into `most` tokens, at least one."""
        pairs = [("what changed?", self.change)] if self.change else talk.questions(rng, self.scenes[0], 12)
        kept, length = [], 0
        for pair in pairs:
            more = sum(len(words.block(text)) for text in pair)
            if not kept or length + more <= most:
                kept.append(pair)
                length += more
        return Branches(words, kept, len(self.pictures))

    def looks(self, named, layers):
        """What grounding.Facts.missed takes of one picture's branches: (token, layer, target, place)."""
        things = {}
        for thing in self.scenes[0].things:
            things.setdefault(thing.kind, []).append((thing.x / 56 - 1, thing.y / 56 - 1))
        for token, kind, answers in named if not self.change else []:
            target = grounding.target(self.kinds[0], kind, kind in things)
            if target is not None:
                own = things.get(kind, [])
                yield token, layers[answers], target, own[0] if len(own) == 1 else (math.nan, math.nan)

    def compares(self, couples):
        """What grounding.Facts.confused takes of one picture's branches: (second token, first token, standing)."""
        things = {} if self.change else {thing.kind: thing for thing in talk.unique(self.scenes[0])}
        for (first, a), (second, b) in couples:
            if a in things and b in things:
                yield second, first, grounding.standing(self.scenes[0], things[a], things[b])


class Branches:
    """Independent questions and answers after a picture, one behind the other.

    Of every token: ids, positions, branch numbers, labels and their weights (every answer has one in all, so that JSON
    does not outweigh a yes). named: the tokens that should look at something, (token, kind, whether it answers);
    couples: the two names of questions that have two, ((token, kind), (token, kind)).
    """

    def __init__(self, words, pairs, start):
        self.ids, self.positions, self.numbers, self.labels, self.shares = [], [], [], [], []
        self.named, self.couples = [], []
        for number, (question, answer) in enumerate(pairs, 1):
            q, a = words.block(question), words.block(answer)
            here = [(len(self.ids) + last, kind) for _, last, kind in words.names(question)]
            self.named += [(*look, False) for look in here]
            self.couples += [here] if len(here) == 2 else []
            self.named += [(len(self.ids) + len(q) + first - 1, kind, True) for first, _, kind in words.names(answer)]
            self.ids += q + a
            self.positions += range(start, start + len(q) + len(a))
            self.numbers += [number] * (len(q) + len(a))
            self.labels += [IGNORE] * len(q) + a[1:] + [IGNORE]
            self.shares += [1 / (len(a) - 1)] * (len(q) + len(a))


def padded(rows, device):
    """Branches of a batch, filled up to one length: (ids, positions, mask, labels, shares); the mask lets a branch see
    itself, causally."""
    longest = max(len(row.ids) for row in rows)

    def filled(name, fill):
        full = [list(getattr(row, name)) + [fill] * (longest - len(row.ids)) for row in rows]
        return torch.tensor(full, device=device)

    ids, positions, numbers = (filled(name, 0) for name in ("ids", "positions", "numbers"))
    labels, shares = filled("labels", IGNORE), filled("shares", 0.0)
    mask = (numbers[:, :, None] == numbers[:, None]) & torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    return ids, positions, mask, labels, shares


@dataclasses.dataclass
class Batch:
    """Samples of as many pictures each; lists have one entry a picture."""

    vision: list  # [B, patches, width], the tower's
    truths: list  # (kinds, centres) of the patches, flat
    counts: list  # things in each scene
    middles: list  # patches that hold a thing's middle, [B, patches]
    text: tuple  # what `padded` makes
    pointers: list  # what grounding.Facts.missed takes
    couples: list  # what grounding.Facts.confused takes


def loss_of(net, head, facts, batch):
    """Returns (answers' loss, patches' loss, share of the patches named right, what grounding.Facts misses: looks, places,
    counts, looks at the first of two names, how two things stand, middles, looks at these)."""
    cache, dense, named, miscounted, misplaced, ungathered = None, 0.0, 0.0, 0.0, 0.0, 0.0
    first = grounding.layers_of(len(net.layers))[0]
    pictures = len(batch.vision)
    for position, (seen, (kinds, centres)) in enumerate(zip(batch.vision, batch.truths)):
        watch = {first - 1: [], first: []}
        hidden, cache = net.see(seen, position, cache, watch=watch)
        miscounted = miscounted + facts.miscounted(watch[first][1], batch.counts[position]) / pictures
        if not net.c.tokens:
            misplaced = misplaced + facts.misplaced(watch[first - 1][1], batch.middles[position]) / pictures
            ungathered = ungathered + facts.ungathered(watch[first][0], batch.middles[position]) / pictures
            off, right, _ = head(hidden, kinds, centres)
            dense, named = dense + off / pictures, named + right / pictures
    ids, positions, mask, labels, shares = batch.text
    between = grounding.compared(len(net.layers))
    watch = {layer: [] for layer in {p[2] for p in batch.pointers} | {between}}
    hidden, _ = net.read(ids, positions, mask, cache, watch)
    looks, places = facts.missed(watch, batch.pointers, ids.device)
    confused = facts.confused(*watch[between], batch.couples, ids.device)
    asked = labels != IGNORE
    each = F.cross_entropy(net.lm_head(hidden[asked]).float(), labels[asked], reduction="none")
    missed = (looks, places, miscounted, *confused, misplaced, ungathered)
    return (each * shares[asked]).sum() / shares[asked].sum(), dense, named, missed


@torch.no_grad()
def answers(net, words, pictures, questions, device, longest=24):
    """Greedy answers to one question each; pictures: list of [B, 112, 112, 3]."""
    out = []
    for at in range(0, len(questions), 64):
        part = slice(at, at + 64)
        cache = None
        with autocast(device):
            for position, picture in enumerate(pictures):
                cache = net.see(net.look(pixels(picture[part], device)), position, cache)[1]
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
    changes = [change_of(rng, variants) for _ in range(count)]
    stacked = [np.stack([shown(rng, c[i]) for c in changes]) for i in (0, 1)]
    held["changed"] = (stacked, ["what changed?"] * count, [c[2] for c in changes])
    return held


def batch_of(net, rng, words, samples, most, device, frozen):
    """The Batch of samples of as many pictures each."""
    count = range(len(samples[0].pictures))
    with torch.set_grad_enabled(not frozen):
        vision = [net.look(pixels(np.stack([s.pictures[i] for s in samples]), device)) for i in count]
    flat = lambda rows: torch.as_tensor(np.concatenate(rows), device=device)
    truths = [(flat([s.kinds[i] for s in samples]), flat([s.centres[i] for s in samples])) for i in count]
    rows = [s.asked(rng, words, most) for s in samples]
    layers = grounding.layers_of(len(net.layers))
    # Words look at patches, where a layer still has these.
    deepest = net.c.tokens_from if net.c.tokens else len(net.layers)
    looks = [(i, *look) for i, (s, row) in enumerate(zip(samples, rows)) for look in s.looks(row.named, layers)]
    return Batch(
        vision,
        truths,
        counts=[[len(s.scenes[i].things) for s in samples] for i in count],
        middles=[np.stack([s.middles[i] for s in samples]) for i in count],
        text=padded(rows, device),
        pointers=[look for look in looks if look[2] < deepest],
        couples=[(i, *couple) for i, (s, row) in enumerate(zip(samples, rows)) for couple in s.compares(row.couples)],
    )


def main():
    more = dict(
        tokenizer=(str, None, "its file (made if missing)"),
        vision=(str, None, "a state of stage 2, whose tower the run begins with"),
        understanding=(str, None, "a state of this stage whose weights a run with fewer vision tokens begins with"),
        tokens=(int, 0, "tokens that a picture's patches become (0: they stay)"),
        tokens_from=(int, 0, "the first layer that has them"),
        frozen=(float, 0.7, "share of the run in which the tower does not learn"),
        grounding=(float, 0.3, "weight of the losses on where words look and what is there"),
        tower_rate=(float, 0.3, "share of the rate with which the tower learns then: what it knows is not to be lost"),
        often=(str, "", "names, with commas between, of which every third scene is to show one"),
        questions=(int, 96, "tokens of questions and answers on a picture"),
    )
    a = arguments(__doc__, samples=300_000, batch=48, **more)
    rng = state.fresh_rng(5)
    c = dataclasses.replace(SIZES[a.size], tokens=a.tokens, tokens_from=a.tokens_from)
    words = Words(made(a.tokenizer, c.vocabulary))
    variants = Variants(0)
    often = [NAMES.index(name) for name in a.often.split(",") if name]
    net, head = Bagel(c, [VISION_START, VISION_END]).to(a.device), Heads(c.hidden).to(a.device)
    facts = grounding.Facts(c.hidden, c.layers).to(a.device)
    named = net.train_only({n for n, _ in net.named_parameters()} - net.drawing_names())
    named += [("head." + n, p) for n, p in head.named_parameters()] + [("facts." + n, p) for n, p in facts.named_parameters()]
    print("parameters", sum(p.numel() for p in net.parameters()), "trained here", sum(p.numel() for _, p in named), flush=True)
    if a.vision:
        state.load_part(a.vision, "net", net, net.vision_names())
    if a.understanding:
        before = {n for n, _ in net.named_parameters()} - net.drawing_names()
        state.load_part(a.understanding, "net", net, {n for n in before if not n.startswith("vision_tokens.")})
    optimizer = Both(named, slow=net.vision_names(), slow_share=a.tower_rate)
    sizes = {"tokens": a.tokens, "tokens_from": a.tokens_from}
    run = Run(a, {"net": net, "head": head, "facts": facts}, optimizer, rng, sizes=sizes)
    held = held_out(96)
    run.skip_clock()
    while run.going():
        twice = run.done > 0.05 and run.step % 8 == 7
        size = a.batch // 2 if twice else a.batch
        samples = [Sample(rng, variants, twice, often) for _ in range(size)]
        with autocast(a.device):
            batch = batch_of(net, rng, words, samples, a.questions, a.device, run.done < a.frozen)
            answered, dense, right, missed = loss_of(net, head, facts, batch)
        (answered + 0.5 * dense + a.grounding * sum(missed)).backward()
        optimizer.step(share_of_rate(run.step, run.done, flat=0.5))
        more = {} if twice else dict(zip(MISSED, map(float, missed)))
        run.after_step(size, loss=answered.item(), dense=float(dense), patches=right, **more)
        if run.step % 500 == 0:
            run.note(**examine(net, words, held, a.device))
            run.skip_clock()
    run.note(**examine(net, words, held, a.device))
    run.save()


if __name__ == "__main__":
    main()
