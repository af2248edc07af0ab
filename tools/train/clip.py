"""Makes the demo's clip: one camera, one background, objects that come and go.

python clip.py OUT

Writes NNN.jpg and truth.json: for every scene the frames in which it stands still and the answer to "what is in the
picture?".
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from talk import article
from world import NAMES, SIZE, Scene, Variants, background, finished, thing

SCENES = ["cat", "bus", "penguin", "burger", "umbrella", "frog", "clock", "tree"]
MOVING, STILL = 4, 8
SEED = 990_052


def main(out):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    variants = Variants(SEED, 12)
    wall = background(rng, "gray", "plain")
    things = [thing(rng, variants, NAMES.index(name), 60, 80) for name in SCENES]
    frames, truth = [], []
    for i, new in enumerate(things):
        for step in range(1, MOVING + 1) if i else ():
            share = step / (MOVING + 1)
            frames.append([(things[i - 1], share), (new, share - 1)])
        truth.append({"first": len(frames), "last": len(frames) + STILL - 1, "answer": article(new.name)})
        frames += [[(new, 0.0)]] * STILL
    for number, placed in enumerate(frames):
        for moved, share in placed:
            moved.x, moved.y = SIZE * (0.5 + share), SIZE / 2
        inside = [moved for moved, share in placed if abs(share) * SIZE < (SIZE + moved.width) / 2]
        scene = Scene("gray", "plain", wall[0], inside)
        picture = scene.paint() + rng.normal(0, 2, wall[0].shape)  # a camera's noise
        Image.fromarray(finished(picture)).save(out / f"{number:03}.jpg", quality=92)
    (out / "truth.json").write_text(json.dumps({"ask": "what is in the picture?", "scenes": truth}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
