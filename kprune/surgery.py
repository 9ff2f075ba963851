"""Physical removal of heads and neurons."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kprune.encoders import Encoder, Sublayer


def keep_units(sublayer: Sublayer, keep: Tensor) -> None:
    """Remove all other units of a sublayer, in place.

    A unit leaves with its rows of the input projections and its columns of the output projection. A
    sublayer that loses every unit becomes X + b: the bias of its output projection stays.

    Args:
        sublayer: the sublayer to cut.
        keep: True at the units to keep, bool [units].

    Raises:
        ValueError: when `keep` is not one boolean per unit.
    """
    if keep.dtype != torch.bool or keep.shape != (sublayer.units,):
        raise ValueError(
            f"The mask of layer {sublayer.layer}'s {sublayer.kind} must hold {sublayer.units} "
            f"booleans, one per unit; got {keep.dtype} of shape {tuple(keep.shape)}."
        )
    features = feature_mask(sublayer, keep).to(sublayer.output.weight.device)
    for linear in sublayer.inputs:
        _set(linear, linear.weight[features], linear.bias[features])
    _set(sublayer.output, sublayer.output.weight[:, features], sublayer.output.bias)


def cut(encoder: Encoder, masks: Sequence[Tensor]) -> list[list[int]]:
    """Remove units of all sublayers at once, in place.

    Args:
        encoder: the model to cut.
        masks: True at the units to keep, bool [units], one mask for each sublayer.

    Returns:
        Numbers of the kept units of each sublayer.
    """
    for sublayer, keep in zip(encoder.sublayers, masks, strict=True):
        keep_units(sublayer, keep)
    return [keep.nonzero().flatten().tolist() for keep in masks]


def feature_mask(sublayer: Sublayer, keep: Tensor) -> Tensor:
    """The mask of units [units] spread over their features: bool [units · unit_size]."""
    return keep.repeat_interleave(sublayer.unit_size)


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose parameters are frozen views of the model's; surgery puts new ones in place."""
    shared = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, shared)


@contextmanager
def masked(sublayer: Sublayer, mask: Tensor) -> Iterator[None]:
    """Within the block, multiply each unit by its mask variable instead of removing it.

    Args:
        sublayer: the sublayer whose units are masked.
        mask: one factor per unit, [units]; 0 silences a unit, 1 leaves it as it is.
    """
    factors = feature_mask(sublayer, mask).to(sublayer.output.weight)
    hook = sublayer.output.register_forward_pre_hook(lambda _, args: (args[0] * factors,))
    try:
        yield
    finally:
        hook.remove()


def _set(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    trainable = linear.weight.requires_grad
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=trainable)
    linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=trainable)
    linear.out_features, linear.in_features = weight.shape
