"""Which scenes the model learns to see: how many things, how they stand, what the camera did."""

from edits import changed
from world import NAMES, finished, kinds, patched, related, scattered, through_camera, written_over


def composed(rng, variants, often=()):
    """often: kinds of which every third scene shows one (or several of it)."""
    often = often if rng.random() < 1 / 3 else ()
    if rng.random() < 0.3:
        pair = [int(kind) for kind in rng.choice(len(NAMES), 2, replace=False)]
        return related(rng, variants, which=among(rng, pair, often) if often else pair)
    count = int(rng.choice(5, p=[0.04, 0.36, 0.24, 0.18, 0.18]))
    which = kinds(rng, count)
    return scattered(rng, variants, count, among(rng, which, often) if often and which else which)


def among(rng, which, often):
    """`which` with one of `often` instead of its first kind."""
    chosen = int(rng.choice([kind for kind in often if kind not in which[1:]]))
    return [chosen if kind == which[0] else kind for kind in which]


def shown(rng, scene):
    picture = scene.paint()
    if rng.random() < 0.04:
        picture = written_over(rng, picture, NAMES[rng.integers(len(NAMES))])
    if rng.random() < 0.06:
        picture = patched(rng, scene, picture)
    return through_camera(rng, picture) if rng.random() < 0.5 else finished(picture)


def change_of(rng, variants):
    """(before, after, what changed)"""
    while True:
        scene = scattered(rng, variants, int(rng.integers(1, 4)))
        if change := changed(rng, variants, scene):
            return scene, change[0], change[2]
