"""The sample: tokenise a task's training set, draw a budget of tokens, batch them by length."""

import math
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kprune.tasks import Task, get_task, load_split

Example = dict[str, list[int]]
Label = int | float | tuple[int, int]
INPUTS = ("input_ids", "token_type_ids")
# Tokens per batch: enough to keep the device busy, few enough that activations stay small; of many
# divisors, see `_rounded`.
BATCH_TOKENS = {"cpu": 480, "cuda": 15360}


@dataclass(frozen=True, repr=False)
class Sample:
    """Tokenised examples in the order they were drawn.

    Attributes:
        examples: `input_ids` (and `token_type_ids` where the tokenizer makes them) of each.
        task: the task they come from.
        tokenizer: what counted the tokens.
        seed: the seed of the draw.
        labels: label of each (a pair of first and last token for spans), where the data has them.
            K-prune never looks at them; Kwon et al. need them.
    """

    examples: list[Example]
    task: Task
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    seed: int = 0
    labels: list[Label] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return (
            f"Sample({self.tokens:,} tokens in {len(self.examples):,} sequences of "
            f"{self.task.name!r}, seed {self.seed})"
        )

    @property
    def tokens(self) -> int:
        """Number of tokens, special tokens included, padding not."""
        return sum(len(example["input_ids"]) for example in self.examples)

    @property
    def length(self) -> float:
        """Tokens per sequence to count FLOPs at: the task's record, else the sample's mean."""
        return self.task.average_length or self.tokens / len(self.examples)


@dataclass(frozen=True)
class Batch:
    """Examples padded to the longest of them.

    Attributes:
        index: their places in the sample, int64 [batch].
        inputs: `input_ids` (and `token_type_ids`), int64 [batch, length].
        mask: True at real tokens, bool [batch, length]; None where nothing is padded.
        tokens: number of real tokens.
    """

    index: Tensor
    inputs: dict[str, Tensor]
    mask: Tensor | None
    tokens: int

    @property
    def attention_mask(self) -> Tensor:
        """The mask as Hugging Face models take it: int64 [batch, length]."""
        ids = self.inputs["input_ids"]
        return torch.ones_like(ids) if self.mask is None else self.mask.long()

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        inputs = {name: ids.to(device) for name, ids in self.inputs.items()}
        mask = None if self.mask is None else self.mask.to(device)
        return Batch(self.index.to(device), inputs, mask, self.tokens)


