"""Makes scenes that the bundled model was not trained on, with their truth, for `kinglet-eval`.

usage: heldout.py OUT_DIR COUNT [SEED]

Writes NNNN.png and truth.json: one to three objects (60, 20 and 20 %), in half of the scenes with
several all of one kind, on any background, through the camera's noise, blur or exposure in 30 %.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from scenes import COLORS, NAMES, SIZE, Variants, background, paste, with_article

PATTERNS = ["plain", "gradient", "striped", "dotted", "checkered"]
COUNTS = {1: "one", 2: "two", 3: "three"}
# The longest side of an object, by the number of objects in the scene.
SIDES = {1: (40, 88), 2: (42, 56), 3: (32, 46)}
PLURALS = {
    "fox": "foxes", "fish": "fish", "octopus": "octopuses", "butterfly": "butterflies",
    "strawberry": "strawberries", "tomato": "tomatoes", "bus": "buses", "cactus": "cactuses",
}


def main(out, count, seed):
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    variants = Variants(seed, 24)
    truth = []
    for i in range(count):
        pixels, scene = compose(rng, variants)
        file = f"{i:04}.png"
        Image.fromarray(pixels).save(out / file)
        truth.append({"file": file, **scene})
    json.dump(truth, open(out / "truth.json", "w"), indent=0)


def compose(rng, variants):
    color, pattern = str(rng.choice(list(COLORS))), str(rng.choice(PATTERNS, p=[0.4, 0.15, 0.15, 0.15, 0.15]))
    picture = background(rng, pattern, color)
    wanted = int(rng.choice([1, 2, 3], p=[0.6, 0.2, 0.2]))
    kinds = [int(rng.integers(len(NAMES)))] * wanted
    if rng.random() < 0.5:
        kinds = [int(k) for k in rng.choice(len(NAMES), wanted, replace=False)]
    boxes = []
    for kind in kinds:
        variant = variants.pick(rng, kind, *SIDES[wanted])
        box = place(rng, variant, [b for _, b in boxes])
        if box is None:
            continue  # no room: one object fewer
        paste(picture, variant, box[0], box[1])
        boxes.append((NAMES[kind], box))
    boxes.sort(key=lambda named: centre(named[1])[0])
    names = [name for name, _ in boxes]
    scene = {
        "objects": names,
        "centres": [[int(c) for c in centre(box)] for _, box in boxes],
        "background": color,
        "pattern": pattern,
        "what": listed(names),
        "count": COUNTS[len(names)],
    }
    return np.clip(through_camera(rng, picture) + 0.5, 0, 255).astype(np.uint8), scene


def centre(box):
    left, top, width, height = box
    return left + width / 2, top + height / 2


def place(rng, variant, others):
    """A place that hardly overlaps others (left, top, width, height), or none."""
    height, width = variant[1].shape[:2]
    for _ in range(40):
        left, top = int(rng.integers(0, SIZE - width + 1)), int(rng.integers(0, SIZE - height + 1))
        box = (left, top, width, height)
        if all(apart(box, other) for other in others):
            return box
    return None


def apart(a, b):
    (ax, ay), (bx, by) = centre(a), centre(b)
    return abs(ax - bx) > 0.4 * (a[2] + b[2]) or abs(ay - by) > 0.4 * (a[3] + b[3])


def listed(names):
    """The names as the model was taught to list them, from left to right."""
    if len(names) > 1 and len(set(names)) == 1:
        return f"{COUNTS[len(names)]} {PLURALS.get(names[0], names[0] + 's')}"
    words = [with_article(name) for name in names]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def through_camera(rng, picture):
    if rng.random() >= 0.3:
        return picture
    effect = rng.integers(3)
    if effect == 0:
        return picture + rng.normal(0, rng.uniform(4, 18), picture.shape)
    if effect == 1:
        blurred = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        return np.asarray(blurred.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.3))), np.float32)
    return picture * rng.uniform(0.7, 1.25)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 101)
