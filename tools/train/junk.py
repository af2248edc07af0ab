"""Things that have an object's colours and not its shape: what a judge must refuse."""

import copy

import numpy as np
import torch
import torch.nn.functional as F


def shuffled(rng, rgb, alpha):
    """Squares of the picture in another order."""
    side = int(rng.integers(6, 14))
    rows, columns = rgb.shape[0] // side, rgb.shape[1] // side
    if rows * columns < 4:
        return None
    whole = np.concatenate([rgb, alpha], 2)[: rows * side, : columns * side]
    parts = whole.reshape(rows, side, columns, side, 4).swapaxes(1, 2).reshape(-1, side, side, 4)
    parts = parts[rng.permutation(len(parts))]
    whole = parts.reshape(rows, columns, side, side, 4).swapaxes(1, 2).reshape(rows * side, columns * side, 4)
    return whole[..., :3], whole[..., 3:]


def warped(rng, rgb, alpha, strength=(0.2, 0.35)):
    """Bent by a random field, by up to a share of its size."""
    whole = torch.from_numpy(np.concatenate([rgb, alpha], 2)).permute(2, 0, 1)[None]
    cells = int(rng.integers(3, 6))
    field = torch.from_numpy(rng.normal(0, rng.uniform(*strength), (1, 2, cells, cells)).astype(np.float32))
    field = F.interpolate(field, whole.shape[2:], mode="bicubic").permute(0, 2, 3, 1)
    grid = F.affine_grid(torch.eye(2, 3)[None], list(whole.shape), align_corners=False)
    whole = F.grid_sample(whole, grid + field, align_corners=False)[0].permute(1, 2, 0).numpy()
    return whole[..., :3], whole[..., 3:]


def halved(rng, rgb, alpha, other):
    """One half of it beside one half of another thing."""
    high, wide = (min(a, b) for a, b in zip(alpha.shape[:2], other[1].shape[:2]))
    cut = lambda t: t[:high, :wide]
    mine = np.zeros((high, wide, 1), bool)
    if rng.random() < 0.5:
        mine[:, : wide // 2] = True
    else:
        mine[: high // 2] = True
    return np.where(mine, cut(rgb), cut(other[0])), np.where(mine, cut(alpha), cut(other[1]))


def averaged(rng, variants, kind, longest):
    """The mean of many pictures of one kind, in sizes and places that differ somewhat."""
    chosen = [variants.rows[kind][i] for i in rng.integers(len(variants.rows[kind]), size=16)]
    total = np.zeros((longest, longest, 4), np.float32)
    for rgb, alpha, _ in chosen:
        whole = torch.from_numpy(np.concatenate([rgb, alpha], 2)).permute(2, 0, 1)[None]
        scale = longest * rng.uniform(0.6, 1) / max(alpha.shape[:2])
        size = [max(2, round(s * scale)) for s in alpha.shape[:2]]
        size = [min(s, longest) for s in size]
        small = F.interpolate(whole, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
        top, left = (int(rng.integers(longest - s + 1)) for s in size)
        total[top : top + size[0], left : left + size[1]] += small / len(chosen)
    return total[..., :3], total[..., 3:]


def spoiled(rng, variants, thing, kind):
    """The thing as junk, of the label `kind`."""
    rgb, alpha, longest = thing.sprite
    way = rng.integers(4)
    if way == 0:
        made = shuffled(rng, rgb, alpha)
    elif way == 1:
        made = warped(rng, rgb, alpha)
    elif way == 2:
        other = variants.pick(rng, int(rng.integers(len(variants.rows))), longest - 8, longest + 8)
        made = halved(rng, rgb, alpha, other)
    else:
        made = averaged(rng, variants, thing.kind, longest)
    if made is None:
        made = warped(rng, rgb, alpha)
    junk = copy.copy(thing)
    junk.kind, junk.sprite = kind, (*made, longest)
    junk.width, junk.height = made[1].shape[1], made[1].shape[0]
    return junk
