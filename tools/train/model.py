"""A BAGEL of any size in plain PyTorch, batched for training; docs/model.md is the specification.

Tensor names are the checkpoint's, but for a prefix that export.py adds. Everything runs as blocks: a block
is a list of (branch, hidden) segments at given positions; it sees a cache of earlier blocks, and itself
through a mask. Understanding, drawing and editing are sequences of such blocks, as they are at inference.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

UND, GEN = "", "_moe_gen"
EPS = 1e-6


class Softmax(torch.autograd.Function):
    """Over the last dimension. On CPUs PyTorch's own backward takes ten times as long as these three passes."""

    @staticmethod
    def forward(ctx, scores):
        shares = scores.softmax(-1)
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    def backward(ctx, gradient):
        (shares,) = ctx.saved_tensors
        product = gradient * shares
        return product.addcmul_(shares, product.sum(-1, keepdim=True), value=-1)


def attend(q, k, v, mask):
    """q [B, heads, n, d]; k, v [B, kv_heads, length, d]; mask [B or 1, 1, n, length], True = seen.

    Written out: on CPUs its backward is quicker than the fused kernel at these lengths. Heads that share keys are
    rows of one product.
    """
    share = q.shape[1] // k.shape[1]
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k.repeat_interleave(share, 1), v.repeat_interleave(share, 1), attn_mask=mask)
    found = weights(q, k, mask).flatten(2, 3).to(v.dtype) @ v
    return found.view(q.shape)


def weights(q, k, mask):
    """[B, kv_heads, heads / kv_heads, n, length]"""
    grouped = q.reshape(*k.shape[:2], -1, q.shape[-1]) * q.shape[-1] ** -0.5
    scores = (grouped @ k.transpose(-1, -2)).unflatten(2, (-1, q.shape[2]))
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -1e4)
    return Softmax.apply(scores)


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype) * self.weight.to(x.dtype)


