"""Draws the curves that runs keep: python curves.py OUT.png STATE [STATE ...] (needs matplotlib)."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# What is plotted of a stage, and its unit.
SHOWN = [
    (["psnr"], "dB"),
    (["name", "list", "count", "is_there", "relation", "where", "which", "changed"], "share of right answers"),
    (["patches", "held_patches"], "share of patches named right"),
    (["draw", "edit"], "squared error of the velocity"),
    (["1", "2", "3", "4", "related", "spoilt"], "share of right lists"),
]


def main(out, *folders):
    figure, axes = plt.subplots(1, len(folders), figsize=(5 * len(folders), 3.6), squeeze=False)
    for axis, folder in zip(axes[0], folders):
        rows = json.loads((Path(folder) / "run.json").read_text())["curve"]
        known = {key for row in rows for key in row}
        names, label = next(shown for shown in SHOWN if shown[0][0] in known)
        for name in names:
            points = [(row["seen"] / 1000, row[name]) for row in rows if name in row]
            axis.plot(*zip(*points), label=name.replace("_", " "), marker="." if len(points) < 20 else None)
        axis.set_title(Path(folder).name)
        axis.set_xlabel("thousand samples")
        axis.set_ylabel(label)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
