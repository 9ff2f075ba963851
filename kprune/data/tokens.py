"""Texts into tokens, and answers and labels into places among them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from kprune.data.checks import UNLABELLED, as_numbers, check_labels, check_texts, number
from kprune.data.tasks import SHORTEST, TASKS, Task, get_task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Example = dict[str, list[int]]
Label = int | float | list[int] | tuple[int, int]
INPUTS = ("input_ids", "token_type_ids")
QUESTION = 64  # tokens of a question at the most, as in BERT's script for SQuAD


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, task: Task | None = None) -> None:
    """Raise ValueError for what is no tokenizer, or none that a batch (of a task) can be made by.

    transformers makes a vocabulary of special tokens, and nothing else, where a model's folder has
    no tokenizer's files: every word would be unknown.
    """
    if not hasattr(tokenizer, "pad_token_id"):
        kind = type(tokenizer).__name__
        raise ValueError(
            f"A tokenizer is needed, such as AutoTokenizer.from_pretrained(…) gives; got a {kind}."
        )
    if tokenizer.pad_token_id is None:
        raise ValueError("The tokenizer has no padding token; set its pad_token.")
    if hasattr(tokenizer, "model_max_length"):
        number("The tokenizer's model_max_length, in tokens,", tokenizer.model_max_length, SHORTEST)
    if hasattr(tokenizer, "all_special_ids") and len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(
            "The tokenizer knows no words, only special tokens; its files are missing from where "
            "it was loaded from."
        )
    if task and task.kind in ("span", "tokens") and not getattr(tokenizer, "is_fast", True):
        raise ValueError(f"The task {task.name!r} needs a fast tokenizer, which knows places.")


def check_same_words(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> None:
    """Raise ValueError for two tokenizers that give words other numbers."""
    words = [tokenizer.get_vocab() for tokenizer in (one, other) if hasattr(tokenizer, "get_vocab")]
    if len(words) == 2 and words[0] != words[1]:
        raise ValueError(
            "The sample was drawn with a tokenizer that numbers words otherwise than the one "
            "passed; draw it with the model's own."
        )


def tokenize(
    task: str | Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset | dict[str, Sequence],
    labels: bool = False,
    numbers: Sequence[int] | None = None,
) -> dict[str, list]:
    """Tokenise rows of a task, as `Dataset.map(batched=True)` hands them over.

    A span task's questions are cut at `QUESTION` tokens, and its long contexts become overlapping
    windows; lists of words in place of texts are tokenised word by word. ValueError, naming the row
    (by `numbers`, else by its place), for what is no text, or no label that is asked for.

    Gives the tokenizer's columns, one entry per sequence; for span tasks also `row` (the row of
    each window) and `offset_mapping` (start and end characters of each token in the context; None
    outside it). With labels, as the models' losses take them, `labels` (of tokens: a word's label
    at its first token, elsewhere `UNLABELLED`); for spans `start_positions` and `end_positions`,
    the answer's first and last token, or twice the first token ([CLS]) where the window does not
    hold it.
    """
    task = get_task(task)
    check_tokenizer(tokenizer, task)
    texts = [list(rows[column]) for column in task.columns]
    numbers = range(len(texts[0])) if numbers is None else numbers
    words = task.kind == "tokens" or (bool(texts[0]) and isinstance(texts[0][0], list))
    if words and runs_together(tokenizer):
        raise ValueError(
            f"The {type(tokenizer).__name__} would run the words of a row together; load it with "
            "add_prefix_space=True."
        )
    for column, side in zip(task.columns, texts, strict=True):
        check_texts(f"{column!r} of {task.name!r}", side, numbers, words)
    given = list(rows[task.label]) if labels else []
    if labels and task.kind == "tokens" and len(texts) > 1:
        raise ValueError(f"Labels of words are of one column; {task.name!r} has two.")
    if labels:
        check_labels(task, given, numbers, texts[-1])
    longest = min(task.max_length, tokenizer.model_max_length)
    with _cuts_kept(tokenizer):
        if task.kind == "span":
            return _windows(task, tokenizer, *texts, given)
        found = tokenizer(*texts, truncation=True, max_length=longest, is_split_into_words=words)
    if not labels:
        return dict(found)
    given = as_numbers(task, given)
    if task.kind == "tokens":
        given = [_at_first_tokens(row, found.word_ids(i)) for i, row in enumerate(given)]
    return {**found, "labels": given}


@contextmanager
def _cuts_kept(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Leave a tokenizer's own cut and padding as they were: a call sets them, and they are saved
    with it, for every other program that reads its tokenizer.json.
    """
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(inner, "no_truncation"):  # not a fast one
        yield
        return
    cut, padding = inner.truncation, inner.padding
    try:
        yield
    finally:
        inner.enable_truncation(**cut) if cut else inner.no_truncation()
        inner.enable_padding(**padding) if padding else inner.no_padding()


