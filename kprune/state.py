"""Where pruning stands: teacher, student, and the hidden states of both in the sample."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import TypeVar

import torch
from torch import Tensor

from kprune.data.batching import Batch, on_device
from kprune.data.tokens import Example
from kprune.encoders import Encoder, name_of
from kprune.engine import least_squares
from kprune.engine.memory import give_back_memory
from kprune.engine.progress import Clock
from kprune.engine.states import HiddenStates
from kprune.engine.workers import side_by_side
from kprune.sampling import Sample

Result = TypeVar("Result")
PASSING = 1  # work of one pass through one sublayer, for the progress bar


@dataclass(frozen=True)
class Pruned:
    """What happened at one sublayer."""

    t: int  # its number, from 0 at the embedding
    keep: Tensor  # True at the units that are left of it, bool [units]
    threshold: float | None  # ν of the mask search, where one was made for it
    # Of the units of this sublayer and of those above, [units] each.
    importance: list[Tensor] = field(repr=False, default_factory=list)
    tuned: list = field(default_factory=list)  # what each tuner did, a `Tuning` or None
    state: State | None = field(repr=False, default=None)  # as it is now, one for all steps

    @property
    def name(self) -> str:
        """What its sublayer is called."""
        return name_of(self.t)


class State:
    """What the loop holds: teacher, student, which loses weights of its own, and where both are.

    Hidden states are kept at the input of the target only: no lower sublayer runs twice.
    `dtype` is of the products in passes that only rank units, and in the teacher's; None for the
    model's own. `copies` are sequences beside the sample's own, made of its first ones in turn.
    """

    def __init__(
        self,
        teacher: Encoder,
        student: Encoder,
        sample: Sample,
        dtype: torch.dtype | None = None,
        copies: Sequence[Example] = (),
    ):
        self.teacher, self.student, self.sample, self.dtype = teacher, student, sample, dtype
        self.kind = student.kind  # what the model predicts
        self.outputs: list[Tensor] = []  # the teacher's, once the first sublayer was measured
        # How much tokens count in tuning: of a sublayer's number and a batch, [batch, length].
        self.weights: Callable[[int, Batch], Tensor] | None = None
        # Of scores that are measured once, by what measures: all of them, and such weights.
        self.rankings: dict[Hashable, tuple[list[Tensor], Callable[[int, Batch], Tensor]]] = {}
        self.steps, self.finished = [], []  # what happened so far, and what was done at the end
        self.clock, self.notes = Clock(student.device), []  # what there is to say afterwards
        examples = [*sample.examples, *copies]
        self.seen = replace(sample, examples=examples, labels=None) if copies else sample
        self.batches = on_device(self.seen, student.device)
        self._teachers = [teacher.copy(dtype)]  # those that run: one for each worker
        self.place = 0  # number of the sublayer at whose input the hidden states are
        self.teacher_moved = False  # on to the next sublayer already, while it was looked at
        d, own = student.model.config.hidden_size, student.model.dtype
        self.teacher_hidden, self.student_hidden = (  # [batch, length, d] for each batch
            HiddenStates(self.batches, d, student.device, own, torch.float16 if dtype else None)
            for _ in range(2)
        )
        embedded = self.each(lambda encoders, n: encoders[0].run(self.batches[n], stop=0))
        for number, hidden in enumerate(embedded):
            self.teacher_hidden[number] = self.student_hidden[number] = hidden
        self.student_hidden.check_range()
        self.kind.first_only = self._first_only()

    def _first_only(self) -> bool:
        """Whether what other tokens hold than the first changes nothing in the head's outputs."""
        number = max(
            range(len(self.batches)), key=lambda n: self.batches[n].inputs["input_ids"].shape[1]
        )
        hidden, top = self.student_hidden[number], len(self.student.sublayers)
        other = torch.cat([hidden[:, :1], torch.zeros_like(hidden[:, 1:])], 1)
        # By a copy: at its first run a model finds its layers, to tell of their outputs later.
        found = (self._teachers[0].run(self.batches[number], h, top) for h in (hidden, other))
        return torch.equal(*found)

    @cached_property
    def held_out(self) -> list[Tensor]:
        """Places in each batch of every tenth sequence of the sample, and of its copies."""
        own = len(self.sample.examples)
        return [
            (batch.index % own % least_squares.HELD_OUT == 0).nonzero().flatten()
            for batch in self.batches
        ]

    def teach_by(self, teacher: Encoder) -> None:
        """Take another model for the teacher from here on."""
        self.teacher, self._teachers = teacher, [teacher.copy()]

    def each(self, work: Callable[[tuple[Encoder, Encoder], int], Result]) -> Iterator[Result]:
        """Run (teacher, student) over the numbers of the batches; results come in their order."""

        def copies() -> Iterator[tuple[Encoder, Encoder]]:
            for worker in count():
                if worker == len(self._teachers):
                    self._teachers.append(self._teachers[0].copy())
                yield self._teachers[worker], self.student.copy()

        with side_by_side(self.student.device, copies().__next__) as over:
            for found in over(work, range(len(self.batches))):
                yield found
                self.clock.tick(PASSING)

    def advance(self, t: int) -> None:
        """Go on from sublayer `t` to the next; ValueError where the states are at another one."""
        self.check_place(t)
        behind = [self.student_hidden, self.teacher_hidden][: 1 if self.teacher_moved else 2]

        def on(encoders: tuple[Encoder, Encoder], number: int) -> list[Tensor]:
            return [
                encoder.run(self.batches[number], hidden[number], t, t + 1)
                for encoder, hidden in zip(encoders[::-1], behind, strict=False)
            ]

        for number, found in enumerate(self.each(on)):
            for hidden, ahead in zip(behind, found, strict=True):
                hidden[number] = ahead
        for hidden in (self.student_hidden, self.teacher_hidden):
            hidden.check_range()
        self.place, self.teacher_moved = t + 1, False
        give_back_memory()

    def check_place(self, t: int) -> None:
        """Raise ValueError unless the hidden states are at the input of sublayer `t`."""
        if t != self.place:
            raise ValueError(
                f"The hidden states are at the input of sublayer {self.place}, not {t}; advance "
                "through those between."
            )
