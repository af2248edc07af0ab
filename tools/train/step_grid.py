"""The same drawings in several ways, under each other: what `kinglet-eval steps` has kept of them.

python step_grid.py FOLDER OUT.png WAY... (a folder's name each), the first of each category of prompts.json in SCENES.
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw

TILE, LABEL, MARGIN, GAP = 112, 16, 190, 4


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out")
    parser.add_argument("ways", nargs="+")
    parser.add_argument("--scenes", type=Path, default="../../target/held-out")
    parser.add_argument("--each", type=int, default=1, help="prompts of a category")
    a = parser.parse_args()
    wanted = json.loads((a.scenes / "prompts.json").read_text())
    categories = list(dict.fromkeys(row["category"] for row in wanted))
    of = lambda category: [i for i, row in enumerate(wanted) if row["category"] == category]
    numbers = [i for category in categories for i in of(category)[: a.each]]
    sheet = Image.new("RGB", (MARGIN + len(numbers) * (TILE + GAP), LABEL + len(a.ways) * (TILE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, number in enumerate(numbers):
        left = MARGIN + column * (TILE + GAP)
        pen.text((left, 2), wanted[number]["prompt"].removesuffix(" background")[:19], "black")
        for row, way in enumerate(a.ways):
            top = LABEL + row * (TILE + GAP)
            pen.text((4, top + TILE // 2), way.replace("-", " "), "black")
            sheet.paste(Image.open(a.folder / way / f"{number:05}.png"), (left, top))
    sheet.save(a.out)


if __name__ == "__main__":
    main()
