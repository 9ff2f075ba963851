"""Least squares from sums: PᵀP and PᵀY, streamed over a sample, and the ridge that suits them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-7
STIFFEST = 1.0
HELD_OUT = 10  # every tenth sequence, where the ridge is chosen
ROWS = 512  # summed in the features' precision; more would round
Products = tuple[Tensor, Tensor, Tensor]  # PᵀP, PᵀY and ‖Y‖² of some rows, in float64


@dataclass
class NormalEquations:
    """The streamed sums of min_W ‖Y − P·W‖²_F: nothing here grows with the number of tokens.

    Kept in float64, so that adding many batches loses nothing.
    """

    gram: Tensor  # PᵀP, [features, features]
    moment: Tensor  # PᵀY, [features, d]
    target: Tensor  # ‖Y‖²_F, a scalar
    held_out: NormalEquations | None = None  # the same sums over every tenth sequence alone

    @classmethod
    def zeros(
        cls, features: int, d: int, device: torch.device | str = "cpu", hold_out: bool = False
    ) -> NormalEquations:
        """Empty sums for `features` columns of P and `d` columns of Y."""
        empty = {"dtype": torch.float64, "device": device}
        shapes = (features, features), (features, d), ()
        sums = (torch.zeros(shape, **empty) for shape in shapes)
        return cls(*sums, held_out=cls.zeros(features, d, device) if hold_out else None)

    def add(self, features: Tensor, target: Tensor) -> None:
        """Add rows P [rows, features] and Y [rows, d]."""
        self.add_products(products(features, target))

    def add_products(self, some: Products) -> None:
        """Add rows whose products are formed already."""
        for total, part in zip((self.gram, self.moment, self.target), some, strict=True):
            total += part

    def without(self, part: NormalEquations) -> NormalEquations:
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


def products(features: Tensor, target: Tensor) -> Products:
    """PᵀP, PᵀY and ‖Y‖² of rows P [rows, features] and Y [rows, d], `ROWS` at a time."""
    # Half precision would overflow or round.
    some = zip(*(rows.to(wide(rows.dtype)).split(ROWS) for rows in (features, target)), strict=True)
    parts = (
        ((P.T @ P).double(), (P.T @ Y).double(), torch.linalg.vector_norm(Y).double().square())
        for P, Y in some
    )
    first = next(parts)
    for part in parts:
        for total, more in zip(first, part, strict=True):
            total += more
    return first


def choose_ridge(equations: NormalEquations, weight: Tensor) -> float:
    """The ridge with the least error on the held-out sequences, when fitted on the others.

    A power of ten from `RIDGE` to `STIFFEST`, or infinity where the weights [features, d] do best
    as they are; `RIDGE` where nothing is held out. Where the sample holds repeats, or overlapping
    windows of one text, held-out sequences are not all unseen, and the ridge comes out too small.
    """
    if equations.held_out is None or not equations.held_out.target > 0:
        return RIDGE
    others = equations.without(equations.held_out)
    if not others.gram.any():  # one sequence is all there is
        return RIDGE
    candidates = [RIDGE * 10**k for k in range(round(math.log10(STIFFEST / RIDGE)) + 1)]
    errors = {math.inf: equations.held_out.error(weight)}
    for ridge in candidates:
        tuned = solve(others, weight.double(), ridge)
        errors[ridge] = math.inf if tuned is None else equations.held_out.error(tuned)
    return min([*candidates, math.inf], key=errors.__getitem__)


def solve(equations: NormalEquations, start: Tensor, ridge: float) -> Tensor | None:
    """Weights near `start`, float64 [features, d], that fit; None on failure.

    The larger the ridge ε, relative to PᵀP's diagonal, the nearer.
    """
    diagonal = equations.gram.diagonal()
    scale = diagonal.clamp(min=1e-9 * diagonal.mean())  # a dead feature has a zero there
    rest = equations.moment - equations.gram @ start
    if not (torch.isfinite(rest).all() and scale.min() > 0):
        return None
    factor, failed = torch.linalg.cholesky_ex(equations.gram + (ridge * scale).diag())
    return None if failed else start + torch.cholesky_solve(rest, factor)


def wide(dtype: torch.dtype) -> torch.dtype:
    """A type in which sums neither overflow nor round away: float32, or wider where given."""
    return torch.promote_types(dtype, torch.float32)
