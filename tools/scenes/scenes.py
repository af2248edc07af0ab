"""Composed scenes with known truth: rendered emoji on named backgrounds, 112x112 pixels.

The pictures are those of @lobehub/fluent-emoji-3d (MIT), named through emoji-datasource (MIT);
`EMOJI_ASSETS` is the folder of its .webp files, `EMOJI_TABLE` the file emoji.json.
"""

import json
import os

import numpy as np
from PIL import Image

SIZE = 112

# short name in emoji-datasource -> the word that the model uses
OBJECTS = dict(
    pair.split(":")
    for pair in """cat:cat dog:dog horse:horse pig:pig cow:cow frog:frog panda_face:panda
    lion_face:lion tiger:tiger fox_face:fox koala:koala monkey_face:monkey chicken:chicken
    penguin:penguin owl:owl tropical_fish:fish whale:whale octopus:octopus crab:crab turtle:turtle
    snail:snail butterfly:butterfly bee:bee elephant:elephant snake:snake apple:apple banana:banana
    grapes:grape watermelon:watermelon strawberry:strawberry pineapple:pineapple carrot:carrot
    corn:corn tomato:tomato broccoli:broccoli cheese_wedge:cheese pizza:pizza hamburger:burger
    fried_egg:egg birthday:cake doughnut:donut car:car bus:bus fire_engine:truck bike:bicycle
    steam_locomotive:train airplane:plane helicopter:helicopter rocket:rocket ship:ship
    tractor:tractor house:house evergreen_tree:tree cactus:cactus sunflower:sunflower
    mushroom:mushroom umbrella:umbrella chair:chair alarm_clock:clock closed_book:book key:key
    hammer:hammer guitar:guitar soccer:ball gift:gift crown:crown bulb:lamp camera:camera""".split()
)
NAMES = list(OBJECTS.values())

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


def with_article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def load_sprites():
    """One RGBA picture an object, cut to what is visible, in the order of NAMES."""
    table = json.load(open(os.environ["EMOJI_TABLE"]))
    code = {entry["short_name"]: entry["unified"].lower() for entry in table}
    sprites = []
    for short_name in OBJECTS:
        path = os.path.join(os.environ["EMOJI_ASSETS"], code[short_name] + ".webp")
        picture = Image.open(path).convert("RGBA")
        sprites.append(picture.crop(picture.getchannel("A").getbbox()))
    return sprites


class Variants:
    """Ready-made variants of every object (scale, small rotation, flip): composing is one blend."""

    def __init__(self, seed, per_object, smallest=28, largest=88):
        rng = np.random.default_rng(seed)
        self.rows = []
        for sprite in load_sprites():
            row = []
            for k in range(per_object):
                longest = smallest + (largest - smallest) * (k + rng.random()) / per_object
                row.append(self._variant(rng, sprite, longest))
            self.rows.append(row)

    @staticmethod
    def _variant(rng, sprite, longest):
        turned = sprite.rotate(rng.uniform(-12, 12), Image.BICUBIC, expand=True)
        if rng.random() < 0.5:
            turned = turned.transpose(Image.FLIP_LEFT_RIGHT)
        turned = turned.crop(turned.getchannel("A").getbbox())
        factor = longest / max(turned.size)
        size = [max(8, round(side * factor)) for side in turned.size]
        pixels = np.asarray(turned.resize(size, Image.LANCZOS), np.float32)
        alpha = pixels[..., 3:] / 255
        return pixels[..., :3] * alpha, alpha, longest

    def pick(self, rng, index, smallest, largest):
        fitting = [v for v in self.rows[index] if smallest <= v[2] <= largest]
        return fitting[rng.integers(len(fitting))]


def background(rng, kind=None, color=None):
    """A background of a named colour in one of five patterns: [SIZE, SIZE, 3] in 0..255."""
    kinds = ["plain", "gradient", "striped", "dotted", "checkered"]
    kind = kind or rng.choice(kinds, p=[0.4, 0.15, 0.15, 0.15, 0.15])
    color = color or rng.choice(list(COLORS))
    first = np.clip(np.array(COLORS[color], np.float32) + rng.normal(0, 7, 3), 0, 255)
    second = first + (255 - first) * 0.28 if first.mean() < 190 else first * 0.84
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    if kind == "plain":
        share = np.zeros((SIZE, SIZE), np.float32)
    elif kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        share = ((x - 56) * np.cos(angle) + (y - 56) * np.sin(angle)) / 112 + 0.5
    elif kind == "striped":
        angle = rng.choice([0, np.pi / 2, np.pi / 4, -np.pi / 4])
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / 24 + rng.uniform(0, 6))
        share = np.clip(wave * 4, -1, 1) * 0.5 + 0.5
    elif kind == "dotted":
        u, v = (x + rng.uniform(0, 24)) % 24 - 12, (y + rng.uniform(0, 24)) % 24 - 12
        share = np.clip(6.5 - np.sqrt(u * u + v * v), 0, 1)
    else:
        share = ((x + rng.integers(32)) // 16 + (y + rng.integers(32)) // 16) % 2
    share = np.clip(share, 0, 1)[..., None]
    return (first * (1 - share) + second * share).astype(np.float32)


def paste(picture, variant, left, top):
    """Blends a variant in place; what lies outside of the picture is cut off."""
    rgb, alpha, _ = variant
    height, width = alpha.shape[:2]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, SIZE), min(top + height, SIZE)
    if x0 >= x1 or y0 >= y1:
        return
    cut = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - alpha[cut]) + rgb[cut]


def single(rng, variants, index, centred):
    """A scene with one object, [SIZE, SIZE, 3] u8: large near the centre, or anywhere."""
    picture = background(rng)
    variant = variants.pick(rng, index, *((60, 84) if centred else (40, 88)))
    height, width = variant[1].shape[:2]
    if centred:
        left = int(np.clip((SIZE - width) / 2 + rng.uniform(-10, 10), 0, SIZE - width))
        top = int(np.clip((SIZE - height) / 2 + rng.uniform(-10, 10), 0, SIZE - height))
    else:
        left, top = (int(rng.integers(0, SIZE - side + 1)) for side in (width, height))
    paste(picture, variant, left, top)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
