"""Where words should look: a loss on a few attention heads, in training only.

The last token of a thing's name in a question looks at the thing's patches, or at the marker before the picture where
there is no such thing; the token before a name in an answer looks at the patches of what it is about to name. Answers
alone teach this late: after 40,000 scenes "is there a cat?" was still answered by chance.
"""

import re

import torch

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


def missed(weights, pointers, device):
    """Negative log of the attention that falls on the targets.

    weights: {layer: [[B, heads, n, length]]}; pointers: [(row, token, layer, places)].
    """
    losses = []
    for layer, (seen,) in weights.items():
        here = [p for p in pointers if p[2] == layer]
        if here:
            rows, tokens = (torch.tensor([p[i] for p in here], device=device) for i in (0, 1))
            places = torch.stack([p[3] for p in here]).to(device)
            on = (seen[rows, :, tokens, : places.shape[1]] * places[:, None]).sum(-1)
            losses.append(-on.float().clamp_min(1e-6).log().mean())
    return sum(losses) / max(1, len(losses))
