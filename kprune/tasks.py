"""The benchmark tasks: one record each, and the data behind it."""

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
from datasets import Dataset, DatasetDict, load_dataset

from kprune.opinions import opinions, ratings

MINIBATCH, SPAN_MINIBATCH = 32, 12


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: what the package, the notebooks and the records call it.
        columns: the text columns: one, or a pair.
        kind: what the head predicts; None takes what the model's own head does (`prune`).
        metric: the name of the primary score in `evaluate`'s result.
        labels: number of outputs of a classification or regression head.
        dataset: Hub id of the data set; None for the generated task.
        config: its configuration.
        max_length: tokens per sequence at the most, special tokens included.
        average_length: tokens per sequence that FLOPs are counted at; None takes the sample's mean.
        validation: the split that is scored.
        label: the label column.
        stride: overlap in tokens of neighbouring windows (spans only).
        unanswerable: whether a question may have no answer (spans only).
        minibatch: samples per group whose gradients are summed by the faithful K-prune.
    """

    name: str
    columns: tuple[str, ...]
    kind: Literal["classification", "regression", "span"] | None = "classification"
    metric: str = "accuracy"
    labels: int = 2
    dataset: str | None = None
    config: str | None = None
    max_length: int = 128
    average_length: float | None = None
    validation: str = "validation"
    label: str = "label"
    stride: int = 64
    unanswerable: bool = False
    minibatch: int = MINIBATCH

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):  # ("text") is no tuple
            object.__setattr__(self, "columns", (self.columns,))


def _glue(name: str, columns: tuple[str, ...], average_length: float, **fields) -> Task:
    return Task(
        name, columns, dataset="nyu-mll/glue", config=name, average_length=average_length, **fields
    )


def _squad(name: str, config: str) -> Task:
    return Task(
        name,
        ("question", "context"),
        kind="span",
        metric="f1",
        dataset=f"rajpurkar/{name}",
        config=config,
        max_length=384,
        average_length=170,
        label="answers",
        stride=128,
        unanswerable=name == "squad_v2",
        minibatch=SPAN_MINIBATCH,
    )


TASKS = {
    task.name: task
    for task in (
        _glue("mrpc", ("sentence1", "sentence2"), 53.24),
        _glue("qqp", ("question1", "question2"), 30.55),
        _glue("sst2", ("sentence",), 25.16, max_length=64),
        _glue(
            "stsb",
            ("sentence1", "sentence2"),
            31.47,
            kind="regression",
            metric="spearman",
            labels=1,
        ),
        _glue("mnli", ("premise", "hypothesis"), 39.05, labels=3, validation="validation_matched"),
        _glue("qnli", ("question", "sentence"), 50.97),
        _squad("squad", "plain_text"),
        _squad("squad_v2", "squad_v2"),
        _glue("rte", ("sentence1", "sentence2"), 64.59),
        _glue("cola", ("sentence",), 11.67, max_length=64, metric="matthews"),
        Task("opinions", ("sentence",), max_length=64),
        Task(
            "ratings",
            ("sentence",),
            kind="regression",
            metric="spearman",
            labels=1,
            max_length=64,
        ),
    )
}
GENERATED = {"opinions": opinions, "ratings": ratings}


def get_task(task: str | Task) -> Task:
    """The record of a task by its name; a `Task` is returned as it is.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        if " " in str(task):
            raise ValueError(
                f"{task!r} is not the name of a task; pass texts of your own as a list."
            )
        raise ValueError(f"There is no task {task!r}; {nearest(str(task), TASKS)}")
    return TASKS[task]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}."


def load_split(
    task: str | Task,
    split: Literal["train", "validation"],
    data: str | Path | Dataset | None = None,
) -> Dataset:
    """One split of a task's data.

    Args:
        task: a task or its name.
        split: "train", or "validation" for the split that the task is scored on.
        data: a Hub id or a local folder laid out like the Hub's repository; None takes the task's
            own Hub id (or generates the data, for the tasks in `GENERATED`). A loaded split is
            checked and given back.

    Returns:
        The split, with the task's columns.

    Raises:
        ValueError: when a split, a configuration or a column is missing.
        ConnectionError: when the data is neither local nor within reach on the Hub.
    """
    task = get_task(task)
    if isinstance(data, Dataset):
        check_columns(task, data)
        return data
    if not (data is None or isinstance(data, (str, Path))):
        raise ValueError(
            f"The data of {task.name!r} must be a Hub id, a folder or one loaded split (a Dataset, "
            f"such as load_dataset(…, split='train')); got a {type(data).__name__}."
        )
    if task.dataset is None and data is None:
        if task.name not in GENERATED:
            raise ValueError(f"The task {task.name!r} names no data set; pass data=<id or folder>.")
        found = GENERATED[task.name]()
    else:
        source = str(data or task.dataset)
        if data is not None and Path(data).is_absolute() and not Path(data).is_dir():
            raise ValueError(f"There is no data folder {source}.")
        try:
            found = load_dataset(source, task.config, cache_dir=_cache(Path(source)))
        except (ValueError, FileNotFoundError, OSError) as error:
            raise _explained(error, source, task) from error
    name = task.validation if split == "validation" else split
    if name not in found:
        raise ValueError(
            f"The data for {task.name!r} has no split {name!r}; it has {', '.join(found)}."
        )
    check_columns(task, found[name])
    return found[name]


def check_columns(task: Task, rows: Dataset | DatasetDict) -> None:
    """Raise ValueError when the data lacks a text column of the task."""
    missing = [column for column in task.columns if column not in rows.column_names]
    if missing:
        raise ValueError(
            f"The data for {task.name!r} lacks the column {missing[0]!r}; it has "
            f"{', '.join(rows.column_names)}."
        )


def _cache(folder: Path) -> str | None:
    """A cache of its own for each state of a local folder; None for the Hub's usual one.

    `datasets` knows a local folder by its name and README only, and would hand out the rows of
    another folder called the same.
    """
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.resolve().rglob("*") if path.is_file())
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"kprune-{digest}")


def _explained(error: Exception, source: str, task: Task) -> Exception:
    if Path(source).is_dir():
        return ValueError(
            f"The folder {source} does not hold {task.name!r} as the Hub lays it out "
            f"({task.dataset}, configuration {task.config!r}): {str(error).splitlines()[0]}"
        )
    return ConnectionError(
        f"The data set {source!r} ({task.config}) is not in a local folder of that name and the "
        "Hub cannot be reached or does not have it; check the network, or pass data=<folder laid "
        "out like the Hub repository>."
    )
