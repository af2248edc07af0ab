"""Every type that `kinglet compress` writes, as the Python package gguf reads it.

    check.py KINGLET MODEL

Compresses the model to each type, and that to F32; gguf must open the first and make of its bytes, bit by
bit, what stands in the second. Needs gguf and numpy."""

import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

TYPES = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
]


def compress(kinglet, source, kind, out):
    recipe = out.with_suffix(".toml")
    recipe.write_text(f'[precision]\ndefault = "{kind}"\n')
    subprocess.run([kinglet, "compress", source, "-o", out, "--recipe", recipe],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def values(tensor):
    return gguf.quants.dequantize(np.asarray(tensor.data), tensor.tensor_type).astype(np.float32)


def main():
    kinglet, model = sys.argv[1:]
    original = {t.name: values(t) for t in gguf.GGUFReader(model).tensors}
    for kind in TYPES:
        with tempfile.TemporaryDirectory() as folder:
            small, plain = pathlib.Path(folder, "small.gguf"), pathlib.Path(folder, "plain.gguf")
            compress(kinglet, model, kind, small)
            compress(kinglet, small, "F32", plain)
            read, ours = gguf.GGUFReader(small), gguf.GGUFReader(plain)
            ours = {t.name: t for t in ours.tensors}
            assert {t.name for t in read.tensors} == set(ours) == set(original)
            count = off = size = 0
            for tensor in read.tensors:
                theirs, mine = values(tensor), values(ours[tensor.name])
                # A zero may have either sign.
                same = (theirs.view(np.uint32) == mine.view(np.uint32)) | ((theirs == 0) & (mine == 0))
                assert same.all(), f"{kind}: {tensor.name}: {(~same).sum()} values differ"
                if tensor.tensor_type.name == kind:
                    wanted = original[tensor.name]
                    count, size = count + 1, size + (wanted.astype(np.float64) ** 2).sum()
                    off += ((wanted.astype(np.float64) - theirs) ** 2).sum()
            assert count > 0, f"{kind}: no tensor has this type"
            error = (off / size) ** 0.5
            print(f"{kind:5} {len(read.tensors)} tensors alike, {count} of them {kind}, relative error {error:.5f}")
            assert error < 0.3, f"{kind}: {error}"
    print(f"gguf: {len(TYPES)} types checked")


main()
