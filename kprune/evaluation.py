"""Scores of a model on a task's dev set, and its size and speed."""

import math
import re
import statistics
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, matthews_corrcoef
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.encoders import forward, view
from kprune.progress import bar, seconds_in_turns, timed
from kprune.sampling import Sample, as_examples, batches, collate, tokenize
from kprune.states import keep_memory
from kprune.tasks import SPAN_MINIBATCH, Task, get_task, load_split

ANSWER_TOKENS = 30


@dataclass(frozen=True)
class DevSet:
    """A tokenised dev set, read once and scored as often as you like.

    Attributes:
        task: its task.
        rows: the data.
        columns: the tokenizer's columns, one entry per sequence.
        pad: id of the padding token.
    """

    task: Task
    rows: Dataset
    columns: dict[str, list]
    pad: int


def dev_set(
    task: str | Task,
    tokenizer: PreTrainedTokenizerBase,
    data: str | Path | Dataset | None = None,
    every: int = 1,
) -> DevSet:
    """Load and tokenise a task's dev set.

    Args:
        task: a task or its name.
        tokenizer: the model's own.
        data: a Hub id, a local folder laid out like the Hub's, or a loaded split.
        every: take every k-th row only, for a quicker estimate.

    Raises:
        ValueError: when a column is missing, no row is left, or a class is not a whole number below
            the task's number of labels.
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
    if task.kind == "classification":
        odd = {*rows[task.label][:]} - {*range(task.labels)}
        if odd:
            raise ValueError(
                f"The labels of {task.name!r} must be whole numbers from 0 to {task.labels - 1}, "
                f"in the order of the model's outputs; its dev set has "
                f"{', '.join(sorted(map(repr, odd))[:3])}."
            )
    wanted = {name: rows[name][:] for name in task.columns}
    return DevSet(task, rows, tokenize(task, tokenizer, wanted), tokenizer.pad_token_id)


def evaluate(
    model: PreTrainedModel, dev: DevSet, precision: str = "full", progress: bool = False
) -> dict[str, float]:
    """Score a model on a dev set, on the device that the model is on.

    Args:
        model: dense or pruned.
        dev: what `dev_set` gave.
        precision: "full", or "bf16" for the matrix products of the sublayers.
        progress: whether to show a progress bar.

    Returns:
        The task's metrics, all on a scale of 0 to 1 (correlations −1 to 1): `accuracy`, `spearman`,
        `matthews`, or `f1` and `exact_match`. `dev.task.metric` names the primary one.

    Raises:
        ValueError: when the model's head does not fit the task.
    """
    predictions = predict(model, dev, precision, progress)
    labels = dev.rows[dev.task.label][:]
    if dev.task.kind == "span":
        golds = [label["text"] for label in labels]
        return squad_scores(spans(dev, predictions), golds)
    predicted = torch.stack(predictions).float().cpu().numpy()
    if dev.task.metric == "spearman":
        correlation = spearmanr(predicted[:, 0], labels).statistic
        return {"spearman": 0.0 if math.isnan(correlation) else float(correlation)}
    choices = predicted.argmax(1)
    if dev.task.metric == "matthews":
        return {"matthews": float(matthews_corrcoef(labels, choices))}
    return {"accuracy": float(accuracy_score(labels, choices))}


def head_kind(model: PreTrainedModel) -> str:
    """What a model's head predicts, in the words of `Task.kind`."""
    if type(model).__name__.endswith("ForQuestionAnswering"):
        return "span"
    one = model.config.num_labels == 1 or model.config.problem_type == "regression"
    return "regression" if one else "classification"


def check_outputs(model: PreTrainedModel, task: Task, which: str = "The model") -> None:
    """Raise ValueError when a model's head does not fit a task."""
    kind, outputs = head_kind(model), model.config.num_labels
    if "span" not in (kind, task.kind) and outputs != task.labels:
        raise ValueError(
            f"{which} has {outputs} outputs, and the task {task.name!r} needs {task.labels}."
        )
    if kind != task.kind:
        raise ValueError(
            f"{which} is a {type(model).__name__} of the kind {kind!r}, and the task {task.name!r} "
            f"is of the kind {task.kind!r}."
        )


