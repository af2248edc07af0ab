"""Draws twelve prompts with the program and lays them out on one sheet.

usage: contact_sheet.py PROGRAM OUT.png
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

PROMPTS = [
    "a cat on a blue background",
    "a bus on an orange background",
    "a penguin on a purple background",
    "a burger on a brown background",
    "a tree on a red background",
    "a ball on a green background",
    "a strawberry on a black background",
    "a gift on a pink background",
    "a panda on a white background",
    "a house on a yellow striped background",
    "a guitar on a gray background",
    "a key on a blue background",
]
COLUMNS, TILE, LABEL, GAP = 4, 224, 18, 8


def main(program, out):
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, rows * (TILE + LABEL + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    with tempfile.TemporaryDirectory() as folder:
        for i, prompt in enumerate(PROMPTS):
            file = Path(folder) / f"{i}.png"
            subprocess.run([program, "draw", prompt, "--seed", str(i), "-o", file], check=True, stdout=subprocess.DEVNULL)
            left = GAP + i % COLUMNS * (TILE + GAP)
            top = GAP + i // COLUMNS * (TILE + LABEL + GAP)
            sheet.paste(Image.open(file).resize((TILE, TILE), Image.BICUBIC), (left, top))
            pen.text((left, top + TILE + 3), f"{prompt} (seed {i})", fill="black")
    sheet.save(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
