"""What shows that a family's names are right: for who adds one, and for this package's tests."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kprune.checks import check_model
from kprune.data.checks import first_line
from kprune.encoders import Encoder
from kprune.engine.sharing import sharing_weights
from kprune.families import Names, names_of
from kprune.inputs import made_up
from kprune.surgery import keep_units, masked

TOKENS = 12  # of the two sequences that are looked at


def check_family(model: PreTrainedModel) -> None:
    """Raise ValueError, naming the field of `Names`, where a model does not work as they say.

    Of every sublayer: the run entered at its input ends as the whole one does; what its features
    add to X + Sub(X) is their product with the output projection; and cutting its first unit is
    masking it. A model with random weights of the family does.
    """
    check_paths(model, names_of(model))
    try:
        _check_runs(model)
    except (LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(
            "The family's Names cannot be right, or its attention is of another kind than those "
            f"known: {type(error).__name__} {first_line(error)}."
        ) from error


def check_class(model: PreTrainedModel) -> None:
    """Raise ValueError for a class of the user's own that does more than read its encoder's output.

    As `check_family`, which blames the names.
    """
    try:
        _check_runs(Encoder(sharing_weights(model)).copy().model.float())
    except (ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        reason = first_line(error).rpartition("cannot be right: ")[2]
        raise ValueError(
            f"The forward of {type(model).__name__}, a class of your own, cannot be entered at a "
            f"sublayer: {reason.rstrip('.')}. It must run its encoder once, and its head read "
            "nothing else than the encoder's last hidden states."
        ) from error


@torch.no_grad()
def _check_runs(model: PreTrainedModel) -> None:
    check_model(model)
    encoder, batch = Encoder(model), made_up(model, 2, TOKENS)
    encoder = encoder.copy()
    whole = encoder.run(batch)
    for t, sublayer in enumerate(encoder.sublayers):
        hidden, field = encoder.run(batch, stop=t), "sums or pairs"
        _alike(encoder.run(batch, hidden, t), whole, field, f"entered at the {sublayer.name}")
        P, total = encoder.passing(batch, hidden, t)
        silent = encoder.copy()
        silent.sublayers[t].silence()
        rest = silent.passing(batch, hidden, t)[1]
        added = P @ sublayer.output.weight.T
        _alike(total - rest, added, "sums", f"what the {sublayer.name} adds to X")
        keep = torch.arange(sublayer.units, device=encoder.device) > 0
        with masked(sublayer, keep.float()):
            wanted = encoder.run(batch)
        cut = encoder.copy()
        field = "heads_in, others, blocks or after"
        try:
            keep_units(cut.sublayers[t], keep)
            found = cut.run(batch)
        except RuntimeError as error:
            raise ValueError(_words(field, f"the {sublayer.name} without a unit", error)) from error
        _alike(found, wanted, field, f"the {sublayer.name} without a unit")


def check_paths(model: PreTrainedModel, names: Names) -> None:
    """Raise ValueError, naming the field, for a path that leads nowhere in the first layer."""
    known = dict(model.base_model.named_modules())
    if names.layers not in known:
        raise ValueError(f"layers: there is no {names.layers!r} in {type(model.base_model)}.")
    here = dict(known[names.layers][0].named_modules())
    for field in ("heads_in", "heads_out", "neurons_in", "neurons_out", "sums"):
        value = getattr(names, field)
        for path in (value,) if isinstance(value, str) else value:
            if path not in here:
                raise ValueError(f"{field}: there is no {path!r} in {type(here['']).__name__}.")


def _alike(found: Tensor, wanted: Tensor, field: str, what: str) -> None:
    most = wanted.abs().max().clamp(min=1e-6)
    if found.shape != wanted.shape or not (found - wanted).abs().max() <= 1e-3 * most:
        raise ValueError(_words(field, what, "another result"))


def _words(field: str, what: str, found: object) -> str:
    return f"{field} of the family's Names cannot be right: {what} gives {found}."
