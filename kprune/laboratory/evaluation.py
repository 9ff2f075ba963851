"""Scores of a model on a task's dev set."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, matthews_corrcoef
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.checks import check_model
from kprune.data.batching import suited
from kprune.data.checks import UNLABELLED, check_labels, in_order, matched, number, output_names
from kprune.data.hub import classes_of, load_split
from kprune.data.tasks import Task, get_task
from kprune.data.tokens import Example, apart, as_examples, tokenize, warn_of_cuts
from kprune.encoders import Encoder
from kprune.engine.as_found import plain_tensors
from kprune.engine.progress import bar
from kprune.engine.sharing import sharing_weights
from kprune.families import names_of
from kprune.inputs import check_inputs, check_match
from kprune.laboratory.metrics import of_entities, spans, squad_scores, token_scores
from kprune.options import Options
from kprune.outputs import kind_of, pooled
from kprune.sentences import opened


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
    a column is missing, no row is left, or a row, which is named, holds no text or no label that
    the task's head could have.
    """
    task, every = get_task(task), number("every, the step between rows,", every, 1)
    if not task.kind:
        raise ValueError(f"The task {task.name!r} is of texts alone; name its kind to score it.")
    rows = load_split(task, "validation", data)
    if task.label not in rows.column_names:
        raise ValueError(
            f"The dev set of {task.name!r} lacks the label column {task.label!r}; it has "
            f"{', '.join(rows.column_names)}."
        )
    rows = rows.select(range(0, len(rows), every))
    if len(rows) == 0:
        raise ValueError(f"The dev set of {task.name!r} is empty.")
    wanted = {name: rows[name][:] for name in (*task.columns, task.label)}
    numbers = [n * every for n in range(len(rows))]
    columns = tokenize(task, tokenizer, wanted, task.kind == "tokens", numbers)
    if task.kind != "tokens":
        warn_of_cuts(task, tokenizer, map(len, columns["input_ids"]))
    else:
        given, placed = (
            sum(label != UNLABELLED for row in rows for label in row)
            for rows in (wanted[task.label], columns["labels"])
        )
        if placed < given:
            warnings.warn(
                f"{given - placed:,} of the {given:,} labelled words of {task.name!r} are not "
                f"scored: behind {task.max_length} tokens, or without any; take shorter rows.",
                stacklevel=2,
            )
    check_golds(task, rows, numbers)
    return DevSet(task, rows, columns, tokenizer.pad_token_id, tokenizer)


def check_golds(task: Task, rows: Dataset, numbers: Sequence[int]) -> None:
    """Raise ValueError for labels, named by their rows, that no score can be made of."""
    if task.kind == "embedding":  # a pair's cosine is one number
        task = replace(task, kind="regression", labels=1)
    labels = rows[task.label][:]
    check_labels(task, labels, numbers, rows[task.columns[-1]][:])
    columns = np.array(labels).reshape(len(labels), -1).T if task.kind == "regression" else ()
    for column in columns:
        if (column == column[0]).all():
            raise ValueError(
                f"All labels of {task.name!r} are {column[0]}, as where they are kept hidden, and "
                "no correlation can be made of them; take a split with labels."
            )
    decided = task.metric == "average_precision" or task.kind == "multilabel"
    if decided and not {*np.ravel(labels).tolist()} <= {0, 1}:
        raise ValueError(
            f"An {task.metric} is of labels that are 0 or 1, and {task.name!r} has others."
        )


def evaluate(
    model: PreTrainedModel,
    dev: DevSet,
    progress: bool = False,
    pooling: str | None = None,
) -> dict[str, float]:
    """Score a model on a dev set, on the device that it is on, and without dropout.

    It may be a SentenceTransformer or CrossEncoder. `pooling`, "mean" or "cls", is of a model
    without a head: by default as it was pruned, else the mean.

    Gives the task's metrics, all on a scale of 0 to 1 (correlations −1 to 1), `dev.task.metric`
    being the primary one: `accuracy`, `spearman`, `matthews`, `average_precision`; `f1` and
    `exact_match` of spans; `accuracy` and `f1` of tokens (see `token_scores`); `f1_micro`,
    `f1_macro` and `accuracy`, of all labels at once, where there are several. Classes are matched
    by name where model and data name theirs. ValueError when the model's head or classes do not fit
    the task, or its outputs are not finite.
    """
    if inside := opened(model, {}):
        if inside.prompt:
            raise ValueError(
                f"This {type(model).__name__} puts {inside.prompt!r} before each text."
            )
        model, pooling = inside.model, inside.options.get("pooling", pooling)
    names_of(model)
    if not isinstance(dev, DevSet):
        raise ValueError(f"evaluate takes what dev_set gives; got a {type(dev).__name__}.")
    pooling = pooling or pooled(model).get("pooling", Options.pooling)
    Options(pooling=pooling)  # whose check says what it can be
    order, names = check_dev(model, dev)
    predictions = predict(model, dev, progress, pooling)
    if not all(bool(z.isfinite().all()) for z in predictions):
        check_model(model)  # names a broken weight
        raise ValueError(
            "The model's outputs are NaN or infinite; its weights are not, so its numbers outgrow "
            f"{model.dtype}: try model.float()."
        )
    return scores(dev, predictions, order, names)


