"""Physical removal of heads and neurons."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kprune.encoders import Encoder, Sublayer
from kprune.engine.empty import NoHeads, NoUnits
from kprune.engine.hooks import Handle, replaced


def keep_units(sublayer: Sublayer, keep: Tensor) -> None:
    """Remove all units of a sublayer but those where `keep`, bool [units], is True, in place.

    A unit leaves with its rows of the input projections and its columns of the output projection. A
    sublayer that loses every unit becomes X + b: the bias of its output projection stays, and
    modules without weights (`engine.empty`) stand in for the rest.
    """
    if keep.dtype != torch.bool or keep.shape != (sublayer.units,):
        wanted, got = f"{sublayer.units} booleans", f"{keep.dtype} of shape {tuple(keep.shape)}"
        raise ValueError(f"The mask of the {sublayer.name} must hold {wanted}; got {got}.")
    keep_numbered(sublayer, keep.cpu().nonzero().flatten())


def keep_numbered(sublayer: Sublayer, units: Tensor) -> None:
    """Remove all units of a sublayer but these, numbers in order, int64 on the CPU, in place."""
    if not sublayer.units:
        return
    within, features = torch.arange(sublayer.unit_size), sublayer.output.in_features
    columns = (units[:, None] * sublayer.unit_size + within).flatten()
    rows = torch.cat([columns + block * features for block in range(sublayer.blocks)])
    for path, linear in sublayer.projections.items():
        weight, bias = linear.weight, linear.bias
        if path == sublayer.output_path:
            weight = weight[:, columns.to(weight.device)]
        else:
            kept = rows.to(weight.device)
            weight, bias = weight[kept], None if bias is None else bias[kept]
        set_weight(linear, weight, bias)
    if sublayer.kind == "MHA":
        sublayer.names.after(sublayer.part, units, len(columns))
    if not len(units):
        stand_in(sublayer)


def cut(encoder: Encoder, masks: Sequence[Tensor]) -> None:
    """Remove units of all sublayers at once, in place; one mask for each, as in `keep_units`."""
    for sublayer, keep in zip(encoder.sublayers, masks, strict=True):
        keep_units(sublayer, keep)


def feature_mask(sublayer: Sublayer, keep: Tensor) -> Tensor:
    """The mask of units [units] spread over their features: bool [units · unit_size]."""
    return keep.repeat_interleave(sublayer.unit_size)


def masked(sublayer: Sublayer, mask: Tensor) -> Handle:
    """Within the block, multiply each unit by its mask variable, [units], in place of removal."""
    factors = feature_mask(sublayer, mask).to(sublayer.output.weight)
    return replaced(sublayer.output, lambda features: features * factors)


def stand_in(sublayer: Sublayer) -> None:
    """Put modules without weights in the place of what has no units."""
    layer, names, core = sublayer.part, sublayer.names, sublayer.names.attention
    for path, linear in sublayer.projections.items():
        layer.set_submodule(path, NoUnits(linear))
    if sublayer.kind == "MHA":
        out, norm = (path.partition(f"{core}.")[2] for path in (names.heads_out, names.sums[0]))
        layer.set_submodule(core, NoHeads(layer.get_submodule(core), out, norm))


def set_weight(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Put new tensors in a projection's place; other copies of the model keep the old ones."""
    trainable = linear.weight.requires_grad
    if weight.numel() or not isinstance(linear, NoUnits):
        linear.weight = nn.Parameter(weight.detach().contiguous().clone(), requires_grad=trainable)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=trainable)
    linear.out_features, linear.in_features = weight.shape
