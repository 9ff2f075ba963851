"""Sequences of like length in padded batches of a size that suits the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kprune.data.tokens import Example

if TYPE_CHECKING:
    from kprune.sampling import Sample

# Tokens per batch: enough to keep the device busy, few enough that activations stay small; of many
# divisors, see `_rounded`.
BATCH_TOKENS = {"cpu": 480, "other": 15_360}


@dataclass(frozen=True)
class Batch:
    """Examples padded to the longest of them."""

    index: Tensor  # their places in the sample, int64 [batch]
    inputs: dict[str, Tensor]  # input_ids (and token_type_ids), int64 [batch, length]
    mask: Tensor | None  # True at real tokens, bool [batch, length]; None where nothing is padded
    tokens: int  # number of real ones

    @property
    def attention_mask(self) -> Tensor:
        """The mask as Hugging Face models take it: int64 [batch, length]."""
        ids = self.inputs["input_ids"]
        return torch.ones_like(ids) if self.mask is None else self.mask.long()

    def first_tokens(self) -> Batch:
        """The first token of each example."""
        inputs = {name: ids[:, :1] for name, ids in self.inputs.items()}
        return Batch(self.index, inputs, None, len(self.index))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        inputs = {name: ids.to(device) for name, ids in self.inputs.items()}
        mask = None if self.mask is None else self.mask.to(device)
        return Batch(self.index.to(device), inputs, mask, self.tokens)


def batch_tokens(device: torch.device) -> int:
    """Tokens per batch, padding included, that keep a device busy."""
    return BATCH_TOKENS["cpu" if device.type == "cpu" else "other"]


def batches(
    examples: Sequence[Example],
    pad: int = 0,
    max_tokens: int = 1920,
    by_length: bool = True,
    alike: bool = False,
) -> list[Batch]:
    """Group examples of like length into batches of at most `max_tokens` tokens, padding included.

    A longer sequence makes a batch of its own; `pad` is the padding token's id. Without `by_length`
    the given order is kept. `alike` starts a new batch, too, where the length, rounded up to a
    multiple of 4 (of 8 above 64), changes: large batches would else be a fifth padding.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    most = max(lengths, default=0)
    # Longest first: what does not fit fails at once, and memory freed by one batch fits the next.
    groups, widths = [], []
    for i in sorted(range(len(examples)), key=lambda i: -lengths[i] if by_length else 0):
        width = min(_stepped(lengths[i]) if alike else _rounded(lengths[i], max_tokens), most)
        both = max(widths[-1], width) if groups else width
        full = not groups or (len(groups[-1]) + 1) * both > max_tokens
        if full or (alike and width != widths[-1]):
            groups.append([i])
            widths.append(width)
        else:
            groups[-1].append(i)
            widths[-1] = both
    return [
        collate([examples[i] for i in group], pad, group, width)
        for group, width in zip(groups, widths, strict=True)
    ]


def suited(examples: Sequence[Example], pad: int, device: torch.device) -> list[Batch]:
    """Batches, still on the CPU, whose size and padding suit a device."""
    return batches(examples, pad, batch_tokens(device), alike=device.type != "cpu")


def on_device(sample: Sample, device: torch.device) -> list[Batch]:
    """A sample's batches, moved to a device and of a size that suits it."""
    pad = sample.tokenizer.pad_token_id
    return [batch.to(device) for batch in suited(sample.examples, pad, device)]


def _stepped(length: int) -> int:
    step = 4 if length <= 64 else 8
    return -(-length // step) * step


def _rounded(length: int, max_tokens: int) -> int:
    """Up to the next divisor of a batch's size; where that is far, to one of four per octave.

    Nearly all batches then hold the same number of tokens, to the last one, and kernels, which are
    prepared for each shape that occurs and kept, are few.
    """
    divisors = (n for n in range(length, max_tokens + 1) if max_tokens % n == 0)
    divisor = next(divisors, math.inf)
    step = max(1, 2 ** (length.bit_length() - 3))
    return divisor if divisor <= 1.25 * length else -(-length // step) * step


def collate(
    examples: Sequence[Example], pad: int = 0, index: Iterable[int] | None = None, width: int = 0
) -> Batch:
    """Pad examples to the longest of them, or to `width`; `index` defaults to their own numbers."""
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    longest = max(int(lengths.max()), width)
    inputs = {}
    for name, filler in (("input_ids", pad), ("token_type_ids", 0)):
        if name in examples[0]:
            rows = [row[name] + [filler] * (longest - len(row[name])) for row in examples]
            inputs[name] = torch.tensor(rows)
    mask = torch.arange(longest) < lengths[:, None]
    index = torch.tensor([*(range(len(examples)) if index is None else index)])
    return Batch(index, inputs, None if mask.all() else mask, int(lengths.sum()))
