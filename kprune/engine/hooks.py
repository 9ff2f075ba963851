"""Hooks by which a model's own forward is entered at a layer, left at a module, and watched.

A handle takes its hook away at the end of a `with` block.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle as Handle


class Leave(Exception):
    """Ends a run early, with what it came for."""

    def __init__(self, value: Tensor):
        self.value = value


def leave(value: Tensor) -> None:
    raise Leave(value)


def given(module: nn.Module, take: Callable[[Tensor], object], first: bool = False) -> Handle:
    """Within the block, `take` gets what a module is given, before its other hooks if `first`."""

    def hook(_: nn.Module, args: tuple, named: dict) -> None:
        take(args[0] if args else named["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True, prepend=first)


def gives(module: nn.Module, take: Callable[[Tensor], object]) -> Handle:
    """Within the block, `take` gets what a module gives, or the first of what it gives."""
    return module.register_forward_hook(
        lambda _, args, out: take(out[0] if isinstance(out, tuple) else out)
    )


def replaced(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Handle:
    """Within the block, a module is given `change(x)` in place of its first argument x."""

    def hook(_: nn.Module, args: tuple, named: dict) -> tuple[tuple, dict]:
        if args:
            return (change(args[0]), *args[1:]), named
        return args, named | {"hidden_states": change(named["hidden_states"])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


@contextmanager
def entered(
    backbone: nn.Module,
    layers: nn.ModuleList,
    start: int,
    hidden: Tensor,
    pairs: bool,
    embed: bool = False,
) -> Iterator:
    """Within the block, all below layer `start` does nothing, and that one is given `hidden`.

    With `embed` the embeddings run: the first layers of some models are not all that they are for.
    """
    kept, embeddings = list(layers), backbone.embeddings
    narrow = getattr(backbone.config, "embedding_size", hidden.shape[-1]) != hidden.shape[-1]
    if not (embed or narrow):
        backbone.embeddings = Passed(embeddings, hidden, False)
    for number in range(start):
        layers[number] = Passed(kept[number], hidden, pairs)
    try:
        with replaced(kept[start], lambda _: hidden) if start < len(kept) else nullcontext():
            yield
    finally:
        backbone.embeddings = embeddings
        for number in range(start):
            layers[number] = kept[number]


class Passed(nn.Module):
    """Stands in for a module that is passed over, which answers for its attributes."""

    def __init__(self, layer: nn.Module, hidden: Tensor, pair: bool):
        super().__init__()
        self.__dict__["layer"] = layer
        self.out = (hidden, None) if pair else hidden

    def __getattr__(self, name: str):
        return getattr(self.__dict__["layer"], name)

    def forward(self, *_, **__):
        return self.out


class Cast:
    """Gives projections their input in another type; those that share it, the same tensor."""

    def __init__(self, dtype: torch.dtype):
        self.dtype, self.last = dtype, (None, None)

    def __deepcopy__(self, memo: dict) -> "Cast":
        return Cast(self.dtype)  # what passed here last is not the copy's

    def __call__(self, linear: nn.Linear, given: tuple[Tensor]) -> tuple[Tensor]:
        if given[0].dtype == self.dtype:  # the output projection's: what was cast is used
            self.last = None, None
            return given
        if self.last[0] is not given[0]:
            self.last = given[0], given[0].to(self.dtype)
        return (self.last[1],)
