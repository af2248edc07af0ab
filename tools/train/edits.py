"""Edits of scenes: the same scene before and after, the order that leads from one to the other, and the
answer to "what changed?"."""

import copy

from talk import article, unique
from world import NAMES, anywhere, apart, background, place_beside, sides_for, thing


def add(rng, variants, scene):
    if len(scene.things) > 3:
        return None
    kind = int(rng.integers(len(NAMES)))
    after = copy.copy(scene)
    new = thing(rng, variants, kind, *sides_for(rng, len(scene.things) + 1))
    if not place_beside(rng, new, scene.things):
        return None
    after.things = scene.things + [new]
    return after, f"add {article(new.name)}", f"{article(new.name)} was added"


def remove(rng, variants, scene):
    if not (alone := unique(scene)):
        return None
    gone = alone[rng.integers(len(alone))]
    after = copy.copy(scene)
    after.things = [t for t in scene.things if t is not gone]
    return after, f"remove the {gone.name}", f"the {gone.name} was removed"


def replace(rng, variants, scene):
    if not (alone := unique(scene)):
        return None
    old = alone[rng.integers(len(alone))]
    kind = int(rng.integers(len(NAMES)))
    if any(t.kind == kind for t in scene.things):
        return None
    new = thing(rng, variants, kind, max(24, old.longest - 6), min(84, old.longest + 6))
    new.x, new.y = old.x, old.y
    after = copy.copy(scene)
    after.things = [new if t is old else t for t in scene.things]
    return after, f"replace the {old.name} with {article(new.name)}", f"the {old.name} became {article(new.name)}"


def repaint(rng, variants, scene):
    ground, color, pattern = background(rng)
    if color == scene.color:
        return None
    after = copy.copy(scene)
    after.ground, after.color, after.pattern = ground, color, pattern
    words = f"{article(color)} background" if pattern == "plain" else f"{article(color)} {pattern} background"
    return after, f"change the background to {words}", f"the background became {color}"


def move(rng, variants, scene):
    """Only for what changed: an order to move says too little for a drawing that can be judged."""
    if not (alone := unique(scene)):
        return None
    old = alone[rng.integers(len(alone))]
    moved = copy.copy(old)
    others = [t for t in scene.things if t is not old]
    for _ in range(20):
        anywhere(rng, moved)
        across, down = moved.x - old.x, moved.y - old.y
        if max(abs(across), abs(down)) > 20 and min(abs(across), abs(down)) < 10:
            if all(apart(moved, other) for other in others):
                after = copy.copy(scene)
                after.things = [moved if t is old else t for t in scene.things]
                way = ("right" if across > 0 else "left") if abs(across) > abs(down) else ("down" if down > 0 else "up")
                return after, None, f"the {old.name} moved {way}"
    return None


def nothing(rng, variants, scene):
    return copy.copy(scene), None, "nothing"


CHANGES = [add, remove, replace, repaint, move, nothing]


def changed(rng, variants, scene):
    return CHANGES[rng.integers(len(CHANGES))](rng, variants, scene)
