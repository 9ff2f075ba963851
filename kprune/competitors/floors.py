"""The floors below every method: magnitude, which looks at the weights only, and chance."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from kprune.encoders import Sublayer
from kprune.limits.budget import Budget
from kprune.mask_search import pooled
from kprune.state import Pruned, State
from kprune.sublayerwise import all_at_once


def magnitude(state: State, budget: Budget) -> Iterator[Pruned]:
    """Keep the units with the largest squared weights per FLOP; tune nothing."""
    sublayers = state.student.sublayers
    return _kept(state, budget, [squared_weights(s) / budget.price(s) for s in sublayers])


def random(state: State, budget: Budget) -> Iterator[Pruned]:
    """Keep units at random, heads and neurons alike, until the budget is full; tune nothing."""
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(state.sample.seed))
    scores = [draw(sub.units, dtype=torch.float64) for sub in state.student.sublayers]
    return _kept(state, budget, [score.to(state.student.device) for score in scores])


def _kept(state: State, budget: Budget, scores: Sequence[Tensor]) -> Iterator[Pruned]:
    return all_at_once(state, *pooled(state.student.sublayers, scores, budget))


def squared_weights(sublayer: Sublayer) -> Tensor:
    """Sum of squares of each unit's rows of the input and columns of the output projections."""
    total = sublayer.output.weight.double().square().sum(0)
    for linear in sublayer.inputs:
        rows = linear.weight.double().square().sum(1)
        total = total + rows.unflatten(0, (sublayer.blocks, -1)).sum(0)
    return total.unflatten(0, (-1, sublayer.unit_size)).sum(1)