class FeedForward(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, False)
        self.up_proj = nn.Linear(hidden, inner, False)
        self.down_proj = nn.Linear(inner, hidden, False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """A feed-forward network in slices, of which each token takes the `active` ones with the largest logits; a slice
    counts 1 + its logit (docs/model.md, 4.3). In training `balance` keeps all of them in use: without it a slice that is
    taken learns, is better for it and is taken by more, until two are taken by all tokens and the rest by none."""

    def __init__(self, hidden, inner, count, active):
        super().__init__()
        self.active = active
        self.gate = nn.Linear(hidden, count, False)
        self.experts = nn.ModuleList(FeedForward(hidden, inner // count) for _ in range(count))

    def forward(self, x):
        flat = x.flatten(0, 1)
        logits, chosen = self.gate(flat).topk(self.active, dim=-1)
        if torch.is_grad_enabled():
            shares = chosen.flatten().bincount(minlength=len(self.experts)) / len(flat)
            self.used = shares, flat.detach().float().mean(0)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, place = (chosen == number).nonzero(as_tuple=True)
            said = expert(flat[rows])
            out = out.index_add(0, rows, (said * (1 + logits[rows, place])[:, None]).to(out.dtype))
        return out.view(x.shape)

    @torch.no_grad()
    def balance(self, rate=0.02):
        """Raises the logits of slices that the last batch took too seldom and lowers the others', all tokens' alike (Wang
        and others, 2024). A router has no bias: the mean of what enters stands for it."""
        shares, mean = self.used
        wanted = self.active / len(self.experts)
        self.gate.weight += rate * (wanted - shares)[:, None] * mean / mean.dot(mean)


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        for branch in (UND, GEN):
            self.add_module("q_proj" + branch, nn.Linear(c.hidden, c.heads * c.head_dim))
            self.add_module("k_proj" + branch, nn.Linear(c.hidden, c.kv_heads * c.head_dim))
            self.add_module("v_proj" + branch, nn.Linear(c.hidden, c.kv_heads * c.head_dim))
            self.add_module("o_proj" + branch, nn.Linear(c.heads * c.head_dim, c.hidden, False))
            self.add_module("q_norm" + branch, RMSNorm(c.head_dim))
            self.add_module("k_norm" + branch, RMSNorm(c.head_dim))


class Layer(nn.Module):
    def __init__(self, c, sparse):
        super().__init__()
        self.c = c
        self.self_attn = SelfAttention(c)
        for branch in (UND, GEN):
            split = sparse and branch == GEN
            network = Experts(c.hidden, c.inner, c.experts, c.active) if split else FeedForward(c.hidden, c.inner)
            self.add_module("mlp" + branch, network)
            self.add_module("input_layernorm" + branch, RMSNorm(c.hidden))
            self.add_module("post_attention_layernorm" + branch, RMSNorm(c.hidden))

    def forward(self, segments, ropes, cached, mask, watch=None):
        """segments: [(branch, x [B, n, hidden])]; cached: (k, v) or None; -> (segments, (k, v) of this block).
        watch: a list that takes the attention of the first head of each group, [B, kv_heads, n, length]."""
        qs, ks, vs = [], [], []
        for (branch, x), rope in zip(segments, ropes):
            part = lambda name: getattr(self.self_attn, name + branch)
            n = getattr(self, "input_layernorm" + branch)(x)
            split = lambda t, heads: t.view(*t.shape[:2], heads, self.c.head_dim).transpose(1, 2)
            q, k = split(part("q_proj")(n), self.c.heads), split(part("k_proj")(n), self.c.kv_heads)
            qs.append(turned(part("q_norm")(q), rope))
            ks.append(turned(part("k_norm")(k), rope))
            vs.append(split(part("v_proj")(n), self.c.kv_heads))
        dtype = qs[0].dtype
        q, k, v = (torch.cat([t.to(dtype) for t in ts], 2) for ts in (qs, ks, vs))
        own = (k, v)
        if cached is not None:
            k, v = torch.cat([cached[0].to(dtype), k], 2), torch.cat([cached[1].to(dtype), v], 2)
        share = self.c.heads // self.c.kv_heads
        if watch is not None:
            watch.append(weights(q[:, ::share], k, mask)[:, :, 0])
        mixed = attend(q, k, v, mask)
        mixed = mixed.transpose(1, 2).flatten(2)
        out, at = [], 0
        for branch, x in segments:
            # In one piece: of a slice, the product would copy its matrix for every row of the batch.
            own_part = mixed[:, at : at + x.shape[1]].contiguous()
            x = x + getattr(self.self_attn, "o_proj" + branch)(own_part)
            at += x.shape[1]
            n = getattr(self, "post_attention_layernorm" + branch)(x)
            out.append((branch, x + getattr(self, "mlp" + branch)(n)))
        return out, own


def turned(x, rope):
    cos, sin = rope
    a, b = x.chunk(2, -1)
    return (x.float() * cos + torch.cat([-b, a], -1).float() * sin).to(x.dtype)


class VisionTokens(nn.Module):
    """A picture's patches to fewer tokens: learnt queries look at their norms. It begins as means of patches."""

    def __init__(self, c):
        super().__init__()
        self.heads = c.heads
        self.norm, self.query = RMSNorm(c.hidden), nn.Parameter(torch.randn(c.tokens, c.hidden))
        for name in ("k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(c.hidden, c.hidden, False))

    def forward(self, x):
        """[B, patches, hidden] -> [B, tokens, hidden]"""
        n, split = self.norm(x), lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query = self.query.to(n.dtype).expand(len(x), -1, -1)
        found = attend(split(query), split(self.k_proj(n)), split(self.v_proj(n)), None)
        return self.o_proj(found.transpose(1, 2).flatten(2))


class VisionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.vision_heads
        width = c.vision_hidden
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.self_attn.add_module(name, nn.Linear(width, width))
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, c.vision_inner), nn.Linear(c.vision_inner, width)

    def forward(self, x):
        a, n = self.self_attn, self.layer_norm1(x)
        heads = lambda t: t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)
        mixed = attend(heads(a.q_proj(n)), heads(a.k_proj(n)), heads(a.v_proj(n)), None)
        x = x + a.out_proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.layer_norm2(x)), approximate="tanh"))


def sincos(side, width):
    """The fixed table of a grid's places, [side * side, width]: column half first, then row half."""
    omega = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    half = lambda p: torch.cat([torch.sin(p[:, None] * omega), torch.cos(p[:, None] * omega)], 1)
    row, column = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    return torch.cat([half(column.reshape(-1)), half(row.reshape(-1))], 1).float()


