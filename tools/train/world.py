"""Scenes with a known truth: rendered objects on named backgrounds, 112 x 112 pixels.

The pictures are those of @lobehub/fluent-emoji-3d (MIT), named through emoji-datasource (MIT):
`EMOJI_ASSETS` is the folder of its .webp files (or of another set's .png files), `EMOJI_TABLE` the file emoji.json.
112 is the smallest side that the strides of both encoders (14 and 16) divide.
"""

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 112
ROWS = [
    line.split()
    for line in (Path(__file__).parent / "objects.txt").read_text().splitlines()
    if not line.startswith("#")
]
NAMES = [row[0] for row in ROWS]
PLURALS = {row[0]: row[1] for row in ROWS}
NOTHING = len(NAMES)  # the label of a cell that shows background

COLORS = {
    "red": (200, 50, 45),
    "orange": (240, 150, 50),
    "yellow": (245, 220, 80),
    "green": (80, 160, 75),
    "blue": (65, 110, 200),
    "purple": (130, 70, 165),
    "pink": (245, 165, 195),
    "brown": (125, 85, 55),
    "gray": (140, 140, 140),
    "white": (242, 242, 242),
    "black": (28, 28, 28),
}
COLOR_NAMES = list(COLORS)
PATTERNS = ["plain", "gradient", "striped", "dotted", "checkered"]
RELATIONS = ["left of", "right of", "above", "below", "on", "behind", "in front of"]
# The longest side of an object in pixels, by its size's name; a scene of four has no room for large ones.
SIDES = {"small": (24, 34), "middle": (36, 50), "large": (58, 84)}


@dataclasses.dataclass
class Thing:
    """An object in a scene; x and y are its centre in pixels."""

    kind: int
    x: float
    y: float
    width: int
    height: int
    sprite: tuple

    @property
    def name(self):
        return NAMES[self.kind]

    @property
    def longest(self):
        return max(self.width, self.height)

    def size(self):
        """small, large, or nothing where one could argue."""
        if self.longest <= SIDES["small"][1] + 1:
            return "small"
        return "large" if self.longest >= SIDES["large"][0] - 1 else None


@dataclasses.dataclass
class Scene:
    """What is painted, back to front in `things`; `relation` holds for things[0] and things[1] where given."""

    color: str
    pattern: str
    ground: np.ndarray
    things: list
    relation: str = None

    def left_to_right(self):
        return sorted(self.things, key=lambda t: t.x)

    def paint(self):
        picture = self.ground.copy()
        for thing in self.things:
            rgb, alpha, _ = thing.sprite
            height, width = alpha.shape[:2]
            left, top = round(thing.x - width / 2), round(thing.y - height / 2)
            x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, SIZE), min(top + height, SIZE)
            cut = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - alpha[cut]) + rgb[cut]
        return picture

    def owners(self, stride):
        """The index of the thing that fills most of each cell of `stride` pixels, -1 where under 30 % is covered."""
        side = SIZE // stride
        owner = np.full((SIZE, SIZE), -1)
        for i, thing in enumerate(self.things):
            alpha = thing.sprite[1][..., 0] > 0.5
            left, top = round(thing.x - alpha.shape[1] / 2), round(thing.y - alpha.shape[0] / 2)
            x0, y0 = max(left, 0), max(top, 0)
            x1, y1 = min(left + alpha.shape[1], SIZE), min(top + alpha.shape[0], SIZE)
            owner[y0:y1, x0:x1][alpha[y0 - top : y1 - top, x0 - left : x1 - left]] = i
        owners = np.full(side * side, -1)
        best = np.full(side * side, 0.3)
        for i in range(len(self.things)):
            share = (owner == i).reshape(side, stride, side, stride).mean((1, 3)).reshape(-1)
            owners[share > best] = i
            best = np.maximum(best, share)
        return owners

    def cells(self, stride):
        """The kind of each cell's owner, NOTHING where there is none."""
        kinds = np.array([t.kind for t in self.things] + [NOTHING])
        return kinds[self.owners(stride)]

    def middles(self, stride):
        """Whether the middle of a thing lies in each cell, as 0 or 1."""
        side = SIZE // stride
        held = np.zeros(side * side, np.float32)
        for thing in self.things:
            held[min(int(thing.y / stride), side - 1) * side + min(int(thing.x / stride), side - 1)] = 1
        return held

    def centres(self, stride):
        """Where the owner's centre lies from each cell's own, in halves of the picture, [cells, 2]; NaN without one."""
        owners, side = self.owners(stride), SIZE // stride
        middle = (np.arange(side) + 0.5) * stride
        own = np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 2)
        centres = np.array([(t.x, t.y) for t in self.things] + [(np.nan, np.nan)])[owners]
        return ((centres - own) / (SIZE / 2)).astype(np.float32)


