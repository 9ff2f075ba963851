"""What a method's parts can be wrapped in: one search, rounded numbers, scores kept longer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.state import State


@dataclass
class Once:
    """The first sublayer's search decides for all (an ablation: without sublayer-wise search)."""

    search: Callable[..., tuple[list[Tensor], float]]
    found: tuple[list[Tensor], float] | None = None

    def __call__(self, state, t, importance, budget) -> tuple[list[Tensor], float]:
        if t == 0:
            self.found = self.search(state, t, importance, budget)
        return self.found[0][t:], self.found[1]


@dataclass
class Rounded:
    """A search that rounds numbers of neurons to a multiple; the layers above make up for it."""

    search: Callable[..., tuple[list[Tensor], float]]
    multiple: int

    def __call__(self, state, t, importance, budget) -> tuple[list[Tensor], float]:
        (keep, *rest), threshold = self.search(state, t, importance, budget)
        if (target := state.student.sublayers[t]).kind == "FFN":
            settled = isinstance(self.search, Once)
            most = int(keep.sum()) if settled else budget.affords(target)
            keep = to_multiple(keep, importance[0], self.multiple, most)
        return [keep, *rest], threshold


def to_multiple(keep: Tensor, scores: Tensor, multiple: int, most: int) -> Tensor:
    """The mask with the nearest number of units that is a multiple, the best-scored ones.

    Matrix units work in tiles. A mask that keeps every unit, or none, stays; `most` are affordable.
    """
    units, wanted = len(keep), int(keep.sum())
    if multiple == 1 or wanted in (0, units):
        return keep
    count = round(wanted / multiple) * multiple
    if count > min(most, units):
        count = min(wanted, most) // multiple * multiple
    found = torch.zeros_like(keep)
    found[scores.topk(count).indices] = True
    return found


class Reused:
    """Scores that are kept until the student has moved: measuring is most of K-prune's time.

    How far it has moved is the relative output errors that tuning leaves (`Tuning.after`), summed
    over the sublayers pruned since; an `until` of infinity measures twice. At `always` they are
    measured in any case: at the second sublayer too, since the teacher's own gradient is zero and
    not worth keeping.
    """

    def __init__(self, scores: Callable, until: float, always: Sequence[int] = (0, 1)):
        self.scores, self.until, self.always = scores, until, always
        self.kept: list[Tensor] = []
        self.moved = 0.0

    def __call__(self, state: State, t: int) -> list[Tensor]:
        if t:
            self.moved += sum(tuned.after for tuned in state.steps[-1].tuned[-1:])
            self.kept = self.kept[1:]
        if t in self.always or self.moved > self.until:
            self.kept, self.moved = self.scores(state, t), 0.0
        return self.kept
