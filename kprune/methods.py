"""The methods by name, each composed of its parts, and what each can do without."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kprune.competitors.floors import magnitude, random
from kprune.competitors.kcm import kcm
from kprune.competitors.kwon import kwon
from kprune.competitors.layers import whole_layers
from kprune.knowledge import Importance, Predictive, Representational, Weighted
from kprune.mask_search import search
from kprune.plus.method import WITHOUT as WITHOUT_PLUS
from kprune.plus.method import kprune_plus
from kprune.state import Pruned, State
from kprune.sublayerwise import Method, sublayerwise
from kprune.variations import Once, Reused, Rounded
from kprune.weight_tuning import TuneOutput

if TYPE_CHECKING:
    from kprune.data.tokens import Example
    from kprune.engine.progress import Clock
    from kprune.limits.budget import Budget
    from kprune.options import Options
    from kprune.sampling import Sample

Change = Callable[[Method, "Options"], Method]


def kprune(options: Options) -> Method:
    """K-prune, as the paper has it."""
    return Method(
        Importance(Predictive(options.gamma), Representational, Weighted(options.lam, options.mu)),
        search,
        tuners=(TuneOutput(),),
    )


SUBLAYERWISE: dict[str, Callable[[Options], Method]] = {
    "kprune": kprune,
    "kprune+": lambda options: kprune_plus(options.gamma, options.seed),
}


def _rescored(**parts) -> Change:
    """A change of K-prune's importance."""
    return lambda method, _: replace(method, scores=replace(method.scores, **parts))


def _untuned(method: Method, _: Options) -> Method:
    return replace(method, tuners=(), finish=())


# What a method is without each of its ingredients, in the order in which they are taken out.
WITHOUT: dict[str, Mapping[str, Change]] = {
    "kprune": {
        "predictive": _rescored(predictive=None),
        "representational": _rescored(representational=None),
        "sublayerwise": lambda method, _: replace(
            method, scores=Reused(method.scores, math.inf, always=(0,)), search=Once(method.search)
        ),
        "tuning": _untuned,
    },
    "kprune+": {**WITHOUT_PLUS, "tuning": _untuned},
}
INGREDIENTS = {name: tuple(changes) for name, changes in WITHOUT.items()}


def composed(options: Options) -> Method:
    """The sublayer-wise method that the options name, with what they leave out or add."""
    method = SUBLAYERWISE[options.method](options)
    for name, change in WITHOUT[options.method].items():
        if name in options.left_out:
            method = change(method, options)
    if options.reuse and "sublayerwise" not in options.left_out:
        method = replace(method, scores=Reused(method.scores, options.reuse))
    if options.multiple > 1:
        method = replace(method, search=Rounded(method.search, options.multiple))
    return method


def copies(options: Options, sample: Sample) -> list[Example]:
    """What the method works on besides the sample's own sequences."""
    return composed(options).copies(sample) if options.method in SUBLAYERWISE else []


def watched(method: Method, clock: Clock) -> Method:
    """The method, its parts timed."""
    tuning = clock.step("tuning", "tuning")
    return replace(
        method,
        scores=clock.step("knowledge", "measuring")(method.scores),
        search=clock.step("mask search")(method.search),
        tuners=tuple(map(tuning, method.tuners)),
        finish=tuple(map(tuning, method.finish)),
    )


def _sublayerwise(options: Options, state: State, budget: Budget) -> Iterator[Pruned]:
    yield from sublayerwise(state, budget, watched(composed(options), state.clock))


METHODS: dict[str, Callable[[Options, State, Budget], Iterator[Pruned]]] = {
    "kprune": _sublayerwise,
    "kprune+": _sublayerwise,
    "kwon": lambda options, state, budget: kwon(state, budget),
    "kcm": lambda options, state, budget: kcm(state, budget),
    "magnitude": lambda options, state, budget: magnitude(state, budget),
    "random": lambda options, state, budget: random(state, budget),
    "first-layers": lambda options, state, budget: whole_layers(state, budget, spaced=False),
    "spaced-layers": lambda options, state, budget: whole_layers(state, budget, spaced=True),
}
LABELS_NEEDED = ("kwon",)
# Hyperparameters that some methods do without, and those that have them.
HYPERPARAMETERS = {"gamma": ("kprune", "kprune+"), "lam": ("kprune",), "mu": ("kprune",)}