def load_sprites():
    """One RGBA picture an object, cut to what is visible, in the order of NAMES."""
    table = json.load(open(os.environ["EMOJI_TABLE"]))
    code = {name: entry["unified"].lower() for entry in table for name in entry["short_names"]}
    sprites = []
    for _, _, short_name in ROWS:
        path = Path(os.environ["EMOJI_ASSETS"]) / f"{code[short_name]}.webp"
        picture = Image.open(path if path.exists() else path.with_suffix(".png")).convert("RGBA")
        picture = picture.crop(picture.getchannel("A").getbbox())
        sprites.append(picture.resize([max(1, side * 128 // max(picture.size)) for side in picture.size], Image.LANCZOS))
    return sprites


class Variants:
    """Ready-made variants of every object (size, small turn, mirrored): painting is one blend each."""

    def __init__(self, seed, per_object=36):
        rng = np.random.default_rng(seed)
        sides = [self._side(k, per_object) for k in range(per_object)]
        self.rows = [
            [self._variant(rng, sprite, low + (high - low) * rng.random()) for low, high in sides]
            for sprite in load_sprites()
        ]

    @staticmethod
    def _side(k, count):
        smallest, largest = SIDES["small"][0], SIDES["large"][1]
        step = (largest - smallest) / count
        return smallest + step * k, smallest + step * (k + 1)

    @staticmethod
    def _variant(rng, sprite, longest):
        turned = sprite.rotate(rng.uniform(-12, 12), Image.BICUBIC, expand=True)
        if rng.random() < 0.5:
            turned = turned.transpose(Image.FLIP_LEFT_RIGHT)
        turned = turned.crop(turned.getchannel("A").getbbox())
        factor = longest / max(turned.size)
        size = [max(4, round(side * factor)) for side in turned.size]
        pixels = np.asarray(turned.resize(size, Image.LANCZOS), np.float32)
        alpha = pixels[..., 3:] / 255
        return pixels[..., :3] * alpha, alpha, max(size)

    def pick(self, rng, kind, low, high):
        fitting = [v for v in self.rows[kind] if low <= v[2] <= high]
        return fitting[rng.integers(len(fitting))]


def background(rng, color=None, pattern=None):
    """[SIZE, SIZE, 3] in 0..255, its colour's name, its pattern's name."""
    color = color or COLOR_NAMES[rng.integers(len(COLOR_NAMES))]
    pattern = pattern or PATTERNS[rng.choice(5, p=[0.4, 0.15, 0.15, 0.15, 0.15])]
    first = np.clip(np.array(COLORS[color], np.float32) + rng.normal(0, 7, 3), 0, 255)
    second = first + (255 - first) * 0.28 if first.mean() < 190 else first * 0.84
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    if pattern == "plain":
        share = np.zeros((SIZE, SIZE), np.float32)
    elif pattern == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        share = ((x - 56) * np.cos(angle) + (y - 56) * np.sin(angle)) / 112 + 0.5
    elif pattern == "striped":
        angle = [0, np.pi / 2, np.pi / 4, -np.pi / 4][rng.integers(4)]
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / 24 + rng.uniform(0, 6))
        share = np.clip(wave * 4, -1, 1) * 0.5 + 0.5
    elif pattern == "dotted":
        u, v = (x + rng.uniform(0, 24)) % 24 - 12, (y + rng.uniform(0, 24)) % 24 - 12
        share = np.clip(6.5 - np.sqrt(u * u + v * v), 0, 1)
    else:
        share = ((x + rng.integers(32)) // 16 + (y + rng.integers(32)) // 16) % 2
    share = np.clip(share, 0, 1)[..., None]
    return (first * (1 - share) + second * share).astype(np.float32), color, pattern


def thing(rng, variants, kind, low, high):
    sprite = variants.pick(rng, kind, low, high)
    return Thing(kind, 0.0, 0.0, sprite[1].shape[1], sprite[1].shape[0], sprite)


def anywhere(rng, t, centred=False):
    """Moves a thing to a place where all of it is inside."""
    half = (t.width / 2, t.height / 2)
    if centred:
        t.x, t.y = (float(np.clip(56 + rng.uniform(-10, 10), h, SIZE - h)) for h in half)
    else:
        t.x, t.y = (float(rng.uniform(h, SIZE - h)) for h in half)


def apart(a, b, share=0.42):
    """Whether two things hardly overlap."""
    return abs(a.x - b.x) > share * (a.width + b.width) or abs(a.y - b.y) > share * (a.height + b.height)


def place_beside(rng, t, others):
    """Finds a place that hardly overlaps the others; whether there was one."""
    for _ in range(40):
        anywhere(rng, t)
        if all(apart(t, other) for other in others):
            return True
    return False


def sides_for(rng, count):
    """Bounds of the longest side for a scene of `count`, at random among those with room."""
    if count == 1:
        name = ["small", "middle", "large"][rng.choice(3, p=[0.2, 0.25, 0.55])]
    elif count == 2:
        name = ["small", "middle"][rng.choice(2, p=[0.25, 0.75])]
    else:
        return (24, 34) if count == 4 else (24, 42)
    return SIDES[name]


def kinds(rng, count):
    """`count` kinds: all one kind in a third of the cases, two of one kind in some, else all different."""
    different = [int(k) for k in rng.choice(len(NAMES), max(count, 1), replace=False)][:count]
    if count > 1 and (roll := rng.random()) < 0.5:
        return [different[0]] * count if roll < 0.33 else [different[0]] + different[: count - 1]
    return different


def scattered(rng, variants, count, which=None, centred=False):
    """A scene of `count` things that lie apart (fewer if there is no room)."""
    ground, color, pattern = background(rng)
    scene = Scene(color, pattern, ground, [])
    for kind in which or kinds(rng, count):
        t = thing(rng, variants, kind, *sides_for(rng, count))
        if count == 1 and centred:
            anywhere(rng, t, centred=True)
        elif not place_beside(rng, t, scene.things):
            continue
        scene.things.append(t)
    return scene


def related(rng, variants, relation=None, which=None):
    """Two things of different kinds; the relation says how the first stands to the second."""
    relation = relation or RELATIONS[rng.integers(len(RELATIONS))]
    ground, color, pattern = background(rng)
    first, second = which or [int(k) for k in rng.choice(len(NAMES), 2, replace=False)]
    low, high = (44, 60) if relation in ("behind", "in front of") else (30, 50)
    a, b = (thing(rng, variants, kind, low, high) for kind in (first, second))
    if relation in ("left of", "right of", "above", "below"):
        across = relation in ("left of", "right of")
        lengths = (a.width + b.width, a.height + b.height)[:: 1 if across else -1]
        room = SIZE - lengths[0]
        gap = rng.uniform(0, max(room, 1) * 0.7)
        start = rng.uniform(0, max(room - gap, 0.1))
        one, two = (a, b) if relation in ("left of", "above") else (b, a)
        near = one.width / 2 if across else one.height / 2
        far = one.width + gap + two.width / 2 if across else one.height + gap + two.height / 2
        # Across the other way they may differ by less than the way that the relation names.
        for t, along in ((one, start + near), (two, start + far)):
            anywhere(rng, t)
            if across:
                t.x = along
                t.y = float(np.clip(56 + rng.uniform(-14, 14), t.height / 2, SIZE - t.height / 2))
            else:
                t.y = along
                t.x = float(np.clip(56 + rng.uniform(-14, 14), t.width / 2, SIZE - t.width / 2))
        return Scene(color, pattern, ground, [a, b], relation)
    if relation == "on":
        total = a.height + b.height - 5
        top = rng.uniform(0, max(SIZE - total, 0.1))
        b.x = float(np.clip(56 + rng.uniform(-24, 24), b.width / 2, SIZE - b.width / 2))
        a.x = float(np.clip(b.x + rng.uniform(-5, 5), a.width / 2, SIZE - a.width / 2))
        a.y, b.y = top + a.height / 2, top + a.height - 5 + b.height / 2
        return Scene(color, pattern, ground, [b, a], relation)
    # Behind and in front of: a third to a half of the one at the back is covered.
    front, back = (b, a) if relation == "behind" else (a, b)
    anywhere(rng, back, centred=True)
    side = 1 if rng.random() < 0.5 else -1
    share = rng.uniform(0.5, 0.66)
    front.x = float(np.clip(back.x + side * share * (front.width + back.width) / 2, front.width / 2, SIZE - front.width / 2))
    front.y = float(np.clip(back.y + rng.uniform(4, 12), front.height / 2, SIZE - front.height / 2))
    return Scene(color, pattern, ground, [back, front], relation)


def first_and_second(scene):
    """The two things of a related scene, in the relation's order."""
    a, b = scene.things
    return (b, a) if scene.relation in ("on", "in front of") else (a, b)


EFFECTS = ["noise", "blur", "exposure", "balance", "jpeg"]


def through_camera(rng, picture, effect=None):
    """What a camera does to a picture, [SIZE, SIZE, 3] u8."""
    effect = effect or EFFECTS[rng.integers(len(EFFECTS))]
    if effect == "noise":
        picture = picture + rng.normal(0, rng.uniform(4, 18), picture.shape)
    elif effect == "exposure":
        picture = picture * rng.uniform(0.7, 1.25)
    elif effect == "balance":
        picture = picture * rng.uniform(0.88, 1.12, 3)
    elif effect in ("blur", "jpeg"):
        image = Image.fromarray(finished(picture))
        if effect == "blur":
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.3)))
        else:
            data = io.BytesIO()
            image.save(data, "JPEG", quality=int(rng.integers(25, 80)))
            image = Image.open(data).convert("RGB")
        picture = np.asarray(image, np.float32)
    return finished(picture)


def written_over(rng, picture, text):
    """A text in the picture, which says nothing about what is in it."""
    image = Image.fromarray(finished(picture))
    place = (int(rng.integers(0, 60)), int(rng.integers(0, 100)))
    ImageDraw.Draw(image).text(place, text, tuple(int(v) for v in rng.integers(0, 256, 3)))
    return np.asarray(image, np.float32)


def patched(rng, scene, picture):
    """A square of noise where no thing is; the picture as it was where there is no room."""
    for _ in range(50):
        side = int(rng.integers(14, 26))
        x, y = (int(v) for v in rng.integers(0, SIZE - side, 2))
        hidden = lambda t: (
            abs(t.x - x - side / 2) <= (t.width + side) / 2 and abs(t.y - y - side / 2) <= (t.height + side) / 2
        )
        if not any(hidden(t) for t in scene.things):
            picture = picture.copy()
            picture[y : y + side, x : x + side] = rng.uniform(0, 255, (side, side, 3))
            break
    return picture


def finished(picture):
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
