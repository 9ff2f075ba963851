"""Predictive and representational knowledge, and the importance of units that follows from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.data.batching import Batch
from kprune.encoders import Sublayer
from kprune.engine.least_squares import wide
from kprune.measuring import Loss, Measured, measured
from kprune.state import State


class GradientSums:
    """Mask gradients of a mean loss over minibatches *in sampling order*, however batches fall.

    A sample's is Σ_tokens feature · ∂loss/∂feature: the mask variable multiplies the feature, and
    is 1. `sums` are [minibatches, features] of sublayers.
    """

    def __init__(self, state: State, t: int):
        self.sublayers, self.size = state.student.sublayers[t:], state.sample.task.minibatch
        self.samples = len(state.sample.examples)
        minibatches = -(-self.samples // self.size)
        self.sums = [zeros(sub, minibatches, sub.output.in_features) for sub in self.sublayers]

    def add(self, batch: Batch, found: Measured) -> None:
        number = batch.index // self.size
        # The last minibatch may be smaller; each gradient is of its own minibatch's mean.
        size = (self.samples - number * self.size).clamp(max=self.size)
        for total, own in zip(self.sums, found.gradients, strict=bool(found.gradients)):
            # A product adds in a fixed order, which index_add_ does not on a GPU.
            into = F.one_hot(number, len(total)).T.to(total) / size  # 1 / size would be float32
            total.addmm_(into, own.to(total))

    def per_unit(self) -> list[Tensor]:
        """S_pred, summed over the features of each unit: float64 [units] of each sublayer."""
        return [
            by_unit(sublayer, total.double().square().sum(0) / (2 * self.samples))
            for sublayer, total in zip(self.sublayers, self.sums, strict=True)
        ]


@dataclass(frozen=True)
class Predictive:
    """S_pred: half the squared mask gradient of K_pred, per sample (section 4.1 of the paper).

    As in the authors' code: the gradient of K_pred's mean (at temperature γ) over a minibatch of
    samples, squared for each feature, summed over minibatches, times ½, divided by the number of
    samples. It is exactly zero where the student still *is* the teacher, so at the first sublayer
    S_pred says nothing and is not computed. The paper's method has this weakness; it is kept.
    """

    gamma: float = 2.0
    sums = GradientSums

    def loss(self, state: State, t: int) -> Loss | None:
        """K_pred of a batch; None at the first sublayer."""

        def lost(number: int, outputs: Tensor) -> Tensor:
            teacher, mask = state.outputs[number], state.batches[number].mask
            return state.kind.distance(outputs, teacher, self.gamma, mask)

        return lost if t else None


class Representational:
    """S_rep of feature k: mean over tokens of f_k², times the mean of W_k² over its d weights."""

    def __init__(self, state: State, t: int):
        self.sublayers = state.student.sublayers[t:]
        self.tokens = sum(batch.tokens for batch in state.batches)
        self.sums = [zeros(sub, sub.output.in_features).double() for sub in self.sublayers]

    def add(self, batch: Batch, found: Measured) -> None:
        for total, squares in zip(self.sums, found.squares, strict=True):
            total += squares

    def per_unit(self) -> list[Tensor]:
        return [
            by_unit(sub, total / self.tokens * sub.output.weight.double().square().mean(0))
            for sub, total in zip(self.sublayers, self.sums, strict=True)
        ]


@dataclass(frozen=True)
class Weighted:
    """(S_pred + λ · S_rep) · μ for heads, without μ for neurons; a head is the mean over d_h."""

    lam: float = 0.00025
    mu: float = 64.0

    def __call__(
        self,
        sublayers: Sequence[Sublayer],
        predictive: list[Tensor],
        representational: list[Tensor],
    ) -> list[Tensor]:
        return [
            (pred + self.lam * rep) / sub.unit_size * (self.mu if sub.kind == "MHA" else 1.0)
            for sub, pred, rep in zip(sublayers, predictive, representational, strict=True)
        ]


@dataclass(frozen=True)
class Importance:
    """Importance of every unit in a sublayer and above, around "all remaining units on".

    Each part makes, of (state, t), sums that `add` batches and give scores `per_unit`, float64
    [units] of each sublayer; None leaves a part out, and without `predictive` the gradient as well.
    """

    predictive: Predictive | None = Predictive()
    representational: Callable | None = Representational
    combine: Callable[..., list[Tensor]] = Weighted()

    def __call__(self, state: State, t: int) -> list[Tensor]:
        """Scores of sublayers `t` … 2L − 1; at the first, `state.outputs` is filled."""
        loss = self.predictive.loss(state, t) if self.predictive else None
        makers = (self.predictive and self.predictive.sums, self.representational)
        parts = [make and make(state, t) for make in makers]
        for batch, found in zip(state.batches, measured(state, t, loss), strict=True):
            for part in filter(None, parts):
                part.add(batch, found)
            if t == 0:
                state.outputs.append(found.outputs)
        if t == 0:
            check_finite([z.isfinite().all() for z in state.outputs])
        sublayers = state.student.sublayers[t:]
        nothing = [zeros(sub, sub.units).double() for sub in sublayers]
        return self.combine(sublayers, *(part.per_unit() if part else nothing for part in parts))


def check_finite(finite: Sequence[Tensor]) -> None:
    """Raise ValueError unless all outputs on the sample are; a flag for each batch."""
    if not torch.stack([*finite]).all():
        raise ValueError(
            "The model's outputs on the sample hold NaN or infinite values, so nothing can be "
            "ranked; see that it works in its precision, or load it in float32."
        )


def by_unit(sublayer: Sublayer, per_feature: Tensor) -> Tensor:
    """Sums over the features of each unit: [..., features] to [..., units]."""
    return per_feature.unflatten(-1, (-1, sublayer.unit_size)).sum(-1)


def zeros(sublayer: Sublayer, *shape: int) -> Tensor:
    """Empty sums where a sublayer is, in float32 or wider."""
    weight = sublayer.output.weight
    return weight.new_zeros(shape, dtype=wide(weight.dtype))
