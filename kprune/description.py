"""Whether a model is what its configuration says, so that a folder opens as the same one."""

from collections.abc import Callable, Iterator

import accelerate
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from kprune.classes import is_own, unpooled

# Of training (p is dropout's), and the place in a model that may have lost whole layers.
BESIDE = ("training", "gradient_checkpointing", "p", "layer_idx", "n_layers")


def check_described(model: PreTrainedModel, state: dict[str, torch.Tensor]) -> None:
    """Raise ValueError for a model that its configuration does not describe: none could load it.

    `state` are its weights by name, as a file would hold them.
    """
    if not is_own(type(model)):
        raise ValueError(
            f"A {type(model).__name__} is no class of transformers'; no file says how to open it."
        )
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            wanted = type(model)(model.config)
        with torch.device("cpu"), accelerate.init_empty_weights():  # but for buffers
            whole = getattr(transformers, type(model).__name__)(model.config)
    if getattr(model, "pooler", model) is None:
        unpooled(wanted)
    faults = [*_weights(state, wanted.state_dict()), *_modules(model, wanted)]
    here = dict(model.named_buffers())
    for name, there in whole.named_buffers():  # what files do not hold, such as positions
        if name not in state and not (name in here and here[name].cpu().to(there).equal(there)):
            faults.append(f"{name} holds other numbers than its configuration gives")
    if faults:
        raise ValueError(
            f"The model is not what its configuration says: {min(faults)}, so it would be another "
            "when opened again; change the configuration with it, or the model to what that gives."
        )


def _weights(state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> Iterator[str]:
    """Names and shapes that differ."""
    here, there = ({(k, tuple(w.shape)) for k, w in one.items()} for one in (state, wanted))
    for key, _ in here ^ there:
        yield f"{key} is missing, left over or of another shape"


def _modules(model: nn.Module, wanted: nn.Module) -> Iterator[str]:
    """Types, hooks and numbers that differ."""
    own, others = dict(model.named_modules()), dict(wanted.named_modules())
    for name in own.keys() | others.keys():
        here, there = (type(parts.get(name)).__name__ for parts in (own, others))
        if here != there:
            yield f"{name} is a {here}, and by its configuration a {there}"
    for name in own.keys() & others.keys():
        if _hooks(own[name]):
            yield f"{name or 'the model'} has a hook, which no file would hold"
        here = vars(own[name])
        for key, value in _numbers(others[name]).items():
            if here.get(key) != value:
                what = f"{key} of {name or 'the model'} is {here.get(key)}"
                yield f"{what}, and by its configuration {value}"


def _hooks(part: nn.Module) -> list[Callable]:
    """What others have hung to a module; ours, in MPNet, and transformers' own are made anew."""
    hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    known = ("kprune.", "transformers.")
    return [hook for hook in hooks if not getattr(hook, "__module__", "").startswith(known)]


def _numbers(part: nn.Module) -> dict[str, float]:
    """What a module computes with beside its weights, such as a norm's eps."""
    return {
        key: value
        for key, value in vars(part).items()
        if isinstance(value, (int, float)) and not key.startswith("_") and key not in BESIDE
    }
