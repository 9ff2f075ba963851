"""Fewer layers: what a model gives without its other layers, untrained."""

from collections.abc import Iterator

import torch
from torch import nn

from kprune.data.checks import rounded_down
from kprune.limits.budget import Budget
from kprune.state import Pruned, State
from kprune.surgery import keep_units


def whole_layers(state: State, budget: Budget, spaced: bool) -> Iterator[Pruned]:
    """Keep as many layers as the budget pays for, the lowest ones or evenly spaced ones.

    The others go wholly, norms and all. Nothing is tuned.
    """
    student = state.student
    if len({sub.units for sub in student.sublayers[::2]}) > 1 or (
        len({sub.units for sub in student.sublayers[1::2]}) > 1
    ):
        raise ValueError("Whole layers are kept of a model that was not pruned; give that one.")
    layers, (heads, neurons) = len(student.layers), student.sublayers[:2]
    price = heads.units * budget.price(heads) + neurons.units * budget.price(neurons)
    if (count := int(budget.left // price)) < 1:
        most = rounded_down(1 - 1 / layers, 3)
        raise ValueError(f"Not one of {layers} layers fits; rate can be at most {most} here.")
    chosen = spaced_out(count, layers) if spaced else range(count)
    for t, target in enumerate(student.sublayers):
        keep = torch.full((target.units,), target.layer in chosen, device=student.device)
        if target.layer not in chosen:
            keep_units(target, keep)  # for the report to count nothing here
        state.steps.append(Pruned(t, keep, None, state=state))
    left, config = nn.ModuleList(student.layers[i] for i in chosen), student.model.config
    student.model.base_model.set_submodule(student.names.layers, left)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):  # ModernBERT's kinds of attention
        config.layer_types = [config.layer_types[i] for i in chosen]
    if hasattr(config, "num_hidden_groups"):  # ALBERT's layers have weights of their own here
        config.num_hidden_groups = count
    yield from state.steps


def spaced_out(count: int, layers: int) -> list[int]:
    """Of so many layers, those nearest to i·(layers − 1)/(count − 1): the first, …, the last."""
    gaps = max(count - 1, 1)  # a single layer is the first
    return [(2 * i * (layers - 1) + gaps) // (2 * gaps) for i in range(count)]