class Bagel(nn.Module):
    def __init__(self, c, markers):
        """c: sizes (sizes.py); markers: the ids of the tokens around a picture."""
        super().__init__()
        self.c = c
        self.register_buffer("markers", torch.tensor(markers), persistent=False)
        self.embed_tokens = nn.Embedding(c.vocabulary, c.hidden)
        self.lm_head = nn.Linear(c.hidden, c.vocabulary, False)
        self.norm, self.norm_moe_gen = RMSNorm(c.hidden), RMSNorm(c.hidden)
        self.layers = nn.ModuleList(Layer(c, c.experts and 0 < i < c.layers - 1) for i in range(c.layers))
        self.time_embedder = nn.Sequential(nn.Linear(256, c.hidden), nn.SiLU(), nn.Linear(c.hidden, c.hidden))
        self.vae2llm, self.llm2vae = nn.Linear(64, c.hidden), nn.Linear(c.hidden, 64)
        self.register_buffer("latent_pos_embed", sincos(c.grid, c.hidden))
        self.register_buffer("vit_pos_embed", sincos(c.grid, c.hidden))
        self.patch_embedding = nn.Linear(588, c.vision_hidden)
        self.position_embedding = nn.Embedding(c.grid**2, c.vision_hidden)
        self.vit = nn.ModuleList(VisionLayer(c) for _ in range(c.vision_layers))
        self.post_layernorm = nn.LayerNorm(c.vision_hidden, EPS)
        if c.tokens:
            self.vision_tokens = VisionTokens(c)
        self.fc1, self.fc2 = nn.Linear(c.vision_hidden, c.hidden), nn.Linear(c.hidden, c.hidden)
        frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self._initialise()

    def _initialise(self):
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                last = name.endswith(("o_proj", "o_proj_moe_gen", "down_proj"))
                gain = (2 * self.c.layers) ** -0.5 if last else 1.0
                nn.init.normal_(module.weight, 0, gain * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed_tokens.weight, 0, 0.5)
        nn.init.normal_(self.lm_head.weight, 0, 0.02)
        nn.init.normal_(self.position_embedding.weight, 0, 0.3)
        nn.init.zeros_(self.llm2vae.weight)
        if self.c.tokens:
            for module in (self.vision_tokens.v_proj, self.vision_tokens.o_proj):
                nn.init.eye_(module.weight)

    def drawing_names(self):
        """The parameters that only drawing uses."""
        own = ("time_embedder", "vae2llm", "llm2vae")
        return {n for n, _ in self.named_parameters() if "moe_gen" in n or n.startswith(own)}

    def vision_names(self):
        """The parameters of the vision tower."""
        own = ("patch_embedding", "position_embedding", "vit.", "post_layernorm")
        return {n for n, _ in self.named_parameters() if n.startswith(own)}

    def train_only(self, names):
        """Lets these parameters learn and no others; returns them with their names."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in names)
        return [(n, p) for n, p in self.named_parameters() if n in names]

    def rope(self, positions):
        """positions [B, n] -> cos, sin [B, 1, n, head_dim]"""
        exponents = torch.arange(0, self.c.head_dim, 2, device=positions.device).float() / self.c.head_dim
        angles = positions.float()[..., None] * self.c.theta ** (-exponents)
        angles = torch.cat([angles, angles], -1)[:, None]
        return angles.cos(), angles.sin()

    def places(self, count, grid=None):
        """Rows of the position tables for a grid (rows, columns) of `count` tokens; left out: a square one."""
        rows, columns = (torch.arange(n, device=self.markers.device) for n in grid or [math.isqrt(count)] * 2)
        return (rows[:, None] * self.c.grid + columns[None]).reshape(-1)

    def block(self, segments, positions, cache=None, mask=None, tap=None, watch=None, fewer=False, only=None):
        """Runs a block through all layers.

        segments: [(branch, x [B, n, hidden])], positions: [B, total], cache: None or (list of (k, v), seen [B, length]),
        mask: [B or 1, total, total] within the block, None where everything in it sees everything in it,
        watch: {layer: list} that takes attention (Layer) and what comes out; fewer: the block is a picture whose
        patches may become fewer tokens on the way, after which layers' caches differ in length. `seen` is then the
        shortest one's: what is missing in front is seen. only: the layers that run, of a block that nothing comes after.
        Returns (segments before the last norm, cache with this block, segments after layer `tap`).
        """
        batch, total = positions.shape
        ropes = self.ropes(segments, positions)
        before, seen = cache or ([None] * len(self.layers), positions.new_zeros((batch, 0), dtype=torch.bool))
        masked = mask is not None or not bool(seen.all())
        after, tapped = [], None
        for i, (layer, cached) in enumerate(zip(self.layers, before)):
            if only is not None and i not in only:
                continue
            if fewer and self.c.tokens and i == self.c.tokens_from:
                (branch, x), total = segments[0], self.c.tokens + 2
                segments = [(branch, torch.cat([x[:, :1], self.vision_tokens(x[:, 1:-1]).to(x.dtype), x[:, -1:]], 1))]
                positions = positions[:, :total]
                ropes = self.ropes(segments, positions)
            whole = None
            if masked:
                everything = positions.new_ones((1, total, total), dtype=torch.bool)
                inner = (everything if mask is None else mask).expand(batch, -1, -1)
                longer = 0 if cached is None else cached[0].shape[2] - seen.shape[1]
                own_seen = F.pad(seen, (longer, 0), value=True)[:, None].expand(batch, total, -1)
                whole = torch.cat([own_seen, inner], 2)[:, None]
            segments, own = layer(segments, ropes, cached, whole, (watch or {}).get(i))
            if cached is not None:
                own = tuple(torch.cat([a.to(b.dtype), b], 2) for a, b in zip(cached, own))
            after.append(own)
            if i == tap:
                tapped = segments
            if watch and i in watch:
                watch[i].append(segments[-1][1])
        return segments, (after, torch.cat([seen, seen.new_ones((batch, total))], 1)), tapped

    def ropes(self, segments, positions):
        return [self.rope(part) for part in positions.split([x.shape[1] for _, x in segments], 1)]

    def marked(self, branch, x):
        """A picture's tokens between their two markers, which are always of the understanding branch."""
        marker = lambda i: self.embed_tokens.weight[self.markers[i]].repeat(len(x), 1, 1).to(x.dtype)
        if branch == UND:
            return [(UND, torch.cat([marker(0), x, marker(1)], 1))]
        return [(UND, marker(0)), (GEN, x), (UND, marker(1))]

    def look(self, pictures):
        """The vision tower: pictures [B, 3, height, width] in -1..1 -> [B, patches, vision_hidden]."""
        batch, _, *size = pictures.shape
        grid = [side // 14 for side in size]
        x = pictures.view(batch, 3, grid[0], 14, grid[1], 14).permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)
        x = self.patch_embedding(x) + self.position_embedding.weight[self.places(x.shape[1], grid)]
        for layer in self.vit:
            x = layer(x)
        return self.post_layernorm(x)

    def see(self, vision, position, cache=None, grid=None, watch=None):
        """Puts what the tower says of a picture at a position; -> (last hidden of its patches or tokens, cache)."""
        places = self.places(vision.shape[1], grid)
        tokens = self.fc2(F.gelu(self.fc1(vision), approximate="tanh")) + self.vit_pos_embed[places]
        positions = torch.full((len(vision), tokens.shape[1] + 2), position, device=tokens.device)
        segments, cache, _ = self.block(self.marked(UND, tokens), positions, cache, watch=watch, fewer=True)
        return self.norm(segments[0][1])[:, 1:-1], cache

    def read(self, ids, positions, mask, cache=None, watch=None):
        """Puts text tokens; -> (last hidden, cache)."""
        segments, cache, _ = self.block([(UND, self.embed_tokens(ids))], positions, cache, mask, None, watch)
        return self.norm(segments[0][1]), cache

    def latents(self, x, times, grid=None):
        """x [B, n, 64] at times [B] -> hidden of the drawing branch."""
        angles = times[:, None].float() * self.frequencies
        embedded = self.time_embedder(torch.cat([angles.cos(), angles.sin()], -1))
        return self.vae2llm(x) + embedded[:, None] + self.latent_pos_embed[self.places(x.shape[1], grid)]

    def remember(self, x, position, cache=None, grid=None):
        """Puts a finished picture's latents (time 0), as editing does."""
        hidden = self.latents(x, x.new_zeros(len(x)), grid)
        positions = torch.full((len(x), x.shape[1] + 2), position, device=x.device)
        return self.block(self.marked(GEN, hidden), positions, cache)[1]

    def velocity(self, x, times, position, cache=None, tap=None, grid=None, only=None):
        """The flow's velocity at x [B, n, 64], times [B], each at its own rope position [B], by all layers or some; (v,
        hidden after `tap`)."""
        positions = position[:, None].expand(-1, x.shape[1] + 2)
        picture = self.marked(GEN, self.latents(x, times, grid))
        segments, _, tapped = self.block(picture, positions, cache, None, tap, only=only)
        return self.llm2vae(self.norm_moe_gen(segments[1][1])), tapped and tapped[1][1]


def to_tokens(latent):
    """[B, 16, h, w] -> [B, h/2 * w/2, 64]: row, column, channel inside a token."""
    b, c, h, w = latent.shape
    return latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 4 * c)


def from_tokens(tokens):
    b, n, d = tokens.shape
    side = math.isqrt(n)
    x = tokens.view(b, side, side, 2, 2, d // 4).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, d // 4, 2 * side, 2 * side)


def pixels(pictures, device="cpu"):
    """[B, side, side, 3] u8 -> [B, 3, side, side] in -1..1"""
    return torch.as_tensor(pictures, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1
