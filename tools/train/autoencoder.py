"""The picture autoencoder of FLUX's layout, of any size; names are those of ae.safetensors."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import attend

EPS = 1e-6


class Residual(nn.Module):
    def __init__(self, before, after, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, before, EPS), nn.Conv2d(before, after, 3, 1, 1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, after, EPS), nn.Conv2d(after, after, 3, 1, 1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x):
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, EPS)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        n = self.norm(x)
        rows = lambda t: t.flatten(2).transpose(1, 2)[:, None]
        mixed = attend(rows(self.q(n)), rows(self.k(n)), rows(self.v(n)), None)[:, 0]
        return x + self.proj_out(mixed.transpose(1, 2).reshape(x.shape))


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """A bag of named parts."""


def middle(width, groups):
    level = Level()
    level.block_1, level.attn_1 = Residual(width, width, groups), Attention(width, groups)
    level.block_2 = Residual(width, width, groups)
    return level


def through_middle(level, x):
    return level.block_2(level.attn_1(level.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv_in = nn.Conv2d(3, c.ae_width, 3, 1, 1)
        self.down, width = nn.ModuleList(), c.ae_width
        for i, factor in enumerate(c.ae_factors):
            level = Level()
            level.block = nn.ModuleList()
            for _ in range(c.ae_blocks):
                level.block.append(Residual(width, c.ae_width * factor, c.ae_groups))
                width = c.ae_width * factor
            if i + 1 < len(c.ae_factors):
                level.downsample = Down(width)
            self.down.append(level)
        self.mid = middle(width, c.ae_groups)
        self.norm_out, self.conv_out = nn.GroupNorm(c.ae_groups, width, EPS), nn.Conv2d(width, 32, 3, 1, 1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                x = block(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        return self.conv_out(F.silu(self.norm_out(through_middle(self.mid, x))))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c.ae_width * c.ae_factors[-1]
        self.conv_in, self.mid = nn.Conv2d(16, width, 3, 1, 1), middle(width, c.ae_groups)
        levels = []
        for i in reversed(range(len(c.ae_factors))):
            level = Level()
            level.block = nn.ModuleList()
            for _ in range(c.ae_blocks + 1):
                level.block.append(Residual(width, c.ae_width * c.ae_factors[i], c.ae_groups))
                width = c.ae_width * c.ae_factors[i]
            if i:
                level.upsample = Up(width)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = nn.GroupNorm(c.ae_groups, width, EPS), nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, z):
        x = through_middle(self.mid, self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """Moments are of the encoder's own scale; latents are shifted and scaled to about unit variance."""

    def __init__(self, c):
        super().__init__()
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.register_buffer("shift", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(1.0))

    def moments(self, pictures):
        return self.encoder(pictures).chunk(2, 1)

    def latents(self, pictures):
        """The posterior's mean, scaled: what the flow is trained on."""
        return self.scale * (self.moments(pictures)[0] - self.shift)

    def decode(self, latents):
        return self.decoder(latents / self.scale + self.shift)
