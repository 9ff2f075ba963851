"""Texts into tokens, and answers and labels into places among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kprune.data.tasks import Task, get_task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Example = dict[str, list[int]]
Label = int | float | list[int] | tuple[int, int]
INPUTS = ("input_ids", "token_type_ids")
UNLABELLED = -100  # what the models' losses skip


def tokenize(
    task: str | Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset | dict[str, Sequence],
    labels: bool = False,
) -> dict[str, list]:
    """Tokenise rows of a task, as `Dataset.map(batched=True)` hands them over.

    A span task's long contexts become overlapping windows; lists of words in place of texts are
    tokenised word by word.

    Gives the tokenizer's columns, one entry per sequence; for span tasks also `row` (the row of
    each window) and `offset_mapping` (start and end characters of each token in the context; None
    outside it). With labels, as the models' losses take them, `labels` (of tokens: a word's label
    at its first token, elsewhere `UNLABELLED`); for spans `start_positions` and `end_positions`,
    the answer's first and last token, or twice the first token ([CLS]) where the window does not
    hold it.
    """
    task = get_task(task)
    if task.kind == "span":
        return _windows(task, tokenizer, rows, labels)
    texts = [list(rows[column]) for column in task.columns]
    words = bool(texts[0]) and not isinstance(texts[0][0], str)
    found = tokenizer(
        *texts, truncation=True, max_length=task.max_length, is_split_into_words=words
    )
    if not labels:
        return dict(found)
    given = list(rows[task.label])
    if task.kind == "tokens":
        given = [_at_first_tokens(row, found.word_ids(i)) for i, row in enumerate(given)]
    elif task.kind == "multilabel":
        given = [[float(label) for label in row] for row in given]
    return {**found, "labels": given}


def _at_first_tokens(labels: Sequence[int], words: Sequence[int | None]) -> list[int]:
    return [
        UNLABELLED if word is None or word == before else labels[word]
        for before, word in zip([None, *words], words, strict=False)
    ]


def _windows(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset | dict[str, Sequence],
    labels: bool,
) -> dict[str, list]:
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
    for i, spans in enumerate(found["offset_mapping"]):
        parts = zip(spans, found.sequence_ids(i), strict=True)
        found["offset_mapping"][i] = [span if part == 1 else None for span, part in parts]
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


def as_examples(columns: dict[str, list]) -> list[Example]:
    """The model's inputs of each sequence, out of the tokenizer's columns."""
    names = [name for name in INPUTS if name in columns]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in rows]