def runs_together(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a list of words is read as one, as a tokenizer does that has words begin by a blank
    unless it is told to put one there (RoBERTa's).
    """
    return (
        tokenizer(["a", "a"], is_split_into_words=True)["input_ids"]
        != tokenizer("a a")["input_ids"]
    )


def _at_first_tokens(labels: Sequence[int], words: Sequence[int | None]) -> list[int]:
    return [
        UNLABELLED if word is None or word == before else labels[word]
        for before, word in zip([None, *words], words, strict=False)
    ]


def _windows(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[str],
    contexts: list[str],
    answers: list[dict],
) -> dict[str, list]:
    longest = min(task.max_length, tokenizer.model_max_length)
    room = longest - tokenizer.num_special_tokens_to_add(pair=True)
    most = min(QUESTION, room // 2)
    found = tokenizer(
        _cut([text.strip() for text in questions], most, tokenizer),
        contexts,
        truncation="only_second",
        max_length=longest,
        stride=min(task.stride, room - most - 1),  # windows must move on
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found["row"] = found.pop("overflow_to_sample_mapping")
    for i, spans in enumerate(found["offset_mapping"]):
        parts = zip(spans, found.sequence_ids(i), strict=True)
        found["offset_mapping"][i] = [span if part == 1 else None for span, part in parts]
    if answers:
        places = [
            _answer_tokens(answers[row], offsets)
            for row, offsets in zip(found["row"], found["offset_mapping"], strict=True)
        ]
        found["start_positions"], found["end_positions"] = map(list, zip(*places, strict=True))
    return dict(found)


def _cut(texts: list[str], most: int, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts, each up to the end of its last token where it has more than `most`."""
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        text if len(spans) <= most else text[: spans[most - 1][1]]
        for text, spans in zip(texts, found["offset_mapping"], strict=True)
    ]


def _answer_tokens(answers: dict, offsets: list[tuple[int, int] | None]) -> tuple[int, int]:
    if not answers["text"]:
        return 0, 0
    text, start = answers["text"][0], answers["answer_start"][0]
    start += len(text) - len(text.lstrip())  # no token holds a blank
    end = start + len(text.strip())
    inside = [i for i, span in enumerate(offsets) if span and span[0] < end and span[1] > start]
    # A window that cuts the answer short does not hold it.
    if not inside or offsets[inside[0]][0] > start or offsets[inside[-1]][1] < end:
        return 0, 0
    return inside[0], inside[-1]


def apart(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset | dict[str, Sequence],
    numbers: Sequence[int] | None = None,
) -> list[list[Example]]:
    """The texts of each column by themselves, as models without a head embed them."""
    sides = [replace(task, columns=(column,)) for column in task.columns]
    return [as_examples(tokenize(side, tokenizer, rows, numbers=numbers)) for side in sides]


def warn_of_cuts(task: Task, tokenizer: PreTrainedTokenizerBase, lengths: Iterable[int]) -> None:
    """Warn where sequences of one's own task are as long as it allows, and the tokenizer more."""
    most, lengths = task.max_length, [*lengths]
    if task.kind == "span" or task.name in TASKS or most >= tokenizer.model_max_length:
        return  # windows lose nothing, and the lengths of known tasks are the usual ones
    if full := sum(length >= most for length in lengths):
        warnings.warn(
            f"{full:,} of {len(lengths):,} sequences of {task.name!r} fill its max_length of "
            f"{most:,} tokens, and what goes beyond is cut off; the tokenizer would take more, as "
            "would a Task of your own with another max_length.",
            stacklevel=3,
        )


def as_examples(columns: dict[str, list]) -> list[Example]:
    """The model's inputs of each sequence, out of the tokenizer's columns."""
    names = [name for name in INPUTS if name in columns]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in rows]