def tokenize(
    task: str | Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset | dict[str, Sequence],
    labels: bool = False,
) -> dict[str, list]:
    """Tokenise rows of a task; a span task's long contexts become overlapping windows.

    Args:
        task: a task or its name.
        tokenizer: the model's own.
        rows: columns of the data set, as `Dataset.map(batched=True)` hands them over.
        labels: also give each sequence's label, as the models' losses take them.

    Returns:
        The tokenizer's columns, one entry per sequence. For span tasks also `row` (the row of each
        window) and `offset_mapping` (start and end characters of each token in the context; None
        outside it). With labels, `labels`; for spans `start_positions` and `end_positions`, the
        answer's first and last token, or twice the first token ([CLS]) where the window does not
        hold it.
    """
    task = get_task(task)
    if task.kind != "span":
        texts = [list(rows[column]) for column in task.columns]
        found = dict(tokenizer(*texts, truncation=True, max_length=task.max_length))
        return {**found, "labels": list(rows[task.label])} if labels else found
    question, context = (list(rows[column]) for column in task.columns)
    found = tokenizer(
        [text.strip() for text in question],
        context,
        truncation="only_second",
        max_length=task.max_length,
        stride=task.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found["row"] = found.pop("overflow_to_sample_mapping")
    found["offset_mapping"] = [
        [
            span if part == 1 else None
            for span, part in zip(spans, found.sequence_ids(i), strict=True)
        ]
        for i, spans in enumerate(found["offset_mapping"])
    ]
    if labels:
        answers = rows[task.label]
        places = [
            _answer_tokens(answers[row], offsets)
            for row, offsets in zip(found["row"], found["offset_mapping"], strict=True)
        ]
        found["start_positions"], found["end_positions"] = map(list, zip(*places, strict=True))
    return dict(found)


def _answer_tokens(answers: dict, offsets: list[tuple[int, int] | None]) -> tuple[int, int]:
    if not answers["text"]:
        return 0, 0
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    inside = [i for i, span in enumerate(offsets) if span and span[0] < end and span[1] > start]
    # A window that cuts the answer short does not hold it.
    if not inside or offsets[inside[0]][0] > start or offsets[inside[-1]][1] < end:
        return 0, 0
    return inside[0], inside[-1]


def sample(
    task: str | Task | Sequence[str] | Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    tokens: int = 100_000,
    seed: int = 0,
    data: str | Path | Dataset | None = None,
    sequences: int | None = None,
) -> Sample:
    """Draw training sequences without replacement until the token budget is spent.

    The order is a seeded shuffle of the rows. Sequences are taken whole, up to the first that would
    exceed the budget, so the sample holds at most `tokens` tokens and misses it by less than one
    sequence.

    Args:
        task: a task, its name, or plain texts (or pairs of texts) of your own; of those, `prune`
            takes the kind of prediction from the model's head.
        tokenizer: the model's own; it counts the tokens.
        tokens: the budget, special tokens included, padding not.
        seed: of the shuffle.
        data: a Hub id, a local folder laid out like the Hub's, or a loaded training split.
        sequences: draw so many sequences in place of a budget of tokens, and with replacement, as
            the authors' code and Kwon et al.'s do: where each row of the data is one sequence, the
            same seed then gives their very sample.

    Returns:
        The sample; all of the data, with a warning, when there are fewer tokens than asked for.

    Raises:
        ValueError: when the budget is not positive, or holds not even one sequence.
    """
    if sequences is not None and sequences <= 0:
        raise ValueError(f"The sample needs a positive number of sequences; got {sequences}.")
    if tokens <= 0:
        raise ValueError(f"The sample needs a positive number of tokens; got {tokens}.")
    if isinstance(task, (str, Task)):
        task = get_task(task)
        rows = load_split(task, "train", data)
    else:
        task, rows = _own_texts(task, tokenizer)
    if len(rows) == 0:
        raise ValueError(
            f"The training data of {task.name!r} is empty; there is nothing to sample."
        )
    labelled = task.label in rows.column_names
    examples, labels, spent, full = [], [], 0, False
    order = (_with_replacement if sequences else _shuffled)(len(rows), seed)
    for example, label in _in_order(task, tokenizer, rows, order, labelled):
        full = len(examples) == sequences or (
            not sequences and spent + len(example["input_ids"]) > tokens
        )
        if full:
            break
        examples.append(example)
        labels.append(label)
        spent += len(example["input_ids"])
    if not examples:
        raise ValueError(
            f"A budget of {tokens} tokens does not hold one sequence of {task.name!r}."
        )
    if not full and not sequences and spent < tokens:
        warnings.warn(
            f"The data of {task.name!r} holds {spent:,} tokens, fewer than the budget of "
            f"{tokens:,}; the sample is all of it.",
            stacklevel=2,
        )
    return Sample(examples, task, tokenizer, seed, labels if labelled else None)


def _own_texts(
    texts: Sequence[str] | Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
) -> tuple[Task, Dataset]:
    if hasattr(texts, "column_names") or hasattr(texts, "columns"):
        raise ValueError(
            f"A sample of your own is a list of texts or of pairs of texts, not a "
            f"{type(texts).__name__}; pass its column of texts, or a kprune.Task with data=."
        )
    texts = list(texts) if isinstance(texts, Iterable) else []
    if texts and all(isinstance(text, str) for text in texts):
        columns = {"text": texts}
    elif texts and all(_is_pair(text) for text in texts):
        columns = {"text": [a for a, _ in texts], "pair": [b for _, b in texts]}
    else:
        raise ValueError(
            "A sample of your own needs a list of texts or of pairs of texts, and at least one."
        )
    if not any(text.strip() for column in columns.values() for text in column):
        raise ValueError("All texts of the sample are empty.")
    length = min(tokenizer.model_max_length, 512)
    return Task("texts", tuple(columns), kind=None, max_length=length), Dataset.from_dict(columns)


def _is_pair(texts: object) -> bool:
    right = isinstance(texts, (tuple, list)) and len(texts) == 2
    return right and all(isinstance(text, str) for text in texts)


def _in_order(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    order: Iterator[int],
    labelled: bool,
    chunk: int = 512,
) -> Iterator[tuple[Example, Label | None]]:
    while numbers := list(islice(order, chunk)):
        found = tokenize(task, tokenizer, rows[numbers], labelled)
        examples = as_examples(found)
        if not labelled:
            labels = [None] * len(examples)
        elif task.kind == "span":
            labels = zip(found["start_positions"], found["end_positions"], strict=True)
        else:
            labels = found["labels"]
        yield from zip(examples, labels, strict=True)


def _shuffled(rows: int, seed: int) -> Iterator[int]:
    yield from random.Random(seed).sample(range(rows), rows)


def _with_replacement(rows: int, seed: int) -> Iterator[int]:
    """What np.random.choice draws after np.random.seed, without end."""
    generator = np.random.RandomState(seed)
    while True:
        yield from generator.randint(rows, size=512).tolist()


def as_examples(columns: dict[str, list]) -> list[Example]:
    """The model's inputs of each sequence, out of the tokenizer's columns."""
    names = [name for name in INPUTS if name in columns]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in rows]


