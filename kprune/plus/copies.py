"""Small samples are filled up with noised copies of their texts, for K-prune+."""

import random
from dataclasses import dataclass

from kprune.data.tokens import Example
from kprune.sampling import Sample

LEAST = 20_000  # tokens up to which copies are made, one of each sequence at the most
NOISE = 0.15  # of the tokens of a copy are others


@dataclass(frozen=True)
class Copies:
    """Copies of a small sample's sequences, with some tokens replaced by others of the sample.

    Where texts are few, scores and tuning fit what is chance in them. What the teacher makes of the
    copies is as good to learn from, and they need no labels.
    """

    seed: int = 0  # of what is replaced, and by what

    def __call__(self, sample: Sample) -> list[Example]:
        """Copies of the first sequences, in their order, as many as make up `LEAST` tokens.

        `NOISE` of a copy's tokens, special ones apart, are drawn from all of the sample.
        """
        draw = random.Random(self.seed)
        special = {*getattr(sample.tokenizer, "all_special_ids", ()), sample.tokenizer.pad_token_id}
        own = [token for example in sample.examples for token in example["input_ids"]]
        pool = [token for token in own if token not in special]
        found, room = [], LEAST - len(own)
        for example in sample.examples if pool else ():
            if (room := room - len(example["input_ids"])) < 0:
                break
            noised = [
                draw.choice(pool) if token not in special and draw.random() < NOISE else token
                for token in example["input_ids"]
            ]
            found.append(example | {"input_ids": noised})
        return found
