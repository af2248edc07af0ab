"""Runs the demo and makes the README's picture of what one sees: its output, frames, drawing.

python demo_picture.py PROGRAM CLIP_DIR OUT.png
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TILE, GAP, LINE, WIDTH = 150, 10, 19, 880


def main(program, clip, out):
    clip = Path(clip)
    scenes = json.load(open(clip / "truth.json"))["scenes"][:4]
    with tempfile.TemporaryDirectory() as folder:
        run = [Path(program).resolve(), "demo", "--events", "4"]
        text = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True).stdout
        drawing = Image.open(Path(folder) / "kinglet-demo.png").convert("RGB")
    frames = [Image.open(clip / f"{scene['last']:03}.jpg") for scene in scenes]
    lines = ["$ cargo run --release -- demo --events 4", *text.splitlines()]
    sheet = Image.new("RGB", (WIDTH, len(lines) * LINE + TILE + 4 * GAP + LINE), (24, 26, 30))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, line in enumerate(lines):
        pen.text((GAP, GAP + i * LINE), line, fill=(225, 228, 232), font=font)
    top = 2 * GAP + len(lines) * LINE
    for i, tile in enumerate([*frames, drawing]):
        left = GAP + i * (TILE + GAP) + (3 * GAP if i == len(frames) else 0)
        sheet.paste(tile.resize((TILE, TILE), Image.BICUBIC), (left, top))
        name = "drawn" if i == len(frames) else "camera"
        pen.text((left, top + TILE + 3), name, fill=(150, 155, 165), font=font)
    sheet.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:4])
