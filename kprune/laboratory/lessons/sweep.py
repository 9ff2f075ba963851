"""The steps of a run as they come: a line of a table for each, and in the end a drawing."""

from __future__ import annotations

from dataclasses import dataclass

from kprune.encoders import name_of
from kprune.laboratory.lessons import animation
from kprune.state import Pruned

COLUMNS = ("sublayer", "units kept", "ν", "error: cut → tuned", "budget left")


def line(name: str, kept: str, nu: str, error: str, left: str, score: str = "") -> str:
    """A line of the table."""
    return f"{name:16}{kept:>15}{nu:>10}{error:>20}{left:>13}{score:>11}".rstrip()


@dataclass(frozen=True)
class Frame:
    """What became of one sublayer, and how the student stood afterwards; as text, a line."""

    t: int  # its number, from 0
    keep: list[bool]  # of its units
    threshold: float | None  # ν, where one was searched for
    before: float | None  # relative output error of what was cut; None where nothing is tuned
    after: float | None  # and once tuned
    spent: float  # FLOPs of its survivors, as a share of the budget
    left: float  # of the budget, for the sublayers above
    score: float | None = None  # of the student, whose sublayers above are whole yet

    @property
    def kept(self) -> str:
        """How many of its units stay."""
        return f"{sum(self.keep):,} of {len(self.keep):,}"

    def __str__(self) -> str:
        nu = "" if self.threshold is None else f"{self.threshold:.1e}"
        error = "" if self.before is None else f"{self.before:.1%} → {self.after:.1%}"
        score = "" if self.score is None else f"{self.score:.3f}"
        return line(name_of(self.t), self.kept, nu, error, f"{self.left:.1%}", score)


class Sweep:
    """The steps of a run, taken in one by one; shown in a notebook, it moves.

    `budget` is the FLOPs that all units may cost; `start` is the teacher's score where the student
    is scored after each step, and `metric` what that is called.
    """

    def __init__(self, budget: float, start: float | None = None, metric: str = "score"):
        self.budget, self.start, self.metric = budget, start, metric
        self.frames: list[Frame] = []

    @property
    def header(self) -> str:
        """What stands over the lines."""
        return line(*COLUMNS, "" if self.start is None else self.metric)

    def add(self, step: Pruned, score: float | None = None) -> Frame:
        """Take in a step."""
        target, tuned = step.state.student.sublayers[step.t], (step.tuned or [None])[-1]
        spent = target.units * target.unit_flops(step.state.sample.length) / self.budget
        left = (self.frames[-1].left if self.frames else 1.0) - spent
        errors = (tuned.before, tuned.after) if tuned else (None, None)
        keep = step.keep.tolist()
        self.frames.append(Frame(step.t, keep, step.threshold, *errors, spent, left, score))
        return self.frames[-1]

    def __repr__(self) -> str:
        """What the drawing shows, in words."""
        heads, neurons = ([sum(f.keep) for f in self.frames if f.t % 2 == kind] for kind in (0, 1))
        return (
            "Sublayer by sublayer, from the embedding upwards, units vanish while the budget is "
            f"spent. From layer 1 up, {heads} heads and {neurons} neurons stay."
        )

    def _repr_html_(self) -> str:
        return animation.svg(self.frames, repr(self), self.start, self.metric)
