"""KCM: "Gradient-Free Structured Pruning with Unlabeled Data" (Nova et al., ICML 2023)."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kprune.competitors.kwon import rescaled
from kprune.data.checks import rounded_down
from kprune.encoders import Encoder, Sublayer, tapped
from kprune.engine import least_squares
from kprune.limits.budget import Budget, Flops
from kprune.mask_search import pooled
from kprune.state import Pruned, State

TOLERANCE = 0.01


@torch.no_grad()
def kcm(state: State, budget: Budget) -> Iterator[Pruned]:
    """Prune neurons only, ranked by R2D2: how representative, times how active; no labels."""
    length, dense = state.sample.length, state.teacher.flops(state.sample.length)
    heads = [sub for sub in state.student.sublayers if sub.kind == "MHA"]
    neurons = [sub for sub in state.student.sublayers if sub.kind == "FFN"]
    fixed = sum(sub.units * sub.unit_flops(length) for sub in heads)
    if fixed >= budget.left:
        raise ValueError(
            f"KCM prunes neurons only, and the heads alone cost {fixed / dense:.1%} of the FLOPs; "
            f"rate can be at most {rounded_down(1 - fixed / dense, 3)} here, got "
            f"{1 - budget.left / dense:.3g}."
        )
    with state.clock.step("knowledge", "R2D2"):
        pairs = zip(neurons, data_driven(state, neurons), strict=True)
        scores = [representative(sub.output.weight.T) * active for sub, active in pairs]
    with state.clock.step("mask search"):
        halfway = Flops(math.sqrt(budget.left * dense) - fixed, length)
        wide, _ = _masks(state.student, neurons, scores, halfway)
        rest = Flops(budget.left - fixed, length)
        narrow, threshold = _masks(state.student, neurons, scores, rest)
    yield from rescaled(state, wide, narrow, threshold)


def representative(weight: Tensor, tolerance: float = TOLERANCE, longest: int = 1000) -> Tensor:
    """R2, representative ranking: the diagonal of a kernelised convex mask, [neurons].

    K_ij = exp(−‖w_i − w_j‖²/σ²) of the rows of the FFN's second projection, [neurons, d], with σ²
    the mean squared distance, so that no weight scale matters; from C = 1/N, C ← C ∘ √(K / (K·C))
    until its relative change is below the tolerance. In the weights' own precision, at least
    float32: the tolerance is a hundredth.
    """
    weight = weight.to(least_squares.wide(weight.dtype))
    if len(weight) == 0:
        return weight.new_zeros(0, dtype=torch.float64)
    distance = torch.cdist(weight, weight).square()
    kernel = torch.exp(-distance / distance.mean().clamp(min=torch.finfo(weight.dtype).tiny))
    mask = torch.full_like(kernel, 1 / len(kernel))
    for _ in range(longest):
        new = mask * (kernel / (kernel @ mask)).sqrt()
        change = (new - mask).norm() / mask.norm()
        mask = new
        if change < tolerance:
            break
    return mask.diagonal().double()


def data_driven(state: State, neurons: Sequence[Sublayer]) -> list[Tensor]:
    """D2, data-driven ranking: each neuron's mean activation over real tokens, normalised."""

    def one(encoders: tuple[Encoder, Encoder], number: int) -> list[Tensor]:
        batch, student = state.batches[number], encoders[1]
        with tapped([sub for sub in student.sublayers if sub.kind == "FFN"]) as features:
            student.run(batch, state.student_hidden[number], stop=len(student.sublayers))
        real = batch.attention_mask.flatten()[None].double()
        return [(real @ f.double().flatten(0, 1))[0] for f in features]

    totals = [sub.output.weight.new_zeros(sub.units, dtype=torch.float64) for sub in neurons]
    for sums in state.each(one):
        for total, own in zip(totals, sums, strict=True):
            total += own
    return [total / total.norm().clamp(min=torch.finfo(total.dtype).tiny) for total in totals]


def _masks(
    student: Encoder, neurons: Sequence[Sublayer], scores: Sequence[Tensor], budget: Budget
) -> tuple[list[Tensor], float]:
    """Masks of all sublayers: every head stays, neurons are ranked over the whole model."""
    kept, threshold = pooled(neurons, scores, budget)
    heads = [kept[0].new_ones(units) for units in student.units("MHA")]
    return [mask for both in zip(heads, kept, strict=True) for mask in both], threshold
