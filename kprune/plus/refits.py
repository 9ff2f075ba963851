"""What K-prune+ refits besides the output projection: input projections, and the head."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.encoders import Encoder
from kprune.engine.hooks import gives
from kprune.state import State
from kprune.surgery import feature_mask
from kprune.weight_tuning import Tuning, gather, padded, refit


@dataclass(frozen=True)
class TuneInputs:
    """Refit a pruned sublayer's input projections, so that its units see what the teacher's see.

    What the sublayers below have lost is made up for as far as it is linear, by the least squares
    of KPWT: one matrix PᵀP of size d + 1 serves queries, keys and values. At the first sublayer the
    student's inputs still are the teacher's, and there is nothing to do.
    """

    hold_out: bool = False

    @torch.no_grad()
    def __call__(self, state: State, t: int, keep: Tensor) -> Tuning | None:
        target, source = state.student.sublayers[t], state.teacher.sublayers[t]
        # DeBERTa's queries and keys project its table of distances, too, which nothing here holds.
        shared = target.kind == "MHA" and getattr(
            state.student.model.config, "share_att_key", False
        )
        if t == 0 or not target.units or shared:
            return None
        survivors = feature_mask(source, keep.to(state.student.device)).repeat(source.blocks)
        weight = torch.cat([linear.weight[survivors] for linear in source.inputs])
        ones = source.inputs[0].bias is not None
        bias = torch.cat([linear.bias[survivors] for linear in source.inputs]) if ones else None

        def rows(teacher: Encoder, student: Encoder, number: int) -> tuple[Tensor, Tensor]:
            batch = state.batches[number]
            both = (teacher, state.teacher_hidden), (student, state.student_hidden)
            x_teacher, x_student = (
                encoder.reaching(encoder.sublayers[t].inputs[0], batch, hidden[number], t)
                for encoder, hidden in both
            )
            return padded(x_student, ones), F.linear(x_teacher.to(weight.dtype), weight, bias)

        # What heads are given weighs what it did where it came from.
        sizes, place = (weight.shape[1] + ones, len(weight)), t if t % 2 else t - 1
        equations = gather(state, rows, *sizes, self.hold_out, place=place)
        return refit(target.inputs, equations, ones)


@dataclass(frozen=True)
class TuneHead:
    """Refit the last projection of a pruned model's head, if any, to the teacher's outputs."""

    hold_out: bool = False

    @torch.no_grad()
    def __call__(self, state: State) -> Tuning | None:
        last, top = state.student.last, len(state.student.sublayers)  # where both are
        if last is None:
            return None
        ones, seen = last.bias is not None, []
        with gives(last, seen.append):
            own = state.student.run(state.batches[0], state.student_hidden[0], top)
        if not (seen and seen[0].equal(own)):
            state.notes.append("the head does more after its last projection, so it is not refit")
            return None

        def rows(teacher: Encoder, student: Encoder, number: int) -> tuple[Tensor, Tensor]:
            batch, hidden = state.batches[number], state.student_hidden[number]
            wanted = teacher.run(batch, state.teacher_hidden[number], top)
            P = student.reaching(student.last, batch, hidden, top)
            if wanted.dim() == 2:  # one row per sequence
                P, wanted = P[:, None], wanted[:, None]
            return padded(P, ones), wanted

        features, outputs = last.in_features + ones, last.out_features
        return refit([last], gather(state, rows, features, outputs, self.hold_out), ones)
