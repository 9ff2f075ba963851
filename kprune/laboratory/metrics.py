"""Scores of answers and of entities, as their benchmarks count them."""

from __future__ import annotations

import math
import re
import statistics
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from seqeval.metrics import f1_score
from torch import Tensor

from kprune.data.checks import UNLABELLED

if TYPE_CHECKING:
    from kprune.laboratory.evaluation import DevSet


def of_entities(names: Iterable[str]) -> bool:
    """Whether labels are of entities: "O", and types with "B-", "I-" and the like before them."""
    names = {*names} - {"O"}
    return bool(names) and all(re.match("[BIES]-.", name) for name in names)


def token_scores(
    predicted: Sequence[Sequence[int]], golds: Sequence[Sequence[int]], names: dict[int, str]
) -> dict[str, float]:
    """Accuracy over labelled tokens and, where labels are of entities, `f1` of whole ones.

    Takes the predicted labels of each sequence, the right ones (`UNLABELLED` where there is none),
    and their names.
    """
    pairs = [
        [(names[mine], names[gold]) for mine, gold in zip(*row, strict=True) if gold != UNLABELLED]
        for row in zip(predicted, golds, strict=True)
    ]
    if not any(pairs):
        raise ValueError("No token of the dev set is labelled; take a split with labels.")
    scores = {"accuracy": statistics.fmean(mine == gold for row in pairs for mine, gold in row)}
    if of_entities(names.values()):
        mine, gold = ([[label[side] for label in row] for row in pairs] for side in (0, 1))
        scores["f1"] = float(f1_score(gold, mine, zero_division=0))
    return scores


def spans(dev: DevSet, logits: list[Tensor], longest: int = 30) -> list[str]:
    """The best answer text of each row of a span task's dev set, over all of its windows.

    An answer is a span of at most `longest` tokens inside the context with the highest start + end
    score in the logits, one [length, 2] per window. Where questions may be unanswerable, it is
    empty if start + end of the first token ([CLS]), at its least over the windows, scores higher.
    """
    best = [(-math.inf, "")] * len(dev.rows)
    null = [math.inf] * len(dev.rows)
    contexts = dev.rows[dev.task.columns[1]][:]
    windows = zip(dev.columns["row"], dev.columns["offset_mapping"], logits, strict=True)
    for row, offsets, window in windows:
        start, end = window.float().cpu().numpy().T
        null[row] = min(null[row], float(start[0] + end[0]))
        inside = np.array([offset is not None for offset in offsets])
        if not inside.any():
            continue
        first, last = inside.argmax(), len(inside) - inside[::-1].argmax()
        start, end = start[first:last], end[first:last]
        # scores[i, k]: the span from token i to token i + k.
        padded = np.concatenate([end, np.full(longest - 1, -np.inf, dtype=end.dtype)])
        scores = start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
        i, k = np.unravel_index(scores.argmax(), scores.shape)
        if scores[i, k] > best[row][0]:
            text = contexts[row][offsets[first + i][0] : offsets[first + i + k][1]]
            best[row] = (float(scores[i, k]), text)
    return [
        "" if dev.task.unanswerable and score < null[row] else text
        for row, (score, text) in enumerate(best)
    ]


def squad_scores(
    predictions: list[str], golds: list[list[str]], unanswerable: bool = True
) -> dict[str, float]:
    """SQuAD's F1 and exact match, means over questions, each the best over its gold answers.

    With `unanswerable`, by version 2.0's script: a question without gold answers is right exactly
    when the prediction is empty, and an answer that normalises to nothing ("the") is none. By
    version 1.1's, such an answer is never met by a word in common, though it can be exactly.
    """
    f1, exact = [], []
    for predicted, answers in zip(predictions, golds, strict=True):
        if unanswerable:
            answers = [answer for answer in answers if normalise(answer)] or [""]
        f1.append(max(_overlap(predicted, answer, unanswerable) for answer in answers))
        exact.append(max(normalise(predicted) == normalise(answer) for answer in answers))
    return {"f1": statistics.fmean(f1), "exact_match": statistics.fmean(exact)}


def normalise(text: str) -> str:
    """Lower-case, without punctuation, articles and extra blanks, as SQuAD compares answers."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _overlap(predicted: str, answer: str, unanswerable: bool) -> float:
    ours, theirs = normalise(predicted).split(), normalise(answer).split()
    if not ours or not theirs:
        return float(unanswerable and ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
