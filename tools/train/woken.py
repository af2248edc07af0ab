"""Gives work to experts that no token takes: they become copies of those that every token takes, and their routers part
the tokens between the two, so that the model computes nearly what it did and can learn with all of them (sparse
upcycling, Komatsuzaki and others, 2022). For a state of four experts, two active, whose routers have collapsed.

python woken.py UNDERSTANDING TOKENIZER STATE OUT [SIZE]
"""

import sys

import torch

import drawing
import state
from assembled import assembled
from model import Experts
from tokens import Words, made
from train_drawing import exam

SPREAD = 0.1  # of a router's logits over tokens: a slice counts 1 + its logit


def entering(net, words, steps, shift):
    """{network of experts: what enters it in drawings, [tokens, hidden]}"""
    seen, prompts = {}, exam()
    for part in filter(lambda part: isinstance(part, Experts), net.modules()):
        part.register_forward_hook(lambda part, given, _: seen.setdefault(part, []).append(given[0].flatten(0, 1)))
    context = drawing.prompted(net, words, prompts)
    drawing.follow(net, [context], len(prompts), 0, steps=steps, scale=1.0, shift=shift)
    return {part: torch.cat(rows) for part, rows in seen.items()}


def wake(part, x):
    """Couples the most with the third and the second with the fourth by use; each couple shares the tokens at the median of
    one of their two main directions."""
    logits = part.gate(x)
    used = logits.topk(part.active, -1)[1].flatten().bincount(minlength=len(part.experts))
    order, mean = used.argsort(descending=True).tolist(), x.mean(0)
    some = (x - mean)[torch.randperm(len(x))[:4000]]
    main = torch.linalg.svd(some, full_matrices=False)[2]
    for taken, idle, direction in zip(order[:2], order[2:], main):
        row = direction * (SPREAD / (x @ direction).std())
        # A router has no bias: the mean of what enters stands for it.
        row = row - (x @ row).median() * mean / mean.dot(mean)
        part.experts[idle].load_state_dict(part.experts[taken].state_dict())
        for expert in (taken, idle):
            part.experts[expert].down_proj.weight *= 1 + logits[:, taken].mean()
        part.gate.weight[taken], part.gate.weight[idle] = row, -row
    return [round(share, 2) for share in (used / len(x)).tolist()]


@torch.no_grad()
def main(understanding, tokenizer, before, out, size="tiny"):
    torch.manual_seed(0)
    facts = state.facts_of(before)
    if (facts["sizes"]["experts"], facts["sizes"]["active"]) != (4, 2):
        raise SystemExit(f"{before}: four experts, two of them active, are asked for")
    net = assembled(size, understanding, before)
    words = Words(made(tokenizer, net.c.vocabulary))
    for part, x in entering(net, words, facts["steps"], facts["shift"]).items():
        print("shares of tokens before:", *wake(part, x))
    names = net.drawing_names()
    state.begin(out, {f"net/{n}": p.clone() for n, p in net.named_parameters() if n in names}, facts["sizes"])


if __name__ == "__main__":
    main(*sys.argv[1:])
