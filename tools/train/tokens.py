"""The tokenizer: byte-level BPE over what is said of scenes."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import grounding
import talk
from edits import changed
from world import RELATIONS, Variants, related, scattered

IM_START, IM_END, VISION_START, VISION_END = range(4)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]


def made(path, vocabulary):
    """Loads the tokenizer, or trains and writes it."""
    if Path(path).exists():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts(), trainer)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def texts():
    rng, variants = np.random.default_rng(0), Variants(0, 12)
    scenes = [scattered(rng, variants, int(rng.integers(0, 5))) for _ in range(1500)]
    scenes += [related(rng, variants, RELATIONS[i % len(RELATIONS)]) for i in range(1500)]
    yield from talk.corpus(rng, scenes)
    for scene in scenes:
        if change := changed(rng, variants, scene):
            yield "what changed?"
            yield from change[1:] if change[1] else change[2:]


class Words:
    """Texts to ids with a memory, since few texts are said often."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known, self.named = tokenizer, {}, {}

    def block(self, text):
        """<|im_start|> text <|im_end|>"""
        if text not in self.known:
            self.known[text] = [IM_START] + self.tokenizer.encode(text).ids + [IM_END]
        return self.known[text]

    def names(self, text):
        """[(first token, last token, kind)] of the names in a block of this text."""
        if text not in self.named:
            found = grounding.named(self.tokenizer, text)
            self.named[text] = [(first + 1, last + 1, kind) for first, last, kind in found]
        return self.named[text]

    def text(self, ids):
        return self.tokenizer.decode(ids)