def fitted(task: Task, model: PreTrainedModel) -> Task:
    """A task as a model's head has it: one without a kind of its own takes the head's.

    Raises:
        ValueError: when a task of another kind or number of labels is asked of the head, or the
            head is of a kind that the package does not know.
    """
    if model.config.problem_type == "multi_label_classification":
        raise ValueError(
            f"This {type(model).__name__} gives several labels to a text (problem_type is "
            "multi_label_classification), and kprune prunes classifiers of one label, regression "
            "and spans only."
        )
    if task.kind is not None:
        check_outputs(model, task)
        return task
    kind = head_kind(model)
    if kind != "span":
        return replace(task, kind=kind, labels=model.config.num_labels)
    if len(task.columns) != 2:
        raise ValueError(
            f"A {type(model).__name__} finds answers in contexts; the sample must hold pairs of "
            "question and context, not single texts."
        )
    return replace(task, kind=kind, minibatch=SPAN_MINIBATCH)


@torch.inference_mode()
def predict(
    model: PreTrainedModel, dev: DevSet, precision: str = "full", progress: bool = False
) -> list[Tensor]:
    """Logits of each sequence of a dev set, in its order, without padding.

    Returns:
        Tensors [labels], or [length, 2] for spans.
    """
    check_outputs(model, dev.task)
    encoder = view(model.eval()).cast(torch.bfloat16 if precision == "bf16" else None)
    examples = as_examples(dev.columns)
    parts = batches(examples, dev.pad)
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    device = model.device
    with bar(len(parts), "evaluating", progress) as steps:
        for part in parts:
            part = part.to(device)
            for i, logits in zip(
                part.index.tolist(), forward(encoder, part.inputs, part.mask), strict=True
            ):
                found[i] = logits[: len(examples[i]["input_ids"])] if logits.dim() > 1 else logits
            steps.update()
    return found


def spans(dev: DevSet, logits: list[Tensor], longest: int = ANSWER_TOKENS) -> list[str]:
    """The best answer text of each question, over all of its windows.

    An answer is a span of at most `longest` tokens inside the context with the highest start + end
    score. Where questions may be unanswerable, it is empty if start + end of the first token
    ([CLS]), at its least over the windows, scores higher.

    Args:
        dev: a span task's dev set.
        logits: one [length, 2] per window.
        longest: tokens of an answer at the most.

    Returns:
        One text per row of the dev set.
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


def flops(model: PreTrainedModel, length: float) -> float:
    """FLOPs of a model's units by the paper's count (see `Sublayer.unit_flops`).

    Args:
        model: dense or pruned.
        length: tokens per sequence.
    """
    return view(model).flops(length)


@torch.inference_mode()
def latency(
    model: PreTrainedModel, batch_size: int = 32, length: int = 128, repeats: int = 5
) -> float:
    """Median seconds of one forward pass over random tokens, on the device that the model is on.

    Args:
        model: dense or pruned.
        batch_size: sequences per batch.
        length: tokens per sequence.
        repeats: timed runs, after two that are not.
    """
    return latencies({"model": model}, batch_size, length, repeats)["model"]


@torch.inference_mode()
def latencies(
    models: dict[str, PreTrainedModel],
    batch_size: int = 32,
    length: int = 128,
    repeats: int = 5,
    progress: bool = False,
    quiet: bool = False,
) -> dict[str, float]:
    """`latency` of several models, in turns: what else the machine does then meets all alike.

    Memory that a pass frees stays with the process meanwhile (`states.keep_memory`).

    Args:
        models: the models by name.
        batch_size: sequences per batch.
        length: tokens per sequence.
        repeats: timed rounds, after two that are not.
        progress: whether to show a progress bar.
        quiet: the time that a quiet machine would take in place of the median: see
            `progress.seconds_in_turns`.

    Returns:
        Seconds by name.
    """
    generator = torch.Generator().manual_seed(0)

    def prepare(model: PreTrainedModel) -> Callable[[], object]:
        ids = torch.randint(1, model.config.vocab_size, (batch_size, length), generator=generator)
        ids = ids.to(model.device)
        mask = torch.ones_like(ids)
        return lambda: model.eval()(input_ids=ids, attention_mask=mask)

    calls = {name: prepare(model) for name, model in models.items()}
    with keep_memory():
        return seconds_in_turns(calls, repeats, progress, quiet)


@torch.inference_mode()
def pass_seconds(model: PreTrainedModel, sample: Sample) -> float:
    """Seconds of one plain forward pass over a sample: F, the unit that pruning is timed in.

    Plain means the task's minibatches as drawn, each padded, in the model's own precision.

    Args:
        model: the dense model, on any device.
        sample: the sample dataset.
    """
    model, size = model.eval(), sample.task.minibatch
    seconds: dict[str, float] = {}
    with timed(seconds, "pass"):
        for first in range(0, len(sample.examples), size):
            batch = collate(sample.examples[first : first + size]).to(model.device)
            model(**batch.inputs, attention_mask=batch.attention_mask)
    return seconds["pass"]
