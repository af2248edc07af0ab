"""Scenes as the model learns to draw them: things stand upright, in three sizes, in few places on the grid of latents.

A prompt leaves open where a thing lies, how large it is and how it is turned. A model this small would spend all that
it has on what these may be, and on moving pictures by parts of a token; a prompt can be met in one way as well.
"""

import copy

import numpy as np
from PIL import Image

import talk
from edits import remove, repaint
from talk import article, unique
from world import NAMES, RELATIONS, SIZE, Scene, Thing, apart, background, kinds, load_sprites

CELL = 16  # pixels of a latent token
SMALL, MIDDLE, LARGE = 2, 3, 4  # sizes, in cells
SHARES = [0.18, 0.18, 0.18, 0.18, 0.18, 0.05, 0.05]  # of RELATIONS: things that cover others take long to learn


class Upright:
    """Every object upright in the three sizes, a pixel smaller on each side than its cells."""

    def __init__(self):
        cells = (SMALL, MIDDLE, LARGE)
        self.rows = [{n: self._fitted(sprite, CELL * n - 2) for n in cells} for sprite in load_sprites()]

    @staticmethod
    def _fitted(sprite, longest):
        factor = longest / max(sprite.size)
        size = [max(4, round(side * factor)) for side in sprite.size]
        pixels = np.asarray(sprite.resize(size, Image.LANCZOS), np.float32)
        alpha = pixels[..., 3:] / 255
        return pixels[..., :3] * alpha, alpha, longest

    def thing(self, kind, cells, column, row):
        """In a square of cells whose left upper one is given; parts of a cell may be."""
        sprite = self.rows[kind][cells]
        high, wide = sprite[1].shape[:2]
        return Thing(kind, CELL * (column + cells / 2), CELL * (row + cells / 2), wide, high, sprite)


def single(rng, upright):
    """Most are of the size that several have, too: so each is seen more often in the same form."""
    roll, kind = rng.random(), int(rng.integers(len(NAMES)))
    if roll < 0.55:
        return upright.thing(kind, MIDDLE, 2, 2)
    if roll < 0.75:
        return upright.thing(kind, MIDDLE, *rng.choice((0, 2, 4), 2))
    if roll < 0.88:
        return upright.thing(kind, LARGE, 1, 1)
    return upright.thing(kind, SMALL, *((2, 2) if rng.random() < 0.5 else rng.choice((0, 2, 5), 2)))


def placed(upright, which):
    """Two to four things, from left to right, on some of the nine places of one."""
    spots = {2: [(0, 2), (4, 2)], 3: [(0, 4), (2, 0), (4, 4)], 4: [(0, 0), (0, 4), (4, 0), (4, 4)]}[len(which)]
    return [upright.thing(kind, MIDDLE, *spot) for kind, spot in zip(which, spots)]


def related(upright, relation, first, second):
    """Two things, back to front; the relation says how the first stands to the second."""
    if relation in ("left of", "right of", "above", "below"):
        spots = [(0, 2), (4, 2)] if relation in ("left of", "right of") else [(2, 0), (2, 4)]
        if relation in ("right of", "below"):
            spots.reverse()
        return [upright.thing(kind, MIDDLE, *spot) for kind, spot in zip((first, second), spots)]
    if relation == "on":
        # They meet at a border of cells, so that the form of either in its cells does not depend on the other.
        under, over = upright.thing(second, MIDDLE, 2, 4), upright.thing(first, MIDDLE, 2, 1)
        under.y, over.y = 4 * CELL + under.height / 2 - 2, 4 * CELL - over.height / 2 + 1
        return [under, over]
    front, back = (second, first) if relation == "behind" else (first, second)
    return [upright.thing(back, MIDDLE, 1, 2), upright.thing(front, MIDDLE, 3, 2)]


