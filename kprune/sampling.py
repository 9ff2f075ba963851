"""The sample: draw a budget of tokens from a task's training set, or from texts of one's own."""

from __future__ import annotations

import random
import reprlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.checks import LabelError, check_texts, number
from kprune.data.hub import classes_of, load_split
from kprune.data.tasks import SHORTEST, Task, get_task
from kprune.data.tokens import (
    Example,
    Label,
    apart,
    as_examples,
    check_tokenizer,
    tokenize,
    warn_of_cuts,
)
from kprune.engine.loading import OwnCodeError, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

    from kprune.outputs import Kind

LONGEST = 512  # tokens of a text of one's own, where the tokenizer allows more
MOST_TEXTS = 10**7  # of one's own
CHUNK = 512  # rows that are looked up at a time


@dataclass(frozen=True, repr=False)
class Sample:
    """Tokenised examples in the order they were drawn."""

    examples: list[Example]  # `input_ids`, and `token_type_ids` where the tokenizer makes them
    task: Task
    tokenizer: PreTrainedTokenizerBase = field(repr=False)  # what counted the tokens
    seed: int = 0  # of the draw
    # Of each example (a pair of first and last token for spans), where the data has them. K-prune
    # never looks at them; Kwon et al. need them.
    labels: list[Label] | None = field(default=None, repr=False)
    classes: tuple[str, ...] | None = field(default=None, repr=False)  # names of labels 0, 1, …
    unlabelled: str = field(default="", repr=False)  # why there are none, where some are wrong

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", get_task(self.task))

    def __repr__(self) -> str:
        return (
            f"Sample({self.tokens:,} tokens in {len(self.examples):,} sequences of "
            f"{self.task.name!r}, seed {self.seed})"
        )

    @property
    def tokens(self) -> int:
        """Tokens of the sample, special ones included, padding not."""
        return sum(len(example["input_ids"]) for example in self.examples)

    @property
    def length(self) -> float:
        """Tokens per sequence to count FLOPs at: the task's record, else the sample's mean."""
        return self.task.average_length or self.tokens / len(self.examples)


def sample(
    task: str | Task | Sequence[str] | Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    tokens: int = 100_000,
    seed: int = 0,
    data: str | Path | Dataset | None = None,
    sequences: int | None = None,
    longest: int | None = None,
) -> Sample:
    """Draw training sequences without replacement until the token budget is spent.

    The order is a seeded shuffle of the rows. Sequences are taken whole, up to the first that would
    exceed the budget, so the sample holds at most `tokens` tokens and misses it by less than one
    sequence. The texts of a pair are one sequence; of a task of kind "embedding" they are two.

    Args:
        task: a task, its name, or plain texts (or pairs of texts) of your own.
        tokenizer: the model's own; it counts the tokens.
        tokens: the budget, special tokens included, padding not.
        seed: of the shuffle.
        data: a Hub id, a local folder laid out like the Hub's, or a loaded training split.
        sequences: draw so many sequences in place of a budget of tokens, and with replacement, as
            the authors' code and Kwon et al.'s do: where each row of the data is one sequence, the
            same seed then gives their very sample.
        longest: tokens of a sequence at the most, where the task's `max_length` (of plain texts
            512) and the tokenizer allow more.

    Gives all of the data, with a warning, when there are fewer tokens than asked for.
    ValueError, naming the row, for what is no text.
    """
    tokens = number("tokens, the sample's size,", tokens, 1)
    seed = number("seed", seed, 0, 2**32 - 1)
    if sequences is not None:
        sequences = number("sequences, the number to draw,", sequences, 1)
    check_tokenizer(tokenizer)
    if isinstance(task, (str, Task)):
        task = get_task(task)
        rows = load_split(task, "train", data)
    else:
        task, rows = _own_texts(task, tokenizer)
    if len(rows) == 0:
        raise ValueError(f"The data of {task.name!r} is empty; there is nothing to sample.")
    if longest is not None:
        longest = number("longest, the tokens of a sequence,", longest, SHORTEST)
        task = replace(task, max_length=min(task.max_length, longest))
    labelled = task.kind not in ("", "embedding") and task.label in rows.column_names
    examples, labels, spent, full = [], [], 0, False
    if sequences:
        order = _with_replacement(len(rows), seed)
    else:
        order = iter(random.Random(seed).sample(range(len(rows)), len(rows)))
    trouble: list[str] = []
    for example, label in _in_order(task, tokenizer, rows, order, labelled, trouble):
        if not (size := len(example["input_ids"])):
            continue  # an empty text, where the tokenizer adds nothing
        full = len(examples) == sequences if sequences else spent + size > tokens
        if full:
            break
        examples.append(example)
        labels.append(label)
        spent += size
    if not examples:
        raise ValueError(f"A budget of {tokens} does not hold one sequence of {task.name!r}.")
    if not full and not sequences and spent < tokens:
        warnings.warn(
            f"The data of {task.name!r} holds {spent:,} tokens, fewer than the budget of "
            f"{tokens:,}; the sample is all of it.",
            stacklevel=2,
        )
    if longest is None or longest > task.max_length:  # else it is as asked for
        warn_of_cuts(task, tokenizer, map(len, (example["input_ids"] for example in examples)))
    labelled = labelled and not trouble
    classes, why = classes_of(rows, task) if labelled else None, " ".join(trouble)
    return Sample(examples, task, tokenizer, seed, labels if labelled else None, classes, why)


