"""What a unit is worth: the K_pred that its loss still costs after the others made up for it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.knowledge import by_unit
from kprune.plus.curvature import Curvature
from kprune.state import State

RIDGE = 1e-4  # of PᵀP's diagonal: which unit goes next must not hang on rounding
CHUNK = 16  # a sixteenth of the neurons that are left goes at a time


@dataclass(frozen=True)
class Elimination:
    """Scores of units, found once, in the dense model: how much K_pred grows as they leave.

    An error ΔW of a sublayer's output projection costs ½·tr(ΔWᵀ·A·ΔW·G), with the sums of
    `Curvature`: A = PᵀP, and G of the slopes. A unit's score is what is added to it when the unit
    leaves and the others are refit.
    """

    gamma: float = 2.0  # temperature γ of the teacher's distribution
    seed: int = 0  # of the probes' signs
    metric: bool = True  # else all directions of a sublayer's output count alike
    repaired: bool = True  # else the others stay as they are, and what each unit adds is its score
    weights: bool = True  # whether tuning weighs tokens by their slopes

    def __call__(self, state: State, t: int) -> list[Tensor]:
        """Scores of sublayers `t` … 2L − 1, float64 [units] each; measured once."""
        if self not in state.rankings:
            seen = Curvature(state, self.gamma, self.seed)
            scores = [self.worth(state, seen, k) for k in range(len(seen.grams))]
            del seen.grams, seen.slopes  # the weights stay
            state.rankings[self] = scores, seen.weights
        scores, weights = state.rankings[self]
        state.weights = weights if self.weights else None
        return scores[t:]

    def worth(self, state: State, seen: Curvature, place: int) -> Tensor:
        sublayer = state.student.sublayers[place]
        gram, slopes = (sums[place].double() for sums in (seen.grams, seen.slopes))
        values, vectors = torch.linalg.eigh(slopes)
        values = values.clamp(min=0) if self.metric else values.mean().expand_as(values)
        weight = sublayer.output.weight.T.double() @ (vectors * values.sqrt())  # W·G^½
        if self.repaired:
            found = eliminate(gram, weight, sublayer.unit_size)
        else:
            found = by_unit(sublayer, gram.diagonal() * weight.square().sum(1))
        return found / (2 * seen.tokens * seen.samples)


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
    inverse = inverted(gram)
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


def inverted(gram: Tensor) -> Tensor:
    """(PᵀP)⁻¹, with the least ridge, from `RIDGE` by tens, that outweighs rounding of the sums."""
    diagonal = gram.diagonal()
    scale = diagonal.clamp(min=1e-9 * diagonal.mean()).clamp(min=1e-30)
    for k in range(9):  # 10⁴ times its diagonal outweighs all else in a matrix of our sizes
        factor, failed = torch.linalg.cholesky_ex(gram + (RIDGE * 10**k * scale).diag())
        if not failed:
            break
    return torch.cholesky_inverse(factor)
