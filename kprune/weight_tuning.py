"""Knowledge-preserving weight-tuning (KPWT): refit the output projection by least squares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.encoders import Encoder, Sublayer
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
        held_out: the same sums over every tenth sequence alone, on which the ridge is chosen; None
            for a fixed ridge.
        sequences: number of sequences so far.
    """

    gram: Tensor
    moment: Tensor
    target: Tensor
    tokens: int = 0
    held_out: "NormalEquations | None" = None
    sequences: int = 0

    @classmethod
    def zeros(
        cls,
        features: int,
        d: int,
        device: torch.device | str = "cpu",
        hold_out: bool = False,
    ) -> "NormalEquations":
        """Empty sums for `features` columns of P and `d` columns of Y."""
        empty = {"dtype": torch.float64, "device": device}
        shapes = (features, features), (features, d), ()
        sums = (torch.zeros(shape, **empty) for shape in shapes)
        return cls(*sums, held_out=cls.zeros(features, d, device) if hold_out else None)

    def add(self, features: Tensor, target: Tensor, tokens: int | None = None) -> None:
        """Add the rows of one batch: P [rows, features] and Y [rows, d].

        `tokens` says how many of the rows are real, where the others are zero.
        """
        # Half precision would overflow or round the sums over a batch.
        features, target = (
            rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in (features, target)
        )
        self.gram += features.T @ features
        self.moment += features.T @ target
        self.target += torch.linalg.vector_norm(target).double().square()
        self.tokens += len(target) if tokens is None else tokens

    def add_batch(self, features: Tensor, target: Tensor, batch: Batch) -> None:
        """Add the real tokens of a batch: P [batch, length, features] and Y [batch, length, d].

        A length of 1 stands for the first token of each sequence.
        """
        if batch.mask is not None:  # without an index of the real rows, whose size a GPU must tell
            real = batch.mask[:, : features.shape[1], None]
            features, target = features * real, target * real
        whole = features.shape[1] == batch.inputs["input_ids"].shape[1]
        count = batch.tokens if whole else features.shape[0] * features.shape[1]
        self.add(features.flatten(0, 1), target.flatten(0, 1), count)
        if self.held_out is not None:
            some = slice(-self.sequences % HELD_OUT, None, HELD_OUT)
            if len(features[some]):
                self.held_out.add(features[some].flatten(0, 1), target[some].flatten(0, 1))
        self.sequences += len(features)

    def without(self, part: "NormalEquations") -> "NormalEquations":
        """These sums less those of a part."""
        return NormalEquations(
            self.gram - part.gram, self.moment - part.moment, self.target - part.target
        )

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
    bias: bool = False,
    hold_out: bool = False,
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
        bias: refit b, too: it is not taken off Y, and P ends in a column of ones.
        hold_out: keep the sums of every tenth sequence apart as well.
    """
    output = target.output
    found = NormalEquations.zeros(
        output.in_features + bias, output.out_features, output.weight.device, hold_out
    )
    for number, (x_student, batch) in enumerate(zip(student_hidden, parts, strict=True)):
        x_teacher = teacher_hidden[number]
        full = x_teacher + source.output(source.features(x_teacher, batch.mask))
        teacher_hidden[number] = source.norm(full)
        wanted = full - x_student
        features = target.features(x_student, batch.mask)
        if bias:
            features = F.pad(features, (0, 1), value=1.0)
        else:
            wanted -= output.bias
        if first_token:
            features, wanted = features[:, :1], wanted[:, :1]
        found.add_batch(features, wanted, batch)
    return found


@torch.no_grad()
def gather_inputs(
    source: Sublayer,
    target: Sublayer,
    keep: Tensor,
    teacher_hidden: Sequence[Tensor],
    student_hidden: Sequence[Tensor],
    parts: Sequence[Batch],
    hold_out: bool = False,
) -> NormalEquations:
    """The least-squares problem that gives a student's units the inputs that the teacher's get.

    Y = X_T·Wᵀ + b of the teacher's input projections at the surviving units (queries, keys and
    values of heads side by side), P = [X_S, 1]: one matrix PᵀP of size d + 1 serves them all.

    Args:
        source, target, teacher_hidden, student_hidden, parts, hold_out: as in `gather`; the
            teacher stays where it is.
        keep: True at the features that survive in the student, bool [features of the teacher].
    """
    weight = torch.cat([linear.weight[keep] for linear in source.inputs])
    bias = torch.cat([linear.bias[keep] for linear in source.inputs])
    found = NormalEquations.zeros(weight.shape[1] + 1, len(weight), weight.device, hold_out)
    for x_teacher, x_student, batch in zip(teacher_hidden, student_hidden, parts, strict=True):
        wanted = F.linear(x_teacher.to(weight.dtype), weight, bias)
        found.add_batch(F.pad(x_student, (0, 1), value=1.0), wanted, batch)
    return found


@torch.no_grad()
def gather_head(
    encoder: Encoder,
    teacher_logits: Sequence[Tensor],
    student_hidden: Sequence[Tensor],
    parts: Sequence[Batch],
    hold_out: bool = False,
) -> NormalEquations:
    """The least-squares problem that matches a student's logits to its teacher's.

    Args:
        encoder: the student; P is what its last projection is given, and ones.
        teacher_logits: the teacher's logits, one [batch, labels] or [batch, length, 2] per batch.
        student_hidden: hidden states at the student's head, one per batch.
        parts, hold_out: as in `gather`.
    """
    last = encoder.last
    found = NormalEquations.zeros(
        last.in_features + 1, last.out_features, last.weight.device, hold_out
    )
    for x, logits, batch in zip(student_hidden, teacher_logits, parts, strict=True):
        features = F.pad(encoder.readout(x), (0, 1), value=1.0)
        if logits.dim() == 2:  # one row per sequence
            features, logits = features[:, None], logits[:, None]
        found.add_batch(features, logits, batch)
    return found


@dataclass(frozen=True)
class Tuning:
    """What tuning did to one sublayer.

    `before` and `after` are relative squared output errors on the sample, ‖Y − P·W‖² / ‖Y‖².
    `ridge` is the regularisation used, relative to PᵀP's diagonal. `status` is "tuned",
    "stiffened" (the system was ill-conditioned and took more than the usual ridge), "untuned" (no
    solution was finite and better, so the weights stay), "kept" (held-out sequences are fitted best
    by the weights as they are) or "empty" (no feature is left to fit with).
    """

    before: float
    after: float
    ridge: float
    status: Literal["tuned", "stiffened", "untuned", "kept", "empty"]

    @property
    def trouble(self) -> str:
        """What to tell the reader where the system was ill-conditioned; else empty."""
        if self.status not in ("stiffened", "untuned"):
            return ""
        return (
            f"the least-squares system was ill-conditioned; {self.status} (ridge {self.ridge:g}): "
            "the sample hardly tells some features apart, and a larger one may"
        )


RIDGE = 1e-7
STIFFEST = 1.0
HELD_OUT = 10  # every tenth sequence, where the ridge is chosen


def choose_ridge(equations: NormalEquations, weight: Tensor) -> float:
    """The ridge with the least error on the held-out sequences, when fitted on the others.

    Where the sample holds repeats, or overlapping windows of one text, held-out sequences are not
    all unseen, and the ridge comes out too small.

    Args:
        equations: the sums, `held_out` among them.
        weight: the projection before tuning, [features, d].

    Returns:
        A power of ten from `RIDGE` to `STIFFEST`, or infinity where the weights do best as they
        are; `RIDGE` where nothing is held out.
    """
    if equations.held_out is None or not equations.held_out.target > 0:
        return RIDGE
    others = equations.without(equations.held_out)
    candidates = [RIDGE * 10**k for k in range(round(math.log10(STIFFEST / RIDGE)) + 1)]
    errors = {math.inf: equations.held_out.error(weight)}
    for ridge in candidates:
        tuned = solve(others, weight.double(), ridge)
        errors[ridge] = math.inf if tuned is None else equations.held_out.error(tuned)
    return min([*candidates, math.inf], key=errors.__getitem__)


def solve(equations: NormalEquations, start: Tensor, ridge: float) -> Tensor | None:
    """Weights near `start` that fit, with a ridge relative to PᵀP's diagonal; None on failure.

    Args:
        equations: the sums.
        start: the weights to stay near, float64 [features, d].
        ridge: ε; the larger, the nearer.
    """
    diagonal = equations.gram.diagonal()
    scale = diagonal.clamp(min=1e-9 * diagonal.mean())  # a dead feature has a zero there
    rest = equations.moment - equations.gram @ start
    if not (torch.isfinite(rest).all() and scale.min() > 0):
        return None
    factor, failed = torch.linalg.cholesky_ex(equations.gram + (ridge * scale).diag())
    return None if failed else start + torch.cholesky_solve(rest, factor)


def kpwt(equations: NormalEquations, weight: Tensor) -> tuple[Tensor, Tuning]:
    """The least-squares output projection W* = argmin ‖Y − P·W‖²_F (equations 10 and 11).

    Solves for the *change* of the weights with a small ridge, min ‖Y − P(W + Δ)‖² + ε‖D^½·Δ‖² with
    D the diagonal of PᵀP (so that no feature's scale matters), by Cholesky factorisation in
    float64: what the sample says nothing about stays as it was, and the result is no worse than
    the weights it starts from. The ridge is `RIDGE`, or what suits held-out sequences best where
    the sums keep some apart. An ill-conditioned system gets a tenfold larger one until
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
    ridge = chosen = choose_ridge(equations, weight)
    if ridge == math.inf:
        return weight, Tuning(before, before, ridge, "kept")
    while ridge <= STIFFEST:
        if (tuned := solve(equations, start, ridge)) is not None:
            tuned = tuned.to(weight.dtype)
            after = equations.error(tuned)
            if torch.isfinite(tuned).all() and after <= before:
                status = "tuned" if ridge == chosen else "stiffened"
                return tuned, Tuning(before, after, ridge, status)
        ridge *= 10
    return weight, Tuning(before, before, 0.0, "untuned")
