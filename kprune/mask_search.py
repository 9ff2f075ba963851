"""Knowledge-preserving mask search (KPMS, Algorithm 1 of the paper)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.limits.budget import Budget
from kprune.state import State


def kpms(scores: Tensor, costs: Tensor, budget: float) -> tuple[Tensor, float]:
    """The mask that keeps the units above the smallest threshold ν that fits the budget; one sort.

    `scores` are importance per unit of cost, pooled over sublayers, and `costs` the FLOPs (or
    seconds) of each unit, [units]. Units with equal scores stand or fall together, so the mask does
    not depend on their order. Gives it, bool [units], with ν: −∞ when every unit fits. ValueError
    when the scores are not finite.
    """
    if not torch.isfinite(scores).all():
        broken = f"{(~torch.isfinite(scores)).sum()} of {len(scores)} importance scores"
        raise ValueError(f"{broken} are NaN or infinite; check the model and the sample.")
    where = scores.device
    scores, costs = scores.cpu(), costs.cpu().double()  # a GPU adds in any order
    ascending = scores.argsort()
    removed = costs[ascending].cumsum(0)
    excess = costs.sum() - budget
    if excess <= 0:
        return torch.ones_like(scores, dtype=torch.bool, device=where), float("-inf")
    last = min(int((removed < excess).sum()), len(scores) - 1)
    threshold = scores[ascending[last]]
    return (scores > threshold).to(where), threshold.item()


def search(
    state: State, t: int, importance: Sequence[Tensor], budget: Budget
) -> tuple[list[Tensor], float]:
    """KPMS over the units of sublayer `t` and all above it, pooled: a mask for each, and ν."""
    above = state.student.sublayers[t:]
    per_cost = [score / budget.price(sub) for sub, score in zip(above, importance, strict=True)]
    masks, threshold = pooled(above, per_cost, budget)
    while budget.corrected(state, t, masks):  # never for FLOPs; a limit in time is measured
        masks, threshold = pooled(above, per_cost, budget)
    return masks, threshold


def pooled(
    sublayers: Sequence, scores: Sequence[Tensor], budget: Budget
) -> tuple[list[Tensor], float]:
    """KPMS over scores that are per unit of cost already, split into sublayers again."""
    costs = [budget.costs(sub, score) for sub, score in zip(sublayers, scores, strict=True)]
    mask, threshold = kpms(torch.cat(list(scores)), torch.cat(costs), budget.left)
    return list(mask.split([len(score) for score in scores])), threshold
