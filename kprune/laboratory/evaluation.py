"""Scores of a model on a task's dev set."""

import math
import re
import statistics
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.batching import suited
from kprune.data.hub import load_split
from kprune.data.tasks import Task, get_task
from kprune.data.tokens import UNLABELLED, as_examples, tokenize
from kprune.encoders import Encoder
from kprune.engine.progress import bar
from kprune.engine.sharing import sharing_weights
from kprune.outputs import kind_of


@dataclass(frozen=True)
class DevSet:
    """A tokenised dev set, read once and scored as often as you like."""

    task: Task
    rows: Dataset
    columns: dict[str, list]  # the tokenizer's, one entry per sequence
    pad: int  # id of the padding token
    tokenizer: PreTrainedTokenizerBase | None = None  # for models that embed a pair's texts apart


def dev_set(
    task: str | Task,
    tokenizer: PreTrainedTokenizerBase,
    data: str | Path | Dataset | None = None,
    every: int = 1,
) -> DevSet:
    """Load and tokenise a task's dev set, or every k-th row of it for a quicker estimate.

    The data is a Hub id, a local folder laid out like the Hub's, or a loaded split. ValueError when
    a column is missing, no row is left, or a class is not a whole number below the task's number of
    labels.
    """
    task = get_task(task)
    rows = load_split(task, "validation", data)
    if task.label not in rows.column_names:
        raise ValueError(
            f"The dev set of {task.name!r} lacks the label column {task.label!r}; it has "
            f"{', '.join(rows.column_names)}."
        )
    rows = rows.select(range(0, len(rows), every))
    if len(rows) == 0:
        raise ValueError(f"The dev set of {task.name!r} is empty.")
    odd = {*rows[task.label][:]} - {*range(task.labels)} if task.kind == "classification" else ()
    if odd:
        raise ValueError(
            f"The labels of {task.name!r} must be whole numbers from 0 to {task.labels - 1}, in "
            "the order of the model's outputs; its dev set has "
            f"{', '.join(sorted(map(repr, odd))[:3])}."
        )
    wanted = {name: rows[name][:] for name in (*task.columns, task.label)}
    columns = tokenize(task, tokenizer, wanted, labels=task.kind == "tokens")
    return DevSet(task, rows, columns, tokenizer.pad_token_id, tokenizer)


def evaluate(
    model: PreTrainedModel, dev: DevSet, precision: str = "full", progress: bool = False
) -> dict[str, float]:
    """Score a model on a dev set, on the device and in the mode that the model is in.

    In "bf16" the matrix products of the sublayers take low precision. Gives the task's metrics, all
    on a scale of 0 to 1 (correlations −1 to 1), `dev.task.metric` being the primary one:
    `accuracy`, `spearman`, `matthews`; `f1` and `exact_match` of spans; `accuracy` and `f1` of
    tokens (see `token_scores`); `f1_micro` and `accuracy`, of all labels at once, where there are
    several. ValueError when the model's head does not fit the task.
    """
    predictions = predict(model, dev, precision, progress)
    labels = dev.rows[dev.task.label][:]
    if dev.task.kind == "span":
        return squad_scores(spans(dev, predictions), [label["text"] for label in labels])
    if dev.task.kind == "tokens":
        chosen = [z.argmax(-1).tolist() for z in predictions]
        return token_scores(chosen, dev.columns["labels"], model.config.id2label)
    predicted = torch.stack(predictions).float().cpu().numpy()
    if dev.task.metric == "spearman":
        correlation = spearmanr(predicted[:, 0], labels).statistic
        return {"spearman": float(np.nan_to_num(correlation))}
    chosen, scores = predicted.argmax(1), {}
    if dev.task.metric == "matthews":
        return {"matthews": float(matthews_corrcoef(labels, chosen))}
    if dev.task.kind == "multilabel":
        chosen, labels = predicted > 0, np.array(labels) > 0.5
        scores["f1_micro"] = float(f1_score(labels, chosen, average="micro", zero_division=0))
    return scores | {"accuracy": float(accuracy_score(labels, chosen))}


