"""What is refused before any work: models that cannot be pruned, or are not what they say."""

import torch
from torch import nn
from transformers import PreTrainedModel

from kprune.encoders import Encoder
from kprune.engine.empty import NoUnits
from kprune.families import names_of, noted

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_model(model: PreTrainedModel, empty: bool = False) -> None:
    """Raise ValueError for what is no loaded model, cannot be cut, or holds broken weights.

    Likewise, unless it may be `empty`, for one without units.
    """
    names_of(model)
    check_weights(model)
    _check_forwards(model)
    encoder = Encoder(model)
    _check_head(encoder)
    count = model.config.num_hidden_layers
    if len(encoder.layers) != count:
        raise ValueError(
            f"The configuration asks for {count} layers, and the model has {len(encoder.layers)}; "
            "set config.num_hidden_layers to that."
        )
    if not empty and not any(sub.units for sub in encoder.sublayers):
        raise ValueError("The model has no heads and no neurons left: there is nothing to prune.")
    _check_projections(encoder)
    check_kept(model, [sub.units for sub in encoder.sublayers])


def check_weights(model: PreTrainedModel) -> None:
    """Raise ValueError for weights that are no plain numbers, not at hand, or not finite."""
    names, weights = zip(*model.named_parameters(), strict=True)
    for name, weight in zip(names, weights, strict=True):
        if weight.layout is not torch.strided:
            raise ValueError(f"The weight {name} is a sparse tensor; make it dense (to_dense).")
        if type(weight.data).__module__.startswith("torchao") or weight.dtype not in FLOATS:
            raise ValueError(f"The weight {name} is quantized; prune the model before that.")
        if weight.device.type == "meta" or weight.is_inference():
            raise ValueError(f"The weight {name} is not loaded, or was so in inference mode.")
        if weight.device.type == "mps":
            raise ValueError(
                f"The weight {name} is on {weight.device}, which has no float64, in which sums are "
                "kept; move the model to the CPU."
            )
    finite = torch.stack([weight.isfinite().all() for weight in weights]).tolist()  # one wait
    for name in (name for name, fine in zip(names, finite, strict=True) if not fine):
        raise ValueError(f"The weight {name} holds NaN or infinite values; load the model again.")


def _check_forwards(model: PreTrainedModel) -> None:
    """Copies run what the model runs."""
    for name, part in model.named_modules():
        own = vars(part)  # a bf16 Trainer's own wrapper is taken off where it matters
        if "forward" in own and "_original_forward" not in own:
            raise ValueError(
                f"The forward of {name or 'the model'} was replaced, and a copy would run that of "
                "the original; prune first, then replace it (torch.compile does so, too)."
            )


def _check_head(encoder: Encoder) -> None:
    """The head gives what the configuration says."""
    kind, last = encoder.kind, encoder.last
    if last is not None and last.out_features != kind.outputs:
        raise ValueError(
            f"The configuration asks for {kind.outputs} outputs ({kind.name}), and the head gives "
            f"{last.out_features}; set config.num_labels to that."
        )
    if kind.name == "tokens" and kind.outputs < 2:
        raise ValueError("A head that labels tokens has two labels at least, and this one has one.")


def _check_projections(encoder: Encoder) -> None:
    """What is to be cut are plain projections, each a module of its own, that fit together."""
    seen: dict[int, str] = {}
    for sub in encoder.sublayers:
        projections = sub.projections
        for path, part in sub.parts.items():
            where = f"{path} of layer {sub.layer + 1}"
            weight = dict(part.named_parameters(recurse=False)).get("weight")
            plain = type(part) in (nn.Linear, NoUnits) and not (weight is None and sub.units)
            if path in projections and not plain:
                raise ValueError(
                    f"{where} is a {type(part).__name__}, not a plain torch.nn.Linear; merge "
                    "adapters first (merge_and_unload), or load the model without quantization."
                )
            if (other := seen.setdefault(id(part), where)) != where:
                raise ValueError(
                    f"{where} is the same module as {other}: layers that are pruned need modules "
                    "of their own; copy it (copy.deepcopy)."
                )
        wide = {linear.out_features for linear in sub.inputs}
        if wide != {sub.output.in_features * sub.blocks}:
            raise ValueError(
                f"The {sub.name} does not fit together: its projections to units give "
                f"{', '.join(map(str, sorted(wide)))} features, and the one behind them takes "
                f"{sub.output.in_features}."
            )


def check_kept(model: PreTrainedModel, units: list[int]) -> None:
    """Raise ValueError where a configuration names other units than the model has."""
    kept = noted(model.config).get("kept")
    if kept is not None and [len(own) for own in kept] != units:
        raise ValueError(
            "The configuration says that the model was pruned, and its layers are of other sizes: "
            "from_pretrained with ignore_mismatched_sizes draws them at random; use kprune.load."
        )
