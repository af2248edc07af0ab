"""Makes blocks.safetensors: random blocks of every quantized format with what gguf's reference decodes
them to, and what it encodes random values to. Needs gguf 0.19 and safetensors."""

import pathlib

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

# Where the f16 factors of a block lie: random bytes would hold infinities there.
FACTORS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
TYPES = gguf.GGMLQuantizationType

rng = np.random.default_rng(0)
vectors = {}
for name, places in FACTORS.items():
    values, size = gguf.GGML_QUANT_SIZES[TYPES[name]]
    count = 8 if values == 32 else 3
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for place in places:
        factors = (rng.standard_normal(count) * 0.01).astype(np.float16)
        blocks[:, place:place + 2] = factors.view(np.uint8).reshape(count, 2)
    blocks = blocks.reshape(1, -1)
    vectors[f"{name}.blocks"] = blocks
    vectors[f"{name}.values"] = dequantize(blocks, TYPES[name]).astype(np.float32)
values = rng.standard_normal((1, 256)).astype(np.float32)
values[0, 32:64] = 0
vectors["encode.values"] = values
for name in ["Q4_0", "Q4_1", "Q5_0", "Q8_0"]:
    vectors[f"encode.{name}"] = quantize(values, TYPES[name])
save_file(vectors, pathlib.Path(__file__).with_name("blocks.safetensors"))
