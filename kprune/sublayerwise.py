"""Sublayer-wise pruning (Algorithm 2 of the paper): measure, search, cut, tune, advance.

What K-prune and K-prune+ put in the places of `Method`, `kprune.methods` says.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.data.tokens import Example
from kprune.limits.budget import Budget
from kprune.sampling import Sample
from kprune.state import Pruned, State
from kprune.surgery import keep_units
from kprune.weight_tuning import Tuning


@dataclass(frozen=True)
class Method:
    """A sublayer-wise method: how units are scored, searched and made up for."""

    # (state, t) → importance of the units of sublayers t … 2L − 1, [units] each
    scores: Callable[[State, int], list[Tensor]]
    # (state, t, importance, budget) → a mask for each of those, and the threshold ν
    search: Callable[[State, int, Sequence[Tensor], Budget], tuple[list[Tensor], float]]
    tuners: tuple[Callable[[State, int, Tensor], Tuning], ...] = ()  # after sublayer t was cut
    finish: tuple[Callable[[State], Tuning], ...] = ()  # at the end
    # the sample → sequences to work on besides its own
    copies: Callable[[Sample], list[Example]] = lambda sample: []


@torch.no_grad()
def sublayerwise(state: State, budget: Budget, method: Method) -> Iterator[Pruned]:
    """Prune sublayer by sublayer from the bottom up; each sees what those below it have lost.

    The student of `state`, which stands at the embedding, is pruned in place. Yields what happened
    at each sublayer.
    """
    for t, target in enumerate(state.student.sublayers):
        importance = method.scores(state, t)  # measure
        (keep, *_), threshold = method.search(state, t, importance, budget)  # search
        keep_units(target, keep)  # cut
        budget.spend(target)
        tuned = [tune(state, t, keep) for tune in method.tuners]  # tune
        state.advance(t)  # advance, where tuning has not taken the teacher along already
        step = Pruned(t, keep, threshold, importance, tuned, state)
        state.steps.append(step)
        yield step
    state.finished = [refit(state) for refit in method.finish]


def all_at_once(state: State, masks: list[Tensor], threshold: float | None) -> Iterator[Pruned]:
    """Cut all sublayers of the student by masks that were found together; tune nothing."""
    for t, (target, keep) in enumerate(zip(state.student.sublayers, masks, strict=True)):
        keep_units(target, keep)
        step = Pruned(t, keep, threshold if t == 0 else None, state=state)
        state.steps.append(step)
        yield step
