"""What the ceilings of NVIDIA's boards allow, on paper: tokens a second and seconds a velocity pass of the 7B shape.

usage: paper.py

Nothing here was measured. Bandwidths are those of boards/profiles; everything else is stated below.
"""

import tomllib
from pathlib import Path

PROFILES = Path(__file__).resolve().parents[2] / "boards/profiles"

# docs/model.md, 1.1: the language half.
HIDDEN, INNER, LAYERS, KV, VOCABULARY = 3584, 18944, 28, 512, 152064
# All parameters of the container: docs/model.md, 1.
ALL = 14_607_260_128 + 83_819_683
BITS = 4.5  # Q4_0 and Q4_K
CONTEXT = 512  # tokens before the one that is decoded
PROMPT = 30  # tokens before a picture that is drawn
SIDE = 512  # pixels; a token is 16 x 16 of them
KEPT = 2  # bytes of a key or a value

# What of a ceiling a good kernel reaches.
OF_BANDWIDTH, OF_PEAK = 0.8, 0.5

# Tensor cores and GHz (the [gpu] names in the profiles), dense 8-bit operations a cycle and tensor core. Orin: computed
# from NVIDIA's 170 sparse, 85 dense TOPS of AGX Orin 64's processor. Thor: assumed, a quarter of the 2,070 sparse TFLOPS
# in 4 bits that its product page gives, as 8-bit floats have it there; that 8-bit integers have the same is not known.
BOARDS = {
    "orin-nano-8": 32 * 0.625e9 * 1024,
    "orin-nx-16": 32 * 0.918e9 * 1024,
    "agx-orin-64": 64 * 1.3e9 * 1024,
    "agx-thor": 2070e12 / 4,
}

# As published for TensorRT-Edge-LLM: a model of 2 billion parameters in 4 bits on Orin Nano in its Super mode, whose
# bandwidth is the data sheet's 102 GB/s.
PUBLISHED, SUPER, SMALL = 60, 102e9, 2e9


def linear():
    """Weights of a layer that every token of a branch is multiplied with."""
    return 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * INNER


def main():
    branch = LAYERS * linear()
    token = (branch + VOCABULARY * HIDDEN) * BITS / 8 + CONTEXT * LAYERS * 2 * KV * KEPT
    tokens = (SIDE // 16) ** 2 + 2
    products = 2 * branch * tokens
    attention = 4 * LAYERS * tokens * (tokens + PROMPT) * HIDDEN
    weights = branch * BITS / 8
    print(f"A token reads {token / 1e9:.2f} GB. A pass of {SIDE} x {SIDE} takes {products / 1e12:.1f} Tera-operations in")
    print(f"products and {attention / 1e12:.1f} in attention, and reads {weights / 1e9:.2f} GB of the generation branch.")
    print(f"The container has {ALL * BITS / 8 / 2**30:.1f} GiB.\n")
    print("| board | GB/s | TOPS, 8 bits, dense | tokens/s | s a pass | of them reading | the whole container fits |")
    print("|---|---|---|---|---|---|---|")
    for name, peak in BOARDS.items():
        memory = tomllib.loads((PROFILES / f"{name}.toml").read_text())["memory"]
        bandwidth = memory["bandwidth"] * 1e9 * OF_BANDWIDTH
        seconds = (products + attention) / (peak * OF_PEAK)
        fits = ALL * BITS / 8 / 2**30 < memory["gib"] - memory["reserve_gib"]
        print(
            f"| {name} | {memory['bandwidth']} | {peak / 1e12:.0f} | {bandwidth / token:.1f} | {seconds:.2f} "
            f"| {weights / bandwidth:.2f} | {'yes' if fits else 'no'} |"
        )
    ours = SUPER * OF_BANDWIDTH / (SMALL * BITS / 8)
    print(f"\nTensorRT-Edge-LLM, as published: {PUBLISHED} tokens/s for 2B in 4 bits on Orin Nano Super. The same arithmetic")
    print(f"for 2B at {BITS} bits and {SUPER / 1e9:.0f} GB/s: {ours:.0f} tokens/s; {PUBLISHED} are {PUBLISHED / ours * OF_BANDWIDTH:.0%} of that bandwidth.")


if __name__ == "__main__":
    main()
