"""Which scenes the model learns to see: how many things, how they stand, what the camera did."""

from edits import changed
from world import NAMES, finished, patched, related, scattered, through_camera, written_over


def composed(rng, variants):
    if rng.random() < 0.3:
        return related(rng, variants)
    return scattered(rng, variants, int(rng.choice(5, p=[0.04, 0.36, 0.24, 0.18, 0.18])))


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