def fitted(task: Task, kind: Kind, model: str) -> Task:
    """The task, when it fits what a model predicts; one without a kind takes the model's."""
    if kind.name == "embedding" != task.kind and len(task.columns) > 1:
        raise ValueError(
            f"A {model} embeds each text by itself, and the sample of {task.name!r} joins pairs; "
            "take a task of kind 'embedding', such as 'sts', or a list of single texts."
        )
    if not task.kind:
        if kind.name == "span" and len(task.columns) != 2:
            raise ValueError(f"For a {model} a sample must hold pairs of question and context.")
        return replace(task, kind=kind.name, labels=kind.outputs, minibatch=kind.minibatch)
    if kind.name == "embedding":
        return task  # any text will do: its output has no labels
    if task.kind != kind.name or (task.kind != "span" and task.labels != kind.outputs):
        raise ValueError(
            f"The model, a {model}, is for {kind.name} with {kind.outputs} outputs, and the sample "
            f"of {task.name!r} for {task.kind} with {task.labels}; take a sample of the model's "
            "own task, or a list of texts."
        )
    return task


def find_tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer that travels with a model: its own attribute, or the one beside its weights."""
    if getattr(model, "tokenizer", None) is not None:
        return model.tokenizer
    try:
        if not model.name_or_path:  # which would be the current directory
            raise ValueError
        return load_tokenizer(model.name_or_path)
    except OwnCodeError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ValueError("No tokenizer found beside the model; pass tokenizer=.") from error


def _own_texts(
    texts: Sequence[str] | Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
) -> tuple[Task, Dataset]:
    """A task without a kind: what it is for, the pruned model will tell (`fitted`)."""
    from datasets import Dataset

    texts = own_texts(texts)
    columns = {"text": texts}
    if isinstance(texts[0], (tuple, list)):
        for row, pair in enumerate(texts):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(
                    f"Row {row} (from 0) of the texts is no pair of texts, as a sample needs when "
                    f"the first is one; got {reprlib.repr(pair)}."
                )
        columns = {"text": [a for a, _ in texts], "pair": [b for _, b in texts]}
    for name, column in columns.items():
        check_texts(f"the sample's {name}s", column, range(len(column)), words=False)
    if not any(text.strip() for column in columns.values() for text in column):
        raise ValueError("All texts of the sample are empty.")
    longest = min(tokenizer.model_max_length, LONGEST)
    task = Task("texts", tuple(columns), kind="", labels=0, max_length=longest)
    return task, Dataset.from_dict(columns)


def own_texts(texts: Iterable[str] | Iterable[tuple[str, str]]) -> list:
    """Texts, or pairs of them, in a list; ValueError for tables, nothing, and what is no list."""
    # Tables, and loaders, whose batches could be taken for pairs.
    table = any(hasattr(texts, name) for name in ("column_names", "columns", "batch_size"))
    if table or isinstance(texts, (Mapping, Set, str, bytes)) or not isinstance(texts, Iterable):
        kind = type(texts).__name__
        raise ValueError(
            f"Texts are a list of texts or of pairs of them, not a {kind}; pass its column of "
            "texts, or a Task."
        )
    if not (texts := list(islice(texts, MOST_TEXTS + 1))):
        raise ValueError("A sample needs a list of texts or of pairs of texts, and at least one.")
    if len(texts) > MOST_TEXTS:
        raise ValueError(
            f"There are more than {MOST_TEXTS:,} texts, or no end of them, and a sample is drawn "
            "from all; pass a part, such as itertools.islice takes."
        )
    return texts


def _in_order(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    order: Iterator,
    labelled: bool,
    trouble: list[str],
) -> Iterator[tuple[Example, Label | None]]:
    """Sequences and labels; what is wrong with a label is noted, and asked by who reads labels."""
    if task.kind == "embedding" and len(task.columns) > 1:
        while numbers := list(islice(order, CHUNK)):
            texts = apart(task, tokenizer, rows[numbers], numbers)
            yield from ((text, None) for pair in zip(*texts, strict=True) for text in pair)
        return
    while numbers := list(islice(order, CHUNK)):
        chunk = rows[numbers]
        try:
            found = tokenize(task, tokenizer, chunk, labelled and not trouble, numbers)
        except LabelError as error:
            trouble.append(str(error))
            found = tokenize(task, tokenizer, chunk, False, numbers)
        examples = as_examples(found)
        if not labelled or trouble:
            labels = [None] * len(examples)
        elif task.kind == "span":
            labels = zip(found["start_positions"], found["end_positions"], strict=True)
        else:
            labels = found["labels"]
        yield from zip(examples, labels, strict=True)


def _with_replacement(rows: int, seed: int) -> Iterator[int]:
    """What np.random.choice draws after np.random.seed, without end."""
    generator = np.random.RandomState(seed)
    while True:
        yield from generator.randint(rows, size=CHUNK).tolist()
