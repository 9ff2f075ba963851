"""The benchmark tasks: one record each."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kprune.data.checks import number
from kprune.data.opinions import TOPICS, opinions, ratings, topics

Kind = Literal["classification", "regression", "multilabel", "span", "tokens", "embedding", ""]
# Scores that `evaluate` gives for each kind, the usual one first.
METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "matthews"),
    "regression": ("spearman", "average_precision"),
    "multilabel": ("f1_micro", "f1_macro", "accuracy"),
    "span": ("f1", "exact_match"),
    "tokens": ("accuracy", "f1"),
    "embedding": ("spearman",),  # of the cosine of a pair of texts
}
SHORTEST = 8  # tokens that a sequence may be cut to


@dataclass(frozen=True)
class Task:
    """One task; ValueError for values that make no sense, or contradict each other."""

    name: str  # what the package, the notebooks and the records call it
    columns: tuple[str, ...]  # of text, or a pair; of lists of words for a head that labels tokens
    kind: Kind = "classification"  # what the head predicts; "" for texts that suit any model
    metric: str = ""  # the primary score in `evaluate`'s result; "" takes the kind's usual one
    labels: int = 2  # outputs of the head
    names: tuple[str, ...] = ()  # of the labels, where the data does not give them
    dataset: str | None = None  # Hub id; None for a generated task
    config: str | None = None  # of the data set
    max_length: int = 128  # tokens per sequence at the most, special tokens included
    average_length: float | None = None  # that FLOPs are counted at; None takes the sample's mean
    validation: str = "validation"  # the split that is scored
    label: str = "label"  # its column
    stride: int = 64  # tokens that neighbouring windows of a span task share
    unanswerable: bool = False  # whether a question may have no answer
    minibatch: int = 32  # samples per group whose gradients the faithful K-prune sums
    scale: tuple[float, float] = (-math.inf, math.inf)  # that the labels of a regression are on
    yes: str = ""  # class that a regression takes as 1, all others as 0, where labels are classes

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):  # ("text") is no tuple
            object.__setattr__(self, "columns", (self.columns,))
        for name in ("name", "label"):
            if not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise ValueError(f"A task's {name} is a text; got {getattr(self, name)!r}.")
        what = f"of the task {self.name!r}"
        names = tuple(self.names) if isinstance(self.names, (list, tuple)) else (None,)
        if not {type(one) for one in names} <= {str}:
            raise ValueError(f"The names {what}'s labels are texts; got {self.names!r}.")
        object.__setattr__(self, "names", names)
        for name in ("dataset", "config", "validation", "yes"):
            value = getattr(self, name)
            if value != getattr(type(self), name) and not (isinstance(value, str) and value):
                raise ValueError(f"The {name} {what} is a text; got {value!r}.")
        if self.yes and (self.kind, self.labels, self.scale) != ("regression", 1, (0, 1)):
            raise ValueError(
                f"With yes, 0 and 1 are made of the classes {what}: its kind is 'regression', its "
                "labels are 1 and its scale is (0, 1)."
            )
        if self.kind not in get_args(Kind):
            kinds = ", ".join(METRICS)
            raise ValueError(f"The kind {what} is one of {kinds}; got {self.kind!r}.")
        known = METRICS.get(self.kind, ("",))
        if self.metric not in ("", *known):
            known = " or ".join(known) or "empty"
            raise ValueError(
                f"The metric {what}, of kind {self.kind!r}, is {known}; got {self.metric!r}."
            )
        object.__setattr__(self, "metric", self.metric or known[0])
        if not isinstance(self.unanswerable, bool):
            raise ValueError(f"unanswerable {what} is True or False; got {self.unanswerable!r}.")
        sides = (2,) if self.kind == "span" else (1, 2)
        texts = isinstance(self.columns, (tuple, list)) and {type(one) for one in self.columns}
        if texts != {str} or len({*self.columns}) != len(self.columns):
            raise ValueError(f"The columns {what} are names, each another; got {self.columns!r}.")
        if len(self.columns) not in sides:
            needed = " or ".join(map(str, sides))
            raise ValueError(f"The columns {what} must be {needed}; got {', '.join(self.columns)}.")
        object.__setattr__(self, "columns", tuple(self.columns))
        least = {"classification": 2, "": 0}.get(self.kind, 1)
        least = {"labels": least, "max_length": SHORTEST, "stride": 0, "minibatch": 1}
        for name, bound in least.items():
            whole = number(f"The {name} {what}", getattr(self, name), bound)
            object.__setattr__(self, name, whole)
        if self.names and not len({*self.names}) == len(self.names) == self.labels:
            raise ValueError(
                f"The names {what} are {self.labels}, one for each label; got {self.names!r}."
            )
        least, most = self.scale if isinstance(self.scale, tuple) else (0, 0)
        if not least < most:
            raise ValueError(f"The scale {what} is a least and a greatest label; got {self.scale}.")
        if self.average_length is not None:
            name = f"The average_length {what}"
            length = number(name, self.average_length, above=0, whole=False)
            object.__setattr__(self, "average_length", length)


def _glue(name: str, columns: tuple[str, ...], length: float | None, **fields) -> Task:
    fields = {"config": name, "average_length": length} | fields
    return Task(name, columns, dataset="nyu-mll/glue", **fields)


def _squad(name: str, config: str) -> Task:
    return Task(
        name,
        ("question", "context"),
        kind="span",
        dataset=f"rajpurkar/{name}",
        config=config,
        max_length=384,
        average_length=170,
        label="answers",
        stride=128,
        unanswerable=name == "squad_v2",
        minibatch=12,
    )


STARS = {"kind": "regression", "labels": 1}
RELEVANCE = {**STARS, "scale": (0, 1), "metric": "average_precision", "yes": "entailment"}
TASKS = {
    task.name: task
    for task in (
        _glue("mrpc", ("sentence1", "sentence2"), 53.24),
        _glue("qqp", ("question1", "question2"), 30.55),
        _glue("sst2", ("sentence",), 25.16, max_length=64),
        _glue("stsb", ("sentence1", "sentence2"), 31.47, **STARS, scale=(0, 5)),
        _glue("mnli", ("premise", "hypothesis"), 39.05, labels=3, validation="validation_matched"),
        _glue("qnli", ("question", "sentence"), 50.97),
        _squad("squad", "plain_text"),
        _squad("squad_v2", "squad_v2"),
        _glue("rte", ("sentence1", "sentence2"), 64.59),
        _glue("cola", ("sentence",), 11.67, max_length=64, metric="matthews"),
        # STS-B for models without a head, whose texts are embedded apart.
        _glue(
            "sts",
            ("sentence1", "sentence2"),
            None,
            config="stsb",
            kind="embedding",
            labels=1,
            scale=(0, 5),
        ),
        # QNLI for rerankers: how relevant a sentence is to a question.
        _glue("relevance", ("question", "sentence"), 50.97, config="qnli", **RELEVANCE),
        Task(
            "wnut_17",
            ("tokens",),
            kind="tokens",
            metric="f1",
            labels=13,
            dataset="leondz/wnut_17",
            config="wnut_17",
            label="ner_tags",
        ),
        Task("opinions", ("sentence",), max_length=64),
        Task("ratings", ("sentence",), max_length=64, **STARS, scale=(1, 5)),
        Task(
            "topics",
            ("sentence",),
            kind="multilabel",
            labels=len(TOPICS),
            names=TOPICS,
            max_length=64,
        ),
    )
}
GENERATED = {"opinions": opinions, "ratings": ratings, "topics": topics}


def get_task(task: str | Task) -> Task:
    """A task by its name; a `Task` is given back. ValueError names the nearest known one."""
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        kind = type(task).__name__
        raise ValueError(f"A task is a Task or the name of one, such as 'sst2'; got a {kind}.")
    if task not in TASKS:
        if " " in task or Path(task).suffix:
            raise ValueError(
                f"{task!r} is not the name of a task; pass texts of your own as a list, as "
                "open(file).read().splitlines() gives them."
            )
        raise ValueError(f"There is no task {task!r}; {nearest(task, TASKS)}")
    return TASKS[task]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}."
