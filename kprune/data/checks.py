"""What numbers, rows of texts and their labels must be, and sentences about those that are not."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kprune.data.tasks import Task

UNLABELLED = -100  # what the models' losses skip
GENERIC = re.compile(r"label[^a-z0-9]*[0-9]+", re.I)  # "LABEL_0"
NUMBER = re.compile(r"\W*[0-9]+")
Labels = Sequence[Any]


class LabelError(ValueError):
    """A row whose label no head of its kind could have."""


def number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    whole: bool = True,
    above: float = -math.inf,
) -> int | float:
    """The value as Python's own number; ValueError unless it is one, finite and within bounds."""
    fine = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not fine or not (least <= value <= most and above < value and abs(value) < math.inf):
        bounds = [f"of at least {least:g}"] if least > -math.inf else []
        bounds += [f"above {above:g}"] if above > -math.inf else []
        bounds += [f"of at most {most:g}"] if most < math.inf else []
        wanted = " ".join([f"a {'whole' if whole else 'finite'} number", " and ".join(bounds)])
        raise ValueError(f"{name} must be {wanted.strip()}; got {reprlib.repr(value)}.")
    return int(value) if whole else float(value)


def rounded_down(number: float, digits: int) -> str:
    """A number as text, for what is said to be possible to be so."""
    return f"{math.floor(number * 10**digits) / 10**digits:.{digits}f}"


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_texts(what: str, texts: Iterable[Any], numbers: Iterable[int], words: bool) -> None:
    """Raise ValueError, naming the row, for what is no text (or, with `words`, no list of them)."""
    for row, text in zip(numbers, texts, strict=True):
        parts = text if words and isinstance(text, (list, tuple)) else [text]
        wrong = [part for part in parts if not isinstance(part, str)]
        if wrong or (words and parts is not text):
            wanted = "a list of words" if words else "a text"
            found = reprlib.repr(wrong[0] if wrong else text)
            raise ValueError(f"Row {row} (from 0) of {what} holds {found} in place of {wanted}.")
        try:
            "".join(parts).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Row {row} (from 0) of {what} holds a lone surrogate, which is half a character; "
                "mend the text, or leave it out."
            ) from error


def check_labels(task: Task, labels: Labels, numbers: Iterable[int], rows: Sequence[Any]) -> None:
    """Raise LabelError, naming the row, for a label that the task's head cannot have.

    `rows` are what is labelled: texts, lists of words, contexts, or a sample's sequences of tokens,
    in which a span is a pair of places.
    """
    fits, wanted = {
        "classification": (_is_class, "a whole number from 0 to {last}"),
        "tokens": (_are_classes, "a whole number from 0 to {last} for each word"),
        "multilabel": (_are_shares, "{count} numbers from 0 to 1"),
        "regression": (_are_numbers, "{count} finite, on the task's scale"),
        "span": (_is_answer, "a dict of lists, text and answer_start, within the context"),
    }[task.kind]
    for number, label, row in zip(numbers, labels, rows, strict=True):
        if not fits(task, label, row):
            wanted = wanted.format(last=task.labels - 1, count=task.labels)
            raise LabelError(
                f"Row {number} (from 0) of {task.name!r} has the label {reprlib.repr(label)}; a "
                f"label of its kind, {task.kind}, is {wanted}."
            )


def _is_class(task: Task, label: Any, row: Any) -> bool:
    return isinstance(label, Real) and label in range(task.labels)


def _are_classes(task: Task, label: Any, row: Any) -> bool:
    return (
        isinstance(label, (list, tuple))
        and len(label) == len(row)
        and all(_is_class(task, one, row) or one == UNLABELLED for one in label)
    )


def _are_numbers(task: Task, label: Any, row: Any) -> bool:
    least, most = task.scale
    several = label if isinstance(label, (list, tuple)) and task.labels > 1 else [label]
    return len(several) == task.labels and all(
        isinstance(one, Real)
        and not isinstance(one, bool)
        and math.isfinite(one)
        and least <= one <= most
        for one in several
    )


def _are_shares(task: Task, label: Any, row: Any) -> bool:
    return (
        isinstance(label, (list, tuple))
        and len(label) == task.labels
        and all(isinstance(one, Real) and 0 <= one <= 1 for one in label)
    )


def _is_answer(task: Task, label: Any, row: Any) -> bool:
    if isinstance(label, tuple) and not isinstance(row, str):  # places among a sample's tokens
        return len(label) == 2 and all(isinstance(n, Integral) and 0 <= n < len(row) for n in label)
    if not (isinstance(label, dict) and {"text", "answer_start"} <= label.keys()):
        return False
    texts, starts = label["text"], label["answer_start"]
    if not (isinstance(texts, (list, tuple)) and isinstance(starts, (list, tuple))):
        return False
    if len(texts) != len(starts) or not (texts or task.unanswerable):
        return False
    return all(
        isinstance(text, str)
        and isinstance(start, Integral)
        and start >= 0
        and row[start : start + len(text)] == text
        for text, start in zip(texts, starts, strict=True)
    )


def as_numbers(task: Task, labels: Labels) -> Labels:
    """Labels that were checked, as the models' losses take them: 1.0 and True are classes, too."""
    if task.kind == "span":
        return labels
    one = int if task.kind in ("classification", "tokens") else float
    several = [list(map(one, row if isinstance(row, (list, tuple)) else [row])) for row in labels]
    single = task.kind == "classification" or (task.kind == "regression" and task.labels == 1)
    return [row[0] for row in several] if single else several


def class_names(names: Iterable[str] | None) -> tuple[str, ...] | None:
    """Names of classes; None without any."""
    return tuple(map(str, names or ())) or None


def output_names(config: Any) -> tuple[str, ...] | None:
    """What a model's configuration calls its outputs, in their order, as `class_names` has it."""
    return class_names(config.id2label[key] for key in sorted(config.id2label, key=int))


def matched(names: tuple[str, ...] | None, config: Any, what: str) -> list[int] | None:
    """The model's output for each of the data's classes, by name; None where one names none.

    ValueError where both name theirs and the names differ by more than case and signs. Numbers, and
    "LABEL_0" and the like, which transformers gives by itself, are names among their like only.
    """
    own = output_names(config)
    if names is None or own is None:
        return None
    theirs, ours = names, own
    bare = [all(map(kind.fullmatch, some)) for kind in (NUMBER, GENERIC) for some in (names, own)]
    if any(bare) and sorted(names) != sorted(own):
        return None
    if sorted(names) != sorted(own):
        theirs, ours = (
            [re.sub(r"[\W_]+", "", name.casefold()) for name in some] for some in (names, own)
        )
    if sorted(theirs) != sorted(ours) or len({*ours}) < len(ours):
        raise ValueError(
            f"The classes of {what} are {', '.join(names)}, and the model's are {', '.join(own)}, "
            "so they cannot be matched; name them alike in the model's config.id2label."
        )
    return [ours.index(name) for name in theirs]


def in_order(labels: Labels, order: list[int] | None, kind: str = "") -> Labels:
    """Classes as numbers of the model's outputs; lists of them (of tokens) likewise.

    Of the kind "multilabel" each says yes or no to every class, and these change places.
    """
    if order is None:
        return labels
    if kind == "multilabel":
        return [[row[order.index(place)] for place in range(len(order))] for row in labels]

    def place(label: Any) -> Any:
        if isinstance(label, (list, tuple)):
            return [place(one) for one in label]
        return label if label == UNLABELLED else order[int(label)]

    return [place(label) for label in labels]
