"""Knowledge-preserving weight-tuning (KPWT): refit the output projection by least squares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kprune.encoders import Sublayer
from kprune.sampling import Batch
from kprune.states import HiddenStates


@dataclass
class NormalEquations:
    """The streamed sums of min_W ‖Y − P·W‖²_F: nothing here grows with the number of tokens.

    Kept in float64, so that adding many batches loses nothing; each batch's product is computed in
    the precision of its features.

    Attributes:
        gram: PᵀP, [features, features].
        moment: PᵀY, [features, d].
        target: ‖Y‖²_F, a scalar.
        tokens: number of rows so far.
    """

    gram: Tensor
    moment: Tensor
    target: Tensor
    tokens: int = 0

    @classmethod
    def zeros(cls, features: int, d: int, device: torch.device | str = "cpu") -> "NormalEquations":
        """Empty sums for `features` columns of P and `d` columns of Y."""
        empty = {"dtype": torch.float64, "device": device}
        shapes = (features, features), (features, d), ()
        return cls(*(torch.zeros(shape, **empty) for shape in shapes))

    def add(self, features: Tensor, target: Tensor, tokens: int | None = None) -> None:
        """Add the rows of one batch: P [rows, features] and Y [rows, d].

        `tokens` says how many of the rows are real, where the others are zero.
        """
        self.gram += features.T @ features
        self.moment += features.T @ target
        self.target += torch.linalg.vector_norm(target).double().square()
        self.tokens += len(target) if tokens is None else tokens

    def error(self, weight: Tensor) -> float:
        """‖Y − P·W‖²_F / ‖Y‖²_F for W [features, d], from the sums alone; at least 0."""
        weight = weight.double()
        target = self.target.item()
        squared = target + (weight * (self.gram @ weight - 2 * self.moment)).sum().item()
        if math.isnan(squared):
            return math.nan
        return max(squared, 0.0) / target if target else 0.0


@torch.no_grad()
def gather(
    source: Sublayer,
    target: Sublayer,
    teacher_hidden: HiddenStates | list[Tensor],
    student_hidden: Sequence[Tensor],
    parts: Sequence[Batch],
    first_token: bool = False,
) -> NormalEquations:
    """The least-squares problem that matches a student's sublayer to its teacher's at this place.

    Y = X_T + Sub_T(X_T) − X_S − b over real tokens, P the features of the student's units; the bias
    b stays as it is (equations 10 and 11 of the paper). The teacher moves on to the next sublayer
    in the same pass, so that it runs once.

    Args:
        source: the teacher's sublayer.
        target: the student's.
        teacher_hidden: the teacher's hidden states at the sublayer's input, one per batch; replaced
            by those at its output.
        student_hidden: the student's.
        parts: the batches.
        first_token: count the first token ([CLS]) of each sequence only.
    """
    output = target.output
    found = NormalEquations.zeros(output.in_features, output.out_features, output.weight.device)
    for number, (x_student, batch) in enumerate(zip(student_hidden, parts, strict=True)):
        x_teacher = teacher_hidden[number]
        full = x_teacher + source.output(source.features(x_teacher, batch.mask))
        teacher_hidden[number] = source.norm(full)
        wanted = full - x_student - output.bias
        features = target.features(x_student, batch.mask)
        if first_token:
            found.add(features[:, 0], wanted[:, 0])
            continue
        if batch.mask is not None:  # without an index of the real rows, whose size a GPU must tell
            features, wanted = (rows * batch.mask[..., None] for rows in (features, wanted))
        found.add(features.flatten(0, 1), wanted.flatten(0, 1), batch.tokens)
    return found


@dataclass(frozen=True)
class Tuning:
    """What tuning did to one sublayer.

    `before` and `after` are relative squared output errors on the sample, ‖Y − P·W‖² / ‖Y‖².
    `ridge` is the regularisation used, relative to PᵀP's diagonal. `status` is "tuned",
    "stiffened" (the system was ill-conditioned and took more than the usual ridge), "untuned" (no
    solution was finite and better, so the weights stay) or "empty" (no unit survives).
    """

    before: float
    after: float
    ridge: float
    status: Literal["tuned", "stiffened", "untuned", "empty"]


RIDGE = 1e-7
STIFFEST = 1.0


def kpwt(equations: NormalEquations, weight: Tensor) -> tuple[Tensor, Tuning]:
    """The least-squares output projection W* = argmin ‖Y − P·W‖²_F (equations 10 and 11).

    Solves for the *change* of the weights with a small ridge, min ‖Y − P(W + Δ)‖² + ε‖D^½·Δ‖² with
    D the diagonal of PᵀP (so that no feature's scale matters), by Cholesky factorisation in
    float64: what the sample says nothing about stays as it was, and the result is no worse than
    the weights it starts from. An ill-conditioned system gets a tenfold larger ridge until
    the factorisation succeeds and the error has not grown.

    Args:
        equations: PᵀP and PᵀY of the surviving features, streamed over the sample.
        weight: the projection before tuning, [features, d].

    Returns:
        The tuned projection, [features, d] in the dtype of `weight`, and what was done.
    """
    features = len(weight)
    before = equations.error(weight)
    if features == 0:
        return weight, Tuning(before, before, 0.0, "empty")
    start = weight.double()
    rest = equations.moment - equations.gram @ start
    diagonal = equations.gram.diagonal()
    scale = diagonal.clamp(min=1e-9 * diagonal.mean())  # a dead feature has a zero there
    ridge = RIDGE
    while torch.isfinite(rest).all() and scale.min() > 0 and ridge <= STIFFEST:
        factor, failed = torch.linalg.cholesky_ex(equations.gram + (ridge * scale).diag())
        if not failed:
            tuned = (start + torch.cholesky_solve(rest, factor)).to(weight.dtype)
            after = equations.error(tuned)
            if torch.isfinite(tuned).all() and after <= before:
                status = "tuned" if ridge == RIDGE else "stiffened"
                return tuned, Tuning(before, after, ridge, status)
        ridge *= 10
    return weight, Tuning(before, before, 0.0, "untuned")