def scene(rng, upright, most=4):
    ground, color, pattern = background(rng)
    roll = rng.random()
    if roll < 0.3 or most == 1:
        return Scene(color, pattern, ground, [single(rng, upright)])
    if roll < 0.7:
        which = kinds(rng, min(int(rng.choice((2, 3, 4), p=(0.5, 0.25, 0.25))), most))
        return Scene(color, pattern, ground, placed(upright, which))
    relation = RELATIONS[rng.choice(len(RELATIONS), p=SHARES)]
    first, second = (int(k) for k in rng.choice(len(NAMES), 2, replace=False))
    return Scene(color, pattern, ground, related(upright, relation, first, second), relation)


def cornered(rng, upright):
    """One to three things in corners: such a scene has room for one more in the form that drawing knows best."""
    ground, color, pattern = background(rng)
    spots = rng.permutation([(0, 0), (4, 0), (0, 4), (4, 4)])[: rng.integers(1, 4)]
    which = rng.choice(len(NAMES), len(spots), replace=False)
    return Scene(color, pattern, ground, [upright.thing(int(kind), MIDDLE, *spot) for kind, spot in zip(which, spots)])


def before_edit(rng, upright):
    """A scene as the model draws them, with room for one thing more."""
    return cornered(rng, upright) if rng.random() < 0.5 else scene(rng, upright, most=3)


def words(rng, scene):
    """What is to be seen, said so that only one layout meets it: how two related things stand, and of a single thing a size
    that is not the usual one and a place that is not the middle."""
    if scene.relation:
        return talk.related_pair(scene)
    if len(scene.things) != 1:
        return talk.what(scene)
    thing = scene.things[0]
    size, place = thing.size(), talk.where(thing)
    named = article(f"{size} {thing.name}" if size else thing.name)
    middle = place == talk.WHERE[1][1]
    if place and rng.random() < (0.2 if middle else 1.0):
        return f"{named} {place}"
    return named


def caption(rng, scene):
    """What asks for it, with its background."""
    return f"{words(rng, scene)} on {talk.ground(scene)}"


def asked(rng, scene):
    """A caption, or now and then words that leave the background open."""
    return words(rng, scene) if rng.random() < 0.1 else caption(rng, scene)


def add(rng, upright, scene):
    """A new thing where most room is."""
    if len(scene.things) > 3:
        return None
    kind, best = int(rng.integers(len(NAMES))), None
    for cells, spots in ((MIDDLE, (0, 2, 4)), (SMALL, range(SIZE // CELL - SMALL + 1))):
        for column in spots:
            for row in spots:
                new = upright.thing(kind, cells, column, row)
                room = min((max(abs(new.x - t.x), abs(new.y - t.y)) for t in scene.things), default=0)
                if all(apart(new, t) for t in scene.things) and (best is None or room > best[0]):
                    best = room, new
        if best:
            after = copy.copy(scene)
            after.things = scene.things + [best[1]]
            return after, f"add {article(best[1].name)}"
    return None


def replace(rng, upright, scene):
    """Another thing in the old one's place, as far as size and grid allow."""
    if not (alone := unique(scene)):
        return None
    old, kind = alone[rng.integers(len(alone))], int(rng.integers(len(NAMES)))
    if any(t.kind == kind for t in scene.things):
        return None
    cells = min((SMALL, MIDDLE, LARGE), key=lambda n: abs(CELL * n - 2 - old.longest))
    spot = [np.clip(round(v / CELL - cells / 2), 0, SIZE // CELL - cells) for v in (old.x, old.y)]
    new = upright.thing(kind, cells, *spot)
    after = copy.copy(scene)
    after.things = [new if t is old else t for t in scene.things]
    return after, f"replace the {old.name} with {article(new.name)}"


def edited(rng, upright, scene):
    """(scene after, order) of a random edit; None where it did not fit."""
    change = (add, remove, replace, repaint)[rng.integers(4)]
    made = change(rng, upright, scene)
    return made and made[:2]
