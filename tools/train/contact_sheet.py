"""Draws twenty-four prompts with the program and lays them out on one sheet.

python contact_sheet.py PROGRAM OUT.png
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

PROMPTS = [
    "a cat on a blue background",
    "a penguin on a purple background",
    "a strawberry on a white background",
    "a rocket on a black dotted background",
    "a house on a yellow striped background",
    "a guitar on a gray checkered background",
    "a large owl on a green background",
    "a small key at the top left on a pink background",
    "a bus and a bicycle on an orange background",
    "a frog and an umbrella on a white background",
    "two apples on a gray background",
    "two bells on a blue striped background",
    "three balloons on a green background",
    "three foxes on a purple background",
    "four lemons on a blue background",
    "four drums on a pink dotted background",
    "a crown left of a hat on a red background",
    "a dog right of a ball on a green background",
    "a plane above a ship on a blue background",
    "a tree below a cloud on a white background",
    "a cake on a book on a brown background",
    "a tiger in front of a tent on a yellow background",
    "a lamp behind a chair on a gray background",
    "a cat, a panda and a lion on an orange background",
]
COLUMNS, TILE, LABEL, GAP = 6, 168, 18, 8


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
            pen.text((left, top + TILE + 3), prompt.removesuffix(" background"), fill="black")
    sheet.save(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
