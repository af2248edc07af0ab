"""Scenes that no run has seen, with questions and their true answers, prompts and edits, for `kinglet-eval marks`,
`steps` and `table`.

python held_out.py OUT [SCENES] [--plain]

Other seeds and other variants of the objects than in training. Every scene is also shown through what a camera and an
adversary do to it (`condition`): noise, blur, exposure, a patch over a part of the background, a misleading text; with
--plain as it is alone.
With EMOJI_ASSETS naming the pictures of another package, it is another drawing of the same things.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import edits
import layouts
import talk
from scenes import change_of
from world import NAMES, Variants, finished, first_and_second, patched, related, scattered, through_camera, written_over

CONDITIONS = ["plain", "noise", "blur", "exposure", "patch", "text"]
EDITS = ["add", "remove", "replace", "repaint"]
ASKS = {
    "count": talk.ask_count, "count of": talk.ask_count_of, "is there": talk.ask_is_there, "where": talk.ask_where,
    "which": talk.ask_which, "relation": talk.ask_relation, "background": talk.ask_ground,
}  # fmt: skip


def scene_of(rng, variants, number):
    """A third with one thing, a third with several, a third with a relation."""
    if number % 3 == 2:
        return related(rng, variants)
    return scattered(rng, variants, 1 if number % 3 == 0 else int(rng.integers(2, 5)))


def asked(rng, scene):
    named = "name" if len(scene.things) == 1 else "list"
    pairs = [(named, *talk.ask_what(rng, scene))]
    for ability, ask in ASKS.items():
        if pair := ask(rng, scene):
            pairs.append((ability, *pair))
    return pairs


def through(rng, condition, scene):
    picture = scene.paint()
    if condition == "patch":
        return finished(patched(rng, scene, picture))
    if condition == "text":
        absent = talk.absent(rng, scene)
        return finished(written_over(rng, picture, absent))
    return finished(picture) if condition == "plain" else through_camera(rng, picture, condition)


def drawn(rng, variants, category):
    """A prompt of one of GenEval's categories, with what it asks for."""
    relation = size = None
    if category == "position":
        word = ["left of", "right of", "above", "below", "on"][rng.integers(5)]
        scene = related(rng, variants, word)
        relation = [t.name for t in first_and_second(scene)]
        relation.insert(1, word)
        words = talk.related_pair(scene)
    elif category == "counting":
        kind = int(rng.integers(len(NAMES)))
        scene = scattered(rng, variants, 0, [kind] * int(rng.integers(2, 5)))
        words = talk.what(scene)
    elif category == "two object":
        scene = scattered(rng, variants, 0, [int(k) for k in rng.choice(len(NAMES), 2, replace=False)])
        words = talk.what(scene)
    else:
        scene = scattered(rng, variants, 1)
        words = talk.what(scene)
        if category == "attribute":
            size = scene.things[0].size()
            if size is None:
                return None
            words = talk.article(f"{size} {scene.things[0].name}")
    return {
        "category": category, "prompt": f"{words} on {talk.ground(scene)}", "things": [t.name for t in scene.things],
        "background": scene.color, "relation": relation, "size": size,
    }  # fmt: skip


class Edits:
    """Edits of scenes as the model draws them ("edit: ..."), or of any scenes ("edit anywhere: ...")."""

    def __init__(self, rng, out, variants):
        self.rng, self.out, self.variants, self.number = rng, out, variants, 0
        self.upright = layouts.Upright()

    def made(self, name, anywhere):
        """One, tried until it fits."""
        while True:
            if anywhere:
                before = scattered(self.rng, self.variants, int(self.rng.integers(1, 4)))
                change = getattr(edits, name)(self.rng, self.variants, before)
            else:
                before = layouts.before_edit(self.rng, self.upright)
                change = getattr(layouts, name)(self.rng, self.upright, before)
            if change:
                break
        after, order = change[:2]
        file = f"edit-{self.number:05}.png"
        self.number += 1
        Image.fromarray(finished(before.paint())).save(self.out / file)
        same = [t for t in after.things if any(t is old for old in before.things)]
        return {
            "category": f"edit anywhere: {name}" if anywhere else f"edit: {name}", "prompt": order, "picture": file,
            "things": [t.name for t in after.things], "background": after.color, "relation": None,
            "kept": [[t.name, t.x, t.y] for t in same],
        }  # fmt: skip


def prompts(rng, variants, out, count):
    rows = []
    for category in ("single object", "two object", "counting", "colors", "position", "attribute"):
        made = 0
        while made < count:
            if row := drawn(rng, variants, category):
                rows.append(row)
                made += 1
    change = Edits(rng, out, variants)
    for anywhere in (False, True):
        rows += [change.made(EDITS[i % len(EDITS)], anywhere) for i in range(count)]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("scenes", type=int, nargs="?", default=3000)
    parser.add_argument("--plain", action="store_true")
    a = parser.parse_args()
    out, count = a.out, a.scenes
    out.mkdir(parents=True, exist_ok=True)
    rng, variants = np.random.default_rng(990_001), Variants(990_001, 12)
    rows = []

    def kept(pictures, condition, asks):
        files = []
        for i, picture in enumerate(pictures):
            files.append(f"{len(rows):05}-{i}.png")
            Image.fromarray(picture).save(out / files[-1])
        rows.append({"pictures": files, "condition": condition, "asks": asks})

    for number in range(count):
        scene = scene_of(rng, variants, number)
        asks = asked(rng, scene)
        for condition in CONDITIONS[: 1 if a.plain else None]:
            kept([through(rng, condition, scene)], condition, asks)
    for _ in range(count // 3):
        before, after, change = change_of(rng, variants)
        kept([finished(before.paint()), finished(after.paint())], "plain", [("changed", "what changed?", change)])
    (out / "truth.json").write_text(json.dumps(rows))
    wanted = prompts(rng, variants, out, count // 3)
    (out / "prompts.json").write_text(json.dumps(wanted))
    print(f"{len(rows)} scenes of {len(NAMES)} kinds and {len(wanted)} prompts in {out}")


if __name__ == "__main__":
    main()
