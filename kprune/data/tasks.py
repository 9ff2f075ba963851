"""The benchmark tasks: one record each."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kprune.data.opinions import opinions, ratings

Kind = Literal["classification", "regression", "multilabel", "span", "tokens", "embedding", ""]


@dataclass(frozen=True)
class Task:
    """One task."""

    name: str  # what the package, the notebooks and the records call it
    columns: tuple[str, ...]  # of text, or a pair; of lists of words for a head that labels tokens
    kind: Kind = "classification"  # what the head predicts; "" for texts that suit any model
    metric: str = "accuracy"  # the primary score in `evaluate`'s result
    labels: int = 2  # outputs of the head
    dataset: str | None = None  # Hub id; None for a generated task
    config: str | None = None  # of the data set
    max_length: int = 128  # tokens per sequence at the most, special tokens included
    average_length: float | None = None  # that FLOPs are counted at; None takes the sample's mean
    validation: str = "validation"  # the split that is scored
    label: str = "label"  # its column
    stride: int = 64  # tokens that neighbouring windows of a span task share
    unanswerable: bool = False  # whether a question may have no answer
    minibatch: int = 32  # samples per group whose gradients the faithful K-prune sums

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
        minibatch=12,
    )


STARS = {"kind": "regression", "metric": "spearman", "labels": 1}
TASKS = {
    task.name: task
    for task in (
        _glue("mrpc", ("sentence1", "sentence2"), 53.24),
        _glue("qqp", ("question1", "question2"), 30.55),
        _glue("sst2", ("sentence",), 25.16, max_length=64),
        _glue("stsb", ("sentence1", "sentence2"), 31.47, **STARS),
        _glue("mnli", ("premise", "hypothesis"), 39.05, labels=3, validation="validation_matched"),
        _glue("qnli", ("question", "sentence"), 50.97),
        _squad("squad", "plain_text"),
        _squad("squad_v2", "squad_v2"),
        _glue("rte", ("sentence1", "sentence2"), 64.59),
        _glue("cola", ("sentence",), 11.67, max_length=64, metric="matthews"),
        Task("opinions", ("sentence",), max_length=64),
        Task("ratings", ("sentence",), max_length=64, **STARS),
    )
}
GENERATED = {"opinions": opinions, "ratings": ratings}


def get_task(task: str | Task) -> Task:
    """A task by its name; a `Task` is given back. ValueError names the nearest known one."""
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
