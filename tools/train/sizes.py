"""Sizes of a model. `tiny` is the bundled one: widths are multiples of 256, so that every block format applies."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    hidden: int = 256
    inner: int = 1024
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    vocabulary: int = 1536
    theta: float = 10000.0
    grid: int = 16  # places a side in the position tables
    vision_hidden: int = 256
    vision_inner: int = 768
    vision_layers: int = 4
    vision_heads: int = 8
    tokens: int = 0  # that a picture's patches become in the language half; 0 = they stay
    tokens_from: int = 0  # the first layer that has these
    experts: int = 0  # of the drawing branch's feed-forward networks but the first and the last layer's; 0: dense
    active: int = 0  # experts that a token takes
    ae_width: int = 32
    ae_factors: tuple = (1, 1, 2, 2)
    ae_blocks: int = 1
    ae_groups: int = 8  # 32 groups of one channel each would lose every channel's mean before the last layer


TINY = Sizes()
SIZES = {"tiny": TINY, "test": Sizes(64, 128, 2, 4, 2, 16, 1536, 10000.0, 16, 64, 128, 2, 4, ae_width=16)}
