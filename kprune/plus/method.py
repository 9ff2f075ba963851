"""K-prune+ as a method, and what it can do without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from kprune.encoders import Sublayer
from kprune.knowledge import Importance, Predictive, Representational, Weighted
from kprune.mask_search import search
from kprune.plus.elimination import Elimination
from kprune.plus.fisher import Fisher
from kprune.plus.refits import TuneHead, TuneInputs
from kprune.sublayerwise import Method
from kprune.weight_tuning import TuneOutput

if TYPE_CHECKING:
    from kprune.options import Options


def one_scale(sublayers: Sequence[Sublayer], *parts: Sequence[Tensor]) -> list[Tensor]:
    """Both kinds of knowledge as shares of what all competing units have together: no λ, no μ."""
    factors = [1 / sum(score.sum() for score in part).clamp(min=1e-300) for part in parts]
    return [
        sum(factor * score for factor, score in zip(factors, scores, strict=True))
        for scores in zip(*parts, strict=True)
    ]


def kprune_plus(gamma: float = 2.0, seed: int = 0) -> Method:
    """Fisher information and errors after tuning, on one scale; inputs, biases and head refit."""
    return Method(
        scores=Importance(Fisher(gamma, seed), Elimination(), one_scale),
        search=search,
        tuners=(TuneInputs(hold_out=True), TuneOutput(bias=True, hold_out=True)),
        finish=(TuneHead(hold_out=True),),
    )


def rescored(method: Method, **parts) -> Method:
    """The method with other parts of its importance."""
    return replace(method, scores=replace(method.scores, **parts))


def _tuners(method: Method, change: Callable) -> Method:
    """The method with its tuners changed, or gone where `change` gives None."""
    tuners, finish = (
        tuple(filter(None, map(change, some))) for some in (method.tuners, method.finish)
    )
    return replace(method, tuners=tuners, finish=finish)


def _not(kind: type) -> Callable:
    return lambda tune: None if isinstance(tune, kind) else tune


# K-prune+ less each of its ingredients; the paper's γ, λ and μ come back where needed.
WITHOUT: dict[str, Callable[[Method, Options], Method]] = {
    "fisher": lambda method, options: rescored(method, predictive=Predictive(options.gamma)),
    "elimination": lambda method, _: rescored(method, representational=Representational),
    "scale": lambda method, options: rescored(method, combine=Weighted(options.lam, options.mu)),
    "ridge": lambda method, _: _tuners(method, lambda tune: replace(tune, hold_out=False)),
    "bias": lambda method, _: _tuners(
        method, lambda tune: replace(tune, bias=False) if isinstance(tune, TuneOutput) else tune
    ),
    "inputs": lambda method, _: _tuners(method, _not(TuneInputs)),
    "head": lambda method, _: _tuners(method, _not(TuneHead)),
}