def batches(
    examples: Sequence[Example], pad: int = 0, max_tokens: int = 1920, by_length: bool = True
) -> list[Batch]:
    """Group examples of like length into batches of at most `max_tokens` tokens, padding included.

    Args:
        examples: tokenised sequences.
        pad: id of the padding token.
        max_tokens: size of a batch; a longer sequence makes a batch of its own.
        by_length: False keeps the given order.

    Returns:
        Batches that hold every example once.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    most = max(lengths, default=0)
    # Longest first: what does not fit fails at once, and memory freed by one batch fits the next.
    order = range(len(examples))
    if by_length:
        order = sorted(order, key=lambda i: -lengths[i])
    groups, widths = [], []
    for i in order:
        width = min(_rounded(lengths[i], max_tokens), most)
        if groups:
            both = max(widths[-1], width)
            if (len(groups[-1]) + 1) * both <= max_tokens:
                groups[-1].append(i)
                widths[-1] = both
                continue
        groups.append([i])
        widths.append(width)
    return [
        collate([examples[i] for i in group], pad, group, width)
        for group, width in zip(groups, widths, strict=True)
    ]


def on_device(sample: Sample, device: torch.device) -> list[Batch]:
    """A sample's batches, moved to a device and of a size that suits it.

    Args:
        sample: the sample.
        device: where to.
    """
    size = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    parts = batches(sample.examples, sample.tokenizer.pad_token_id, size)
    return [part.to(device) for part in parts]


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
    examples: Sequence[Example],
    pad: int = 0,
    index: Iterable[int] | None = None,
    width: int = 0,
) -> Batch:
    """Pad examples to the longest of them, or to `width`; `index` defaults to their own numbers."""
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    longest = max(int(lengths.max()), width)
    inputs = {
        name: torch.tensor(
            [
                example[name] + [pad if name == "input_ids" else 0] * (longest - len(example[name]))
                for example in examples
            ]
        )
        for name in INPUTS
        if name in examples[0]
    }
    mask = torch.arange(longest) < lengths[:, None]
    index = torch.tensor(list(range(len(examples)) if index is None else index))
    return Batch(index, inputs, None if mask.all() else mask, int(lengths.sum()))
