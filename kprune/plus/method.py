"""K-prune+ as a method, and what it can do without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from kprune.mask_search import search
from kprune.plus.copies import Copies
from kprune.plus.elimination import Elimination
from kprune.plus.refits import TuneHead, TuneInputs
from kprune.sublayerwise import Method
from kprune.weight_tuning import TuneOutput

if TYPE_CHECKING:
    from kprune.options import Options


def kprune_plus(gamma: float = 2.0, seed: int = 0) -> Method:
    """Units ranked once, by the error after tuning in K_pred's metric; inputs and head refit, too.

    Small samples are filled up with noised copies.
    Scores are in one unit, so there is no λ and no μ.
    """
    return Method(
        scores=Elimination(gamma, seed),
        search=search,
        tuners=(TuneInputs(hold_out=True), TuneOutput(bias=True, hold_out=True)),
        finish=(TuneHead(hold_out=True),),
        copies=Copies(seed),
    )


def _scores(**changes) -> Callable[[Method, Options], Method]:
    return lambda method, _: replace(method, scores=replace(method.scores, **changes))


def _tuners(method: Method, change: Callable) -> Method:
    """The method with its tuners changed, or gone where `change` gives None."""
    tuners, finish = (
        tuple(filter(None, map(change, some))) for some in (method.tuners, method.finish)
    )
    return replace(method, tuners=tuners, finish=finish)


def _not(kind: type) -> Callable:
    return lambda tune: None if isinstance(tune, kind) else tune


# K-prune+ less each of its ingredients.
WITHOUT: dict[str, Callable[[Method, Options], Method]] = {
    "metric": _scores(metric=False),
    "elimination": _scores(repaired=False),
    "weights": _scores(weights=False),
    "ridge": lambda method, _: _tuners(method, lambda tune: replace(tune, hold_out=False)),
    "bias": lambda method, _: _tuners(
        method, lambda tune: replace(tune, bias=False) if isinstance(tune, TuneOutput) else tune
    ),
    "inputs": lambda method, _: _tuners(method, _not(TuneInputs)),
    "head": lambda method, _: _tuners(method, _not(TuneHead)),
    "copies": lambda method, _: replace(method, copies=Method.copies),
}
