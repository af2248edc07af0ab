"""Where words should look: losses on a few attention heads, in training only.

The last token of a thing's name in a question looks at the thing's patches, or at the marker before the picture where
there is no such thing; the token before a name in an answer looks at the patches of what it is about to name. What they
have seen must say where that is. A picture's patches must say which of them hold the middle of a thing; a layer
later its last marker looks at these and must say how many things there are. In a question on two things
the second one's name looks at the first one's, a layer later, and must say how they stand to each other. Answers alone
teach this late (docs/tiny.md).
"""

import re

import torch
import torch.nn as nn
import torch.nn.functional as F

from world import COLOR_NAMES, NAMES, PLURALS

KINDS = {word: kind for kind, name in enumerate(NAMES) if name not in COLOR_NAMES for word in (name, PLURALS[name])}


def named(tokenizer, text):
    """[(first token, last token, kind)] of the names in a text."""
    offsets = tokenizer.encode(text).offsets
    found = []
    for word in re.finditer(r"[a-z]+", text):
        if (kind := KINDS.get(word.group())) is not None:
            inside = [i for i, (start, end) in enumerate(offsets) if start < word.end() and end > word.start()]
            found.append((inside[0], inside[-1], kind))
    return found


def target(kinds, kind, present):
    """The places of a picture's block [patches + 2] where a word should look; None where the thing covers no patch."""
    places = torch.zeros(len(kinds) + 2)
    cells = torch.as_tensor(kinds == kind)
    if cells.any():
        places[1:-1] = cells.float()
    elif present:
        return None
    else:
        places[0] = 1
    return places


def layers_of(count):
    """Where words of questions look, and where answers do."""
    return count // 3, count * 2 // 3


def compared(count):
    """Where a question's second name looks at its first: one layer after both have looked at the picture."""
    return count // 3 + 1


def standing(scene, first, second):
    """How two things stand to each other: right, down (in halves of the picture), and in front where one covers the other."""
    covered = scene.relation in ("behind", "in front of")
    front = (1.0 if first is scene.things[-1] else -1.0) if covered else 0.0
    return (first.x - second.x) / 56, (first.y - second.y) / 56, front


def even(x):
    """Rows scaled to a mean square of one."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Facts(nn.Module):
    """What is learnt on the way and thrown away: where the thing that a word looks at is, by layer, and, from the marker
    behind a picture, how many things it shows. From states of length one: those of markers are large, and without that
    their gradients spoilt in a hundred steps what the model knew."""

    def __init__(self, width, layers):
        super().__init__()
        self.places = nn.ModuleDict({str(layer): nn.Linear(width, 2) for layer in layers_of(layers)})
        self.count, self.standing, self.middle = nn.Linear(width, 5), nn.Linear(width, 3), nn.Linear(width, 1)
        for head in (*self.places.values(), self.count, self.standing, self.middle):
            nn.init.zeros_(head.weight)

    def missed(self, watched, pointers, device):
        """(negative log of the attention that falls on the targets, error of places in halves of the picture).

        watched: {layer: [[B, heads, n, length], [B, n, width]]}; pointers: [(row, token, layer, target, place)].
        """
        looks, places = [], []
        for layer, (seen, hidden) in watched.items():
            here = [p for p in pointers if p[2] == layer]
            if not here:
                continue
            rows, tokens = (torch.tensor([p[i] for p in here], device=device) for i in (0, 1))
            targets = torch.stack([p[3] for p in here]).to(device)
            on = (seen[rows, :, tokens, : targets.shape[1]] * targets[:, None]).sum(-1)
            looks.append(-on.float().clamp_min(1e-6).log().mean())
            place = torch.tensor([p[4] for p in here], device=device)
            known = ~place[:, 0].isnan()
            guessed = self.places[str(layer)](even(hidden[rows[known], tokens[known]])).float()
            places.append((guessed - place[known]).abs().sum() / max(1, 2 * int(known.sum())))
        mean = lambda losses: sum(losses) / max(1, len(losses))
        return mean(looks), mean(places)

    def misplaced(self, hidden, middles):
        """hidden [B, tokens, width] of a picture's block, before the layer where questions look; middles [B, patches]."""
        said = self.middle(even(hidden[:, 1:-1]))[..., 0].float()
        # Two or three of 64 patches do: without a factor it would weigh little beside the other losses.
        return 10 * F.binary_cross_entropy_with_logits(said, torch.as_tensor(middles, device=said.device))

    @staticmethod
    def ungathered(seen, middles):
        """How far a picture's last marker is from looking at the middles of things and at the first marker, the same at
        each: the first one's share then says how many things there are. seen: the attention of the layer where
        questions look, [B, heads, n, length]; a divergence in nats."""
        patches = seen.shape[2]
        wanted = F.pad(torch.as_tensor(middles, device=seen.device), (1, 1))
        wanted[:, 0] = 1
        wanted = wanted / wanted.sum(1, keepdim=True)
        looks = seen[:, :, -1, -patches:].float().clamp_min(1e-6).log()
        return F.kl_div(looks, wanted[:, None].expand_as(looks), reduction="sum") / looks.shape[:2].numel()

    def miscounted(self, hidden, counts):
        """hidden [B, tokens, width] of a picture's block, after the layer where questions look."""
        return F.cross_entropy(self.count(even(hidden[:, -1])).float(), torch.tensor(counts, device=hidden.device))

    def confused(self, seen, hidden, pairs, device):
        """(as `missed`, error of how two things stand) of one layer; pairs: [(row, second's token, first's token, standing)],
        tokens of the text, which is behind the picture."""
        if not pairs:
            return 0.0, 0.0
        rows, second, first = (torch.tensor([p[i] for p in pairs], device=device) for i in range(3))
        on = seen[rows, :, second, seen.shape[-1] - seen.shape[-2] + first]
        said = self.standing(even(hidden[rows, second])).float()
        truth = torch.tensor([p[3] for p in pairs], device=device)
        return -on.float().clamp_min(1e-6).log().mean(), (said - truth).abs().mean()
