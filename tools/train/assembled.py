"""A model of two states: stage 3's understanding, and the drawing branch of a later stage over it."""

import dataclasses

import state
from model import Bagel
from sizes import SIZES
from tokens import VISION_END, VISION_START


def assembled(size, understanding, drawing=None):
    """The model; without a drawing state its drawing branch is as it was made."""
    own = {}
    for folder in filter(None, (understanding, drawing)):
        own |= state.facts_of(folder).get("sizes", {})
    net = Bagel(dataclasses.replace(SIZES[size], **own), [VISION_START, VISION_END])
    names = net.drawing_names()
    state.load_part(understanding, "net", net, {n for n, _ in net.named_parameters()} - names)
    if drawing:
        state.load_part(drawing, "net", net, names)
    return net
