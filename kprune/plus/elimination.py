"""Representational knowledge as the error that remains *after* weight-tuning."""

from contextlib import ExitStack

import torch
from torch import Tensor

from kprune.data.batching import Batch
from kprune.encoders import tapped
from kprune.knowledge import zeros
from kprune.measuring import Measured
from kprune.state import State

RIDGE = 1e-4  # of PᵀP's diagonal: which unit goes next must not hang on rounding
CHUNK = 16  # a sixteenth of the neurons that are left goes at a time


class Elimination:
    """E of each unit: found in the dense model, at the first sublayer, for all of them at once."""

    def __init__(self) -> None:
        self.errors: list[Tensor] = []
        self.start = 0

    def __call__(self, state: State, t: int) -> "Elimination":
        """Sums of a measurement from sublayer `t` up, to which its batches add nothing."""
        if t == 0:
            self.errors = elimination_errors(state)
        self.start = t
        return self

    def add(self, batch: Batch, found: Measured) -> None:
        """Nothing to add."""

    def per_unit(self) -> list[Tensor]:
        return self.errors[self.start :]


def elimination_errors(state: State) -> list[Tensor]:
    """What each unit of a model still costs when the units left make up for it as well as they can.

    Backward elimination on every sublayer's output: the unit goes whose loss the others can best
    replace by least squares, and its score is by how much the error has grown, relative to the
    variance of X + P·W, which a LayerNorm divides by. PᵀP is of the model as it is, in one pass;
    where the head reads the first token only, the last layer's is over it alone, if there are more
    sequences than features. (Tuning fits all tokens there, too.)
    """
    sublayers = state.student.sublayers
    top, sequences = len(state.student.layers) - 1, len(state.sample.examples)
    few = [
        state.kind.first_only and sub.layer == top and sequences > sub.output.in_features
        for sub in sublayers
    ]
    grams = [zeros(sub, sub.output.in_features, sub.output.in_features) for sub in sublayers]
    variances = [zeros(sub) for sub in sublayers]

    encoder = state.student.copy()
    for number, batch in enumerate(state.batches):
        with ExitStack() as stack:
            totals: list[Tensor] = []
            features = stack.enter_context(tapped(encoder.sublayers))
            for sublayer in encoder.sublayers:
                stack.enter_context(sublayer.total(totals.append))
            encoder.run(batch, state.student_hidden[number], stop=len(sublayers))
        real = torch.ones_like(totals[0][..., 0]) if batch.mask is None else batch.mask
        sums = zip(few, features, totals, grams, variances, strict=True)
        for first, P, total, gram, variance in sums:
            some = slice(1) if first else slice(None)
            rows = (P[:, some] * real[:, some, None]).to(gram.dtype).flatten(0, 1)
            gram += rows.T @ rows
            variance += (total[:, some].to(gram.dtype).var(-1) * real[:, some]).sum()
        state.clock.tick(len(sublayers))
    errors = []
    for sublayer, variance in zip(sublayers, variances, strict=True):
        weight = sublayer.output.weight.T.double()
        errors.append(eliminate(grams.pop(0).double(), weight, sublayer.unit_size) / variance)
    return errors


def eliminate(gram: Tensor, weight: Tensor, unit_size: int) -> Tensor:
    """Growth of the squared error with each unit, float64 [units], by backward elimination of all.

    With C = (PᵀP)⁻¹, dropping the features u and refitting the others raises ‖P·W − P′·W′‖² by
    tr(W_uᵀ C_uu⁻¹ W_u), changes W by −C_·u C_uu⁻¹ W_u, and C by −C_·u C_uu⁻¹ C_u·. Heads go one by
    one. Neurons go by sixteenths of those left, which is several times as fast and not exact: two
    that could replace each other may leave in the same step, and share its growth. Units that go
    later have never less than the mean of an earlier step.
    """
    units = len(gram) // unit_size
    found = gram.new_zeros(units)
    if not units:
        return found
    diagonal = gram.diagonal()
    scale = diagonal.clamp(min=1e-9 * diagonal.mean()).clamp(min=1e-30)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + (RIDGE * scale).diag()))
    alive = torch.arange(units, device=gram.device)
    own, least = torch.arange(unit_size, device=gram.device), 0.0
    while len(alive):
        # What is gone is cut off: later steps are smaller.
        blocks = inverse.unflatten(0, (-1, unit_size)).unflatten(2, (-1, unit_size))
        blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # C_uu of each unit
        rows = weight.unflatten(0, (-1, unit_size))
        growth = (torch.linalg.solve(blocks, rows) * rows).sum((1, 2))
        count = 1 if unit_size > 1 else -(-len(alive) // CHUNK)
        first = growth.topk(count, largest=False).indices
        gone = (first[:, None] * unit_size + own).flatten()
        change = torch.linalg.solve(inverse[gone][:, gone], weight[gone])
        # Units that go together: their joint growth, shared out as their own ones are.
        joint = (change * weight[gone]).sum().item()
        shares = growth[first] / growth[first].sum().clamp(min=1e-300) * joint
        found[alive[first]] = shares.clamp(min=least)
        least = max(least, joint / count)
        stay = torch.ones(len(alive), dtype=torch.bool, device=gram.device)
        stay[first] = False
        left = stay.repeat_interleave(unit_size)
        across = inverse[left][:, gone]
        weight = weight[left] - across @ change
        solved = torch.linalg.solve(inverse[gone][:, gone], across.T)
        inverse = inverse[left][:, left] - across @ solved
        alive = alive[stay]
    return found
