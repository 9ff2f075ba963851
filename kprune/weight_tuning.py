"""Knowledge-preserving weight-tuning (KPWT): refit the output projection by least squares."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kprune.encoders import Encoder
from kprune.engine import least_squares
from kprune.engine.least_squares import NormalEquations, Products, choose_ridge, products, solve
from kprune.state import State
from kprune.surgery import set_weight

Rows = Callable[[Encoder, Encoder, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tuning:
    """What tuning did to one sublayer."""

    before: float  # relative squared output error on the sample, ‖Y − P·W‖² / ‖Y‖²
    after: float
    ridge: float  # relative to PᵀP's diagonal
    # "stiffened": the system was ill-conditioned and took more than the usual ridge; "untuned": no
    # solution was finite and better, so the weights stay; "kept": held-out sequences are fitted
    # best by the weights as they are; "empty": no feature is left to fit with.
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


def kpwt(equations: NormalEquations, weight: Tensor) -> tuple[Tensor, Tuning]:
    """The least-squares output projection W* = argmin ‖Y − P·W‖²_F (equations 10 and 11).

    Solves for the *change* of the weights [features, d] with a small ridge, min ‖Y − P(W + Δ)‖² +
    ε‖D^½·Δ‖² with D the diagonal of PᵀP (so that no feature's scale matters), by Cholesky
    factorisation in float64: what the sample says nothing about stays as it was, and the result is
    no worse than the weights it starts from. The ridge is `RIDGE`, or what suits held-out sequences
    best where the sums keep some apart. An ill-conditioned system gets a tenfold larger one until
    the factorisation succeeds and the error has not grown.
    """
    features = len(weight)
    before = equations.error(weight)
    if features == 0:
        return weight, Tuning(before, before, 0.0, "empty")
    start = weight.double()
    ridge = chosen = choose_ridge(equations, weight)
    if ridge == math.inf:
        return weight, Tuning(before, before, ridge, "kept")
    while ridge <= least_squares.STIFFEST:
        if (tuned := solve(equations, start, ridge)) is not None:
            tuned = tuned.to(weight.dtype)
            after = equations.error(tuned)
            if torch.isfinite(tuned).all() and after <= before:
                status = "tuned" if ridge == chosen else "stiffened"
                return tuned, Tuning(before, after, ridge, status)
        ridge *= 10
    return weight, Tuning(before, before, 0.0, "untuned")


@torch.no_grad()
def gather(
    state: State,
    rows: Rows,
    features: int,
    outputs: int,
    hold_out: bool = False,
    done: Callable[[int], None] = lambda number: None,
    place: int | None = None,
) -> NormalEquations:
    """The least-squares problem whose rows come from teacher and student, batch by batch.

    `rows` gives, of (teacher, student, number of the batch), P [batch, length, features] and Y
    [batch, length, outputs]; a length of 1 stands for one row a sequence. `hold_out` keeps the sums
    of every tenth sequence apart as well. `done` is called after each batch. Tokens weigh what the
    state, if it weighs any, says of the sublayer `place`.
    """
    found = NormalEquations.zeros(features, outputs, state.student.device, hold_out)

    places = state.held_out if hold_out else []  # found before the batches, not among them

    def one(encoders: tuple[Encoder, Encoder], number: int) -> tuple[Products, Products | None]:
        P, Y = rows(*encoders, number)
        batch, held = state.batches[number], None
        if batch.mask is not None:  # without an index of the real rows, whose size a GPU must tell
            real = batch.mask[:, : P.shape[1], None]
            P, Y = P * real, Y * real
        if state.weights and place is not None:
            root = state.weights(place, batch)[:, : P.shape[1], None].sqrt()
            P, Y = P * root, Y * root
        if hold_out:
            some = places[number]
            held = products(P[some].flatten(0, 1), Y[some].flatten(0, 1))
        return products(P.flatten(0, 1), Y.flatten(0, 1)), held

    for number, (all_rows, held) in enumerate(state.each(one)):
        found.add_products(all_rows)
        done(number)
        if hold_out:
            found.held_out.add_products(held)
    return found


def gather_output(
    state: State,
    t: int,
    bias: bool = False,
    hold_out: bool = False,
    first_only: bool = False,
    move: bool = False,
) -> NormalEquations:
    """The least-squares problem that matches sublayer `t` of the student to the teacher's.

    Y = X_T + Sub_T(X_T) − X_S − b over real tokens, P the features of the student's units; the bias
    b stays as it is (equations 10 and 11 of the paper). With `move` the teacher goes on to the next
    sublayer in the same pass.
    """
    state.check_place(t)
    output = state.student.sublayers[t].output
    ahead: dict[int, Tensor] = {}  # the teacher's hidden states, until they are stored

    def done(number: int) -> None:
        if move:
            state.teacher_hidden[number] = ahead.pop(number)

    def rows(teacher: Encoder, student: Encoder, number: int) -> tuple[Tensor, Tensor]:
        on = partial(ahead.__setitem__, number)
        batch = state.batches[number]
        _, wanted = teacher.passing(batch, state.teacher_hidden[number], t, on if move else None)
        # With an output projection of nothing but its bias, the student's total is X_S + b.
        student.sublayers[t].silence()
        P, total = student.passing(batch, state.student_hidden[number], t)
        Y = wanted - total
        if bias:
            P, Y = padded(P, True), Y + output.bias
        return (P[:, :1], Y[:, :1]) if first_only else (P, Y)

    sizes = output.in_features + bias, output.out_features
    found = gather(state, rows, *sizes, hold_out, done, t)
    state.teacher_moved = move
    return found


@dataclass(frozen=True)
class TuneOutput:
    """KPWT of a pruned sublayer: match the uncompressed model's output at this place.

    With `bias` that of the output projection is refit, too, where it has one; with `hold_out` the
    ridge is chosen on held-out sequences.
    """

    bias: bool = False
    hold_out: bool = False

    @torch.no_grad()
    def __call__(self, state: State, t: int, keep: Tensor) -> Tuning:
        output = state.student.sublayers[t].output
        bias = self.bias and output.bias is not None
        return refit([output], gather_output(state, t, bias, self.hold_out, move=True), bias)


def refit(linears: Sequence[nn.Linear], equations: NormalEquations, biases: bool) -> Tuning:
    """KPWT of projections that share their input (with `biases`, P ends in ones): put in place."""
    parts = [[linear.weight.T, *([linear.bias[None]] if biases else [])] for linear in linears]
    tuned, result = kpwt(equations, torch.cat([torch.cat(part) for part in parts], 1))
    for linear, part in zip(linears, tuned.chunk(len(linears), 1), strict=True):
        weight, bias = (part[:-1], part[-1]) if biases else (part, linear.bias)
        set_weight(linear, weight.T, bias)
    return result


def padded(features: Tensor, ones: bool) -> Tensor:
    """P, with a column of ones where a bias is refit, too."""
    return F.pad(features, (0, 1), value=1.0) if ones else features