def check_dev(
    model: PreTrainedModel, dev: DevSet
) -> tuple[list[int] | None, tuple[str, ...] | None]:
    """The model's outputs for a dev set's classes, and their names, as `scores` takes them.

    ValueError where the model cannot be scored on it.
    """
    task = dev.task
    check_outputs(model, task)
    rows = dev.columns.get("row") or next(iter(dev.columns.values()))
    if len(dev.rows) != (len({*rows}) if "row" in dev.columns else len(rows)):
        raise ValueError("The dev set's rows were changed; make it of those rows, by dev_set.")
    check_golds(task, dev.rows, range(len(dev.rows)))
    classes = classes_of(dev.rows, task)
    order = matched(classes, model.config, f"the data of {task.name!r}")
    named = output_names(model.config)
    names = (classes or named) if order is None else (named or classes)
    if task.kind == "tokens" and task.metric == "f1" and not of_entities(names or ()):
        raise ValueError(
            f"The labels of {task.name!r} have no names of entities, such as B-person, I-person "
            "and O, and f1 is of those; name them in the data or the model's config.id2label, or "
            "take the metric accuracy."
        )
    return order, names


def scores(
    dev: DevSet,
    predictions: Sequence[Tensor],
    order: list[int] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """The scores of predictions, as `evaluate` gives them.

    `order` are the outputs for the data's classes, by default the same numbers; `names` those of
    the outputs.
    """
    labels = dev.rows[dev.task.label][:]
    if dev.task.kind == "span":
        answers = [label["text"] for label in labels]
        return squad_scores(spans(dev, predictions), answers, dev.task.unanswerable)
    if dev.task.kind == "tokens":
        chosen = [z.argmax(-1).tolist() for z in predictions]
        named = dict(enumerate(names or map(str, range(dev.task.labels))))
        return token_scores(chosen, in_order(dev.columns["labels"], order), named)
    predicted = torch.stack([*predictions]).float().cpu().numpy()
    if dev.task.kind in ("regression", "embedding"):
        pairs = zip(np.array(labels).reshape(len(predicted), -1).T, predicted.T, strict=True)
        ranked = {
            "spearman": lambda *pair: spearmanr(*pair).statistic,
            "average_precision": average_precision_score,
        }[dev.task.metric]
        return {dev.task.metric: float(np.nan_to_num([ranked(*pair) for pair in pairs]).mean())}
    if dev.task.kind == "multilabel":
        chosen, golds = predicted > 0, np.array(in_order(labels, order, dev.task.kind)) > 0.5
        means = {
            f"f1_{mean}": float(f1_score(golds, chosen, average=mean, zero_division=0))
            for mean in ("micro", "macro")
        }
        return {**means, "accuracy": float(accuracy_score(golds, chosen))}
    chosen, golds = predicted.argmax(1), [int(label) for label in in_order(labels, order)]
    if dev.task.metric == "matthews":
        return {"matthews": float(matthews_corrcoef(golds, chosen))}
    return {"accuracy": float(accuracy_score(golds, chosen))}


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


@plain_tensors()
@torch.no_grad()
def predict(
    model: PreTrainedModel,
    dev: DevSet,
    progress: bool = False,
    pooling: str = Options.pooling,
) -> list[Tensor]:
    """Logits of each sequence of a dev set, in its order, without padding.

    They are [labels], [length, labels] for tokens, [length, 2] for spans; of a model without a head
    the cosine of each pair, [1].
    """
    check_match(model, dev.tokenizer)
    encoder = Encoder(sharing_weights(model), pooling).copy()
    if encoder.kind.name != "embedding":
        return _outputs(encoder, as_examples(dev.columns), dev.pad, progress)
    texts = {column: dev.rows[column][:] for column in dev.task.columns}
    sides = [
        torch.stack(_outputs(encoder, examples, dev.pad, progress))
        for examples in apart(dev.task, dev.tokenizer, texts)
    ]
    return list(F.cosine_similarity(*sides)[:, None])


def _outputs(encoder: Encoder, examples: list[Example], pad: int, progress: bool) -> list[Tensor]:
    check_inputs(encoder.model, examples, "the dev set")
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    batches = suited(examples, pad, encoder.device)
    with bar(len(batches), "evaluating", progress) as steps:
        # Moved first: reading an index back, or a copy, would wait for the batch before.
        for index, batch in [(batch.index.tolist(), batch.to(encoder.device)) for batch in batches]:
            outputs = encoder.run(batch)
            for i, z in zip(index, outputs, strict=True):
                found[i] = z[: len(examples[i]["input_ids"])] if z.dim() > 1 else z
            steps.update()
    return found