def check_outputs(model: PreTrainedModel, task: Task, which: str = "The model") -> None:
    """Raise ValueError when a model's head does not fit a task.

    A model without a head fits a regression on pairs: the cosine of their embeddings is its output.
    """
    kind = kind_of(model)
    if kind.name == "embedding":
        if task.kind in ("regression", "embedding") and len(task.columns) == 2:
            return
        raise ValueError(
            f"{which} has no head, so its score is the cosine of pairs of texts, a regression; the "
            f"task {task.name!r} is of kind {task.kind!r} with columns {', '.join(task.columns)}."
        )
    has = needs = ""
    if kind.name != task.kind:
        has, needs = f"a head for {kind.name}", f"is of kind {task.kind!r}"
    elif task.kind != "span" and kind.outputs != task.labels:
        has, needs = f"{kind.outputs} outputs", f"needs {task.labels}"
    if has:
        raise ValueError(f"{which} has {has}, and the task {task.name!r} {needs}.")


@torch.inference_mode()
def predict(
    model: PreTrainedModel, dev: DevSet, precision: str = "full", progress: bool = False
) -> list[Tensor]:
    """Logits of each sequence of a dev set, in its order, without padding.

    They are [labels], [length, labels] for tokens, [length, 2] for spans; of a model without a head
    the cosine of each pair, [1].
    """
    check_outputs(model, dev.task)
    dtype = torch.bfloat16 if precision == "bf16" else None
    encoder = Encoder(sharing_weights(model)).copy(dtype)
    if encoder.kind.name != "embedding":
        return _outputs(encoder, dev.columns, dev.pad, progress)
    sides = []
    for column in dev.task.columns:
        texts = dev.rows[column][:]
        found = dev.tokenizer(texts, truncation=True, max_length=dev.task.max_length)
        sides.append(torch.stack(_outputs(encoder, found, dev.pad, progress)))
    return list(F.cosine_similarity(*sides)[:, None])


def _outputs(encoder: Encoder, columns: dict, pad: int, progress: bool) -> list[Tensor]:
    examples = as_examples(columns)
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    batches = suited(examples, pad, encoder.device)
    with bar(len(batches), "evaluating", progress) as steps:
        # Moved first: reading an index back, or a copy, would wait for the batch before.
        for index, batch in [(batch.index.tolist(), batch.to(encoder.device)) for batch in batches]:
            for i, z in zip(index, encoder.run(batch), strict=True):
                found[i] = z[: len(examples[i]["input_ids"])] if z.dim() > 1 else z
            steps.update()
    return found


def token_scores(
    predicted: Sequence[Sequence[int]], golds: Sequence[Sequence[int]], names: dict[int, str]
) -> dict[str, float]:
    """Accuracy over labelled tokens and, where label names are BIO, `f1` of whole entities.

    Takes the predicted labels of each sequence, the right ones (`UNLABELLED` where there is none),
    and their names.
    """
    pairs = [
        [(names[mine], names[gold]) for mine, gold in zip(*row, strict=True) if gold != UNLABELLED]
        for row in zip(predicted, golds, strict=True)
    ]
    scores = {"accuracy": statistics.fmean(mine == gold for row in pairs for mine, gold in row)}
    if any(name.startswith(("B-", "I-")) for name in names.values()):
        found = [[_entities(labels) for labels in zip(*row, strict=True)] for row in pairs if row]
        common = sum(len(mine & gold) for mine, gold in found)
        total = sum(len(mine) + len(gold) for mine, gold in found)
        scores["f1"] = 2 * common / max(1, total)
    return scores


def _entities(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """Type, first token and end of each entity; one may begin with "I-"."""
    found, first, kind = set(), None, ""
    for i, label in enumerate([*labels, "O"]):
        tag, _, own = label.partition("-")
        if first is not None and (tag, own) != ("I", kind):
            found.add((kind, first, i))
            first = None
        if first is None and tag in ("B", "I"):
            first, kind = i, own
    return found


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


def squad_scores(predictions: list[str], golds: list[list[str]]) -> dict[str, float]:
    """SQuAD's F1 and exact match, means over questions, each the best over its gold answers.

    A question without gold answers is right exactly when the prediction is empty.
    """
    f1, exact = [], []
    for predicted, answers in zip(predictions, golds, strict=True):
        # An answer that normalises to nothing ("the") is no answer, as in the official script.
        answers = [answer for answer in answers if normalise(answer)] or [""]
        f1.append(max(_overlap(predicted, answer) for answer in answers))
        exact.append(max(normalise(predicted) == normalise(answer) for answer in answers))
    return {"f1": statistics.fmean(f1), "exact_match": statistics.fmean(exact)}


def normalise(text: str) -> str:
    """Lower-case, without punctuation, articles and extra blanks, as SQuAD compares answers."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _overlap(predicted: str, answer: str) -> float:
    ours, theirs = normalise(predicted).split(), normalise(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
