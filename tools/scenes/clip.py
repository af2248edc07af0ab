"""Makes the demo's clip: one camera, one background, objects that come and go.

usage: clip.py OUT_DIR

Writes NNN.jpg and truth.json: for every scene the frames in which it stands still and the answer
to "what is in the picture?".
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from scenes import NAMES, SIZE, Variants, background, paste, with_article

SCENES = ["cat", "bus", "penguin", "burger", "umbrella", "frog", "clock", "tree"]
MOVING, STILL = 4, 8
SEED = 52


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    variants = Variants(SEED, 12)
    wall = background(rng, "plain", "gray")
    objects = [variants.pick(rng, NAMES.index(name), 62, 80) for name in SCENES]
    frames, truth = [], []
    for i, (name, variant) in enumerate(zip(SCENES, objects)):
        if i:
            for step in range(1, MOVING + 1):
                share = step / (MOVING + 1)
                frames.append([(objects[i - 1], share), (variant, share - 1)])
        truth.append({"first": len(frames), "last": len(frames) + STILL - 1, "answer": with_article(name)})
        frames += [[(variant, 0.0)]] * STILL
    for number, placed in enumerate(frames):
        picture = wall.copy()
        for variant, shift in placed:
            height, width = variant[1].shape[:2]
            left = round((SIZE - width) / 2 + shift * SIZE)
            paste(picture, variant, left, (SIZE - height) // 2)
        picture += rng.normal(0, 2, picture.shape)  # a camera's noise
        pixels = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(out / f"{number:03}.jpg", quality=92)
    json.dump({"ask": "what is in the picture?", "scenes": truth}, open(out / "truth.json", "w"), indent=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
