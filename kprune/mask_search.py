"""Knowledge-preserving mask search (KPMS, Algorithm 1 of the paper)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.encoders import Sublayer


def kpms(scores: Tensor, costs: Tensor, budget: float) -> tuple[Tensor, float]:
    """The mask that keeps the units above the smallest threshold that fits the budget.

    Units with equal scores stand or fall together, so the mask does not depend on their order.
    Cost: one sort.

    Args:
        scores: importance per unit of FLOPs, pooled over sublayers, [units].
        costs: FLOPs of each unit, [units].
        budget: FLOPs that the kept units may cost together.

    Returns:
        The mask, bool [units], True at the units to keep, and the threshold ν; −∞ when every unit
        fits.

    Raises:
        ValueError: when the scores are not finite.
    """
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"{(~torch.isfinite(scores)).sum()} of {scores.numel()} importance scores are NaN or "
            "infinite; check the model's weights and the sample."
        )
    ascending = scores.argsort()
    removed = costs.double()[ascending].cumsum(0)
    excess = costs.double().sum() - budget
    if excess <= 0:
        return torch.ones_like(scores, dtype=torch.bool), float("-inf")
    last = min(int((removed < excess).sum()), len(scores) - 1)
    threshold = scores[ascending[last]]
    return scores > threshold, threshold.item()


def search(
    sublayers: Sequence[Sublayer],
    scores: Sequence[Tensor],
    budget: float,
    length: float,
    seconds: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], float]:
    """KPMS over the units of several sublayers, pooled.

    Args:
        sublayers: the sublayers that compete for the budget.
        scores: importance of each one's units, [units].
        budget: FLOPs that they may cost together.
        length: tokens per sequence that FLOPs are counted at.
        seconds: for a budget in seconds in place of FLOPs, what 0 … N units of each sublayer take,
            [N + 1] each (`LatencyTable.sublayers`). The scores are per second then, too.

    Returns:
        A mask for each sublayer, bool [units], and the threshold ν.
    """
    if seconds is None:
        costs = [
            torch.full_like(score, sublayer.unit_flops(length), dtype=torch.float64)
            for score, sublayer in zip(scores, sublayers, strict=True)
        ]
    else:
        costs = [unit_seconds(row, score) for row, score in zip(seconds, scores, strict=True)]
    mask, threshold = kpms(torch.cat(list(scores)), torch.cat(costs), budget)
    return list(mask.split([len(score) for score in scores])), threshold


def to_multiple(keep: Tensor, scores: Tensor, multiple: int, most: int) -> Tensor:
    """The mask with the nearest number of units that is a multiple, the best-scored ones.

    Matrix units work in tiles: 496 neurons may be faster than 489, and take hardly more FLOPs.

    Args:
        keep: the mask, bool [units].
        scores: importance of the units, [units].
        multiple: 1 leaves the mask as it is.
        most: units that the remaining budget affords.

    Returns:
        A mask, bool [units]. One that keeps every unit, or none, stays.
    """
    units, wanted = len(keep), int(keep.sum())
    if multiple == 1 or wanted in (0, units):
        return keep
    count = round(wanted / multiple) * multiple
    if count > min(most, units):
        count = min(wanted, most) // multiple * multiple
    found = torch.zeros_like(keep)
    found[scores.topk(count).indices] = True
    return found


def unit_seconds(seconds: Tensor, scores: Tensor) -> Tensor:
    """What each unit of a sublayer costs, if units leave in ascending order of their scores.

    Args:
        seconds: what 0 … N units take, [N + 1].
        scores: importance of the units, [N].

    Returns:
        Seconds, float64 [N], that add up to those of all units.
    """
    costs = torch.empty(len(scores), dtype=torch.float64, device=scores.device)
    costs[scores.argsort()] = seconds.diff().flip(0).to(costs)  # the first to leave comes first
    return costs
