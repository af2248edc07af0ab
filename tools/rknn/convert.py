"""Converts a graph that `kinglet compress --export-onnx` wrote for the NPU of a Rockchip board.

usage: convert.py GRAPH.onnx OUT.rknn [--target rk3588] [--pictures FOLDER]

It runs on a PC with Rockchip's rknn-toolkit2 (pip install rknn-toolkit2, 2.x; x86-64 or AArch64, Python 3.8 to 3.12).
Without --pictures the NPU computes in 16-bit floats. With --pictures it computes in 8 bits, calibrated on the pictures
of that folder (PNG, JPEG, WebP; 20 to 200 of what the camera will see): for the graph `vision` only, whose input is
a picture. Then:

    kinglet see picture.jpg --graph vision=OUT.rknn
"""

import argparse
import struct
import sys
import tempfile
from pathlib import Path

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].removeprefix("usage: "))
    parser.add_argument("graph", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", default="rk3588")
    parser.add_argument("--pictures", type=Path)
    a = parser.parse_args()
    if not a.graph.is_file():
        sys.exit(f"{a.graph} is not there")
    try:
        from rknn.api import RKNN
    except ImportError as e:
        sys.exit(f"rknn-toolkit2 is missing ({e}): pip install rknn-toolkit2")
    with tempfile.TemporaryDirectory() as folder:
        dataset = None
        if a.pictures:
            dataset = calibration(a.graph, a.pictures, Path(folder))
        rknn = RKNN(verbose=False)
        # Values arrive as the graph wants them: no mean and no scale of the toolkit's own.
        done(rknn.config(target_platform=a.target), "config")
        done(rknn.load_onnx(model=str(a.graph)), "load_onnx")
        done(rknn.build(do_quantization=dataset is not None, dataset=dataset), "build")
        done(rknn.export_rknn(str(a.out)), "export_rknn")
        rknn.release()
    print(f"{a.out}: {a.out.stat().st_size / 1e6:.1f} MB for {a.target}, {'8 bits' if dataset else '16-bit floats'}")


def done(code, what):
    if code:
        sys.exit(f"{what} failed ({code}): the toolkit's own messages say why")


def calibration(graph, pictures, folder):
    """One .npy a picture, normalised as Kinglet does it ((v / 255 - 0.5) / 0.5), and the list of them."""
    try:
        from PIL import Image
    except ImportError as e:
        sys.exit(f"Pillow is missing ({e}): pip install pillow")
    files = sorted(f for f in pictures.iterdir() if f.suffix.lower() in SUFFIXES)
    if not files:
        sys.exit(f"{pictures} holds no picture ({', '.join(sorted(SUFFIXES))})")
    height, width = sides(graph)
    rows = []
    for i, file in enumerate(files):
        rgb = Image.open(file).convert("RGB").resize((width, height), Image.BICUBIC).tobytes()
        planes = [v / 127.5 - 1 for channel in range(3) for v in rgb[channel::3]]
        row = folder / f"{i}.npy"
        row.write_bytes(npy([1, 3, height, width], planes))
        rows.append(str(row))
    listed = folder / "dataset.txt"
    listed.write_text("\n".join(rows) + "\n")
    return str(listed)


def npy(shape, values):
    """A float32 array in numpy's file format 1.0."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({', '.join(map(str, shape))},), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{len(values)}f", *values)


def sides(graph):
    """Height and width of the input `picture`, which is the toolkit's onnx package's to say."""
    import onnx

    inputs = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in onnx.load(graph).graph.input}
    shape = inputs.get("picture")
    if not shape or len(shape) != 4:
        sys.exit(f"{graph} takes {inputs}, and no picture: leave --pictures out")
    return shape[2], shape[3]


if __name__ == "__main__":
    main()
