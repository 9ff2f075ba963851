"""A Hugging Face encoder as 2L sublayers: its own forward runs, entered at a layer and watched.

No attention, norm, gate or head is written again here: a family is a few names (`families`).
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kprune.data.batching import Batch
from kprune.engine.attention import plug_in
from kprune.engine.sharing import sharing_weights
from kprune.families import head_size, names_of
from kprune.outputs import Kind, kind_of


@dataclass(frozen=True)
class Sublayer:
    """One MHA or FFN sublayer. A *unit* is a head (d_h features) or a neuron (one feature).

    The fields refer to the model's own modules, so surgery on them shows here at once.

    Attributes:
        place: its number t, from 0 at the embedding.
        inputs: the projections that give its units their inputs.
        blocks: parts of a unit's rows in each of them.
        output: the output projection; what it is given are the *features* of the units.
        sum_at: the module that is given X + Sub(X), or the layer, which gives it.
        unit_size: features of a unit.
        others: further projections that lose a head's rows with it.
        after: what the family needs when units were removed (`families.Names.after`).
    """

    place: int
    inputs: tuple[nn.Linear, ...]
    blocks: int
    output: nn.Linear
    sum_at: nn.Module
    unit_size: int
    others: tuple[nn.Linear, ...] = ()
    after: Callable[[Tensor, Tensor], None] = lambda units, features: None

    @property
    def kind(self) -> Literal["MHA", "FFN"]:
        """Attention or feed-forward."""
        return "FFN" if self.place % 2 else "MHA"

    @property
    def layer(self) -> int:
        """Number of its layer, from 0."""
        return self.place // 2

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.kind} of layer {self.layer + 1}"

    @property
    def units(self) -> int:
        """Number of units that it has now."""
        return self.output.in_features // self.unit_size

    def unit_flops(self, length: float) -> float:
        """FLOPs of one unit on one sequence of `length` tokens (multiplies and adds counted).

        Two for each weight of the unit's rows and columns and each token, and 4·s²·d_h for the
        attention of a head. In BERT that is the paper's F_h = 3·2·s·d·d_h + 2·2·s²·d_h + 2·s·d_h·d
        and F_n = 2·2·s·d; a gated neuron costs half as much again. Biases, norms, activations and
        embeddings are ignored.
        """
        projections = len(self.inputs) * self.blocks + 1
        flops = 2 * projections * length * self.output.out_features * self.unit_size
        return flops + (4 * length**2 * self.unit_size if self.kind == "MHA" else 0)


class Encoder:
    """A model seen as sublayers, from the embedding upwards.

    Args:
        model: a fine-tuned model of a known family; its modules are shared, not copied.
        pooling: of a model without a head: "mean" over real tokens, or "first".
        normalize: whether such a model's output is scaled to length 1.

    Attributes:
        model: the model (of an ALBERT whose layers share weights, a copy with layers of their own).
        kind: what its head predicts (`outputs`).
        layers: its list of layers.
        sublayers: 2L of them.

    Raises:
        ValueError: for a family or a head that is not known.
    """

    def __init__(self, model: PreTrainedModel, pooling: str = "mean", normalize: bool = True):
        self.names = names_of(model)
        self.model: PreTrainedModel = self.names.prepare(model)
        self.pooling, self.normalize = pooling, normalize
        self.kind: Kind = kind_of(model, pooling, normalize)
        self.layers: nn.ModuleList = _get(self.model.base_model, self.names.layers)
        self.sublayers = [sub for i in range(len(self.layers)) for sub in self._sublayers(i)]

    def _sublayers(self, number: int) -> tuple[Sublayer, Sublayer]:
        layer, names = self.layers[number], self.names
        heads = Sublayer(
            place=2 * number,
            inputs=tuple(_get(layer, path) for path in names.heads_in),
            blocks=names.blocks[0],
            output=_get(layer, names.heads_out),
            sum_at=_get(layer, names.sums[0]),
            unit_size=head_size(self.model),
            others=tuple(filter(None, (_get(layer, path, None) for path in names.others))),
            after=partial(names.after, layer),
        )
        neurons = Sublayer(
            place=2 * number + 1,
            inputs=(_get(layer, names.neurons_in),),
            blocks=names.blocks[1],
            output=_get(layer, names.neurons_out),
            sum_at=_get(layer, names.sums[1]),
            unit_size=1,
        )
        return heads, neurons

    def run(
        self, batch: Batch, hidden: Tensor | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """The model's own forward, entered at the input of a layer and left at that of another.

        Args:
            batch: the batch, on the model's device.
            hidden: hidden states at the input of layer `start`, [batch, length, d]; None starts at
                the embedding.
            start: the layer to enter at; L is the head.
            stop: the layer at whose input to leave, L for the head's; None runs to the end.

        Returns:
            The outputs as `kind` reads them, or hidden states [batch, length, d].
        """
        with ExitStack() as stack:
            if hidden is not None:
                stack.enter_context(self._entered(hidden, start))
            if stop is not None:
                stack.enter_context(self._left(stop))
            try:
                found = self.model(**self._inputs(batch), return_dict=True)
            except _Leave as leave:
                return leave.value
        return self.kind.read(found, batch.mask)

    def passing(self, batch: Batch, hidden: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """A sublayer's features P and X + Sub(X), as they pass by.

        Args:
            batch: the batch.
            hidden: hidden states at the input of the sublayer's *layer*, [batch, length, d].
            place: number of the sublayer.

        Returns:
            [batch, length, units · unit_size] and [batch, length, d].
        """
        sublayer = self.sublayers[place]
        with tapped([sublayer]) as features, summed(sublayer, _leave):
            total = self.run(batch, hidden, sublayer.layer, sublayer.layer + 1)
        return features[0], total

    def given(self, module: nn.Module, batch: Batch, hidden: Tensor, start: int) -> Tensor:
        """What a module above the input of layer `start` is given, when the model runs from there.

        Args:
            module: one of the model's modules.
            batch, hidden, start: as in `run`.
        """
        hook = module.register_forward_pre_hook(lambda _, args: _leave(args[0]), prepend=True)
        try:
            return self.run(batch, hidden, start)
        finally:
            hook.remove()

    def copy(self, dtype: torch.dtype | None = None) -> "Encoder":
        """The same encoder with modules of its own and frozen views of the same weights.

        Args:
            dtype: of the sublayers' matrix products, where their projections are converted; the sum
                with the input, norms, embeddings and head keep theirs. None converts nothing.
        """
        twin = Encoder(sharing_weights(self.model), self.pooling, self.normalize)
        plug_in(twin.model)
        if dtype is not None:
            for sublayer in twin.sublayers:
                for linear in (*sublayer.inputs, *sublayer.others, sublayer.output):
                    linear.to(dtype)
                    linear.register_forward_pre_hook(_cast)
        return twin

    def flops(self, length: float) -> float:
        """FLOPs of all units on one sequence of `length` tokens, by the paper's count."""
        return sum(sub.units * sub.unit_flops(length) for sub in self.sublayers)

    def units(self, kind: Literal["MHA", "FFN"]) -> list[int]:
        """Heads ("MHA") or neurons ("FFN") of each layer."""
        return [sub.units for sub in self.sublayers if sub.kind == kind]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @cached_property
    def last(self) -> nn.Linear | None:
        """The head's last projection, which gives the outputs; None without a head."""
        inside = {id(module) for module in self.model.base_model.modules()}
        outside = (m for m in self.model.modules() if id(m) not in inside)
        linears = [module for module in outside if isinstance(module, nn.Linear)]
        return linears[-1] if linears else None

    @cached_property
    def _takes_token_types(self) -> bool:
        known = inspect.signature(self.model.forward).parameters
        return "token_type_ids" in known and getattr(self.model.config, "type_vocab_size", 2) > 1

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = {"input_ids": batch.inputs["input_ids"]}
        if batch.mask is not None:
            inputs["attention_mask"] = batch.attention_mask
        if self._takes_token_types and "token_type_ids" in batch.inputs:
            inputs["token_type_ids"] = batch.inputs["token_type_ids"]
        return inputs

    @contextmanager
    def _entered(self, hidden: Tensor, start: int) -> Iterator[None]:
        """Lower layers hand on what they are given, and the one at `start` is given `hidden`."""
        kept = list(self.layers)
        for number in range(start):
            self.layers[number] = _Passed(kept[number], hidden, self.names.pairs)
        enter = []
        if start < len(kept):
            enter = [kept[start].register_forward_pre_hook(_given(hidden), with_kwargs=True)]
        try:
            yield
        finally:
            for hook in enter:
                hook.remove()
            for number in range(start):
                self.layers[number] = kept[number]

    @contextmanager
    def _left(self, stop: int) -> Iterator[None]:
        if stop < len(self.layers):
            hook = self.layers[stop].register_forward_pre_hook(
                lambda _, args, named: _leave(args[0] if args else named["hidden_states"]),
                with_kwargs=True,
            )
        else:
            hook = self.layers[-1].register_forward_hook(lambda _, args, out: _leave(_first(out)))
        try:
            yield
        finally:
            hook.remove()


def flops(model: PreTrainedModel, length: float) -> float:
    """FLOPs of a model's units by the paper's count (see `Sublayer.unit_flops`).

    Args:
        model: dense or pruned.
        length: tokens per sequence.
    """
    return Encoder(model).flops(length)


@contextmanager
def tapped(sublayers: Sequence[Sublayer]) -> Iterator[list[Tensor]]:
    """Within the block, the features of sublayers as they pass by, [batch, length, features] each.

    Where gradients are on, the first of them is a leaf of the graph: nothing below is
    differentiated, and nothing else (weights are frozen in an `Encoder.copy`).

    Yields:
        A list with an entry for each sublayer, filled by a run of the model.
    """
    features: list[Tensor] = [torch.empty(0)] * len(sublayers)

    def tap(number: int):
        def hook(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
            passing = given[0]
            if torch.is_grad_enabled() and not passing.requires_grad:
                passing = passing.detach().requires_grad_()
            features[number] = passing
            return (passing,)

        return hook

    with ExitStack() as stack:
        for number, sublayer in enumerate(sublayers):
            stack.callback(sublayer.output.register_forward_pre_hook(tap(number)).remove)
        yield features


@contextmanager
def summed(sublayer: Sublayer, take) -> Iterator[None]:
    """Within the block, `take` is called with X + Sub(X) of a sublayer, [batch, length, d]."""
    at = sublayer.sum_at
    if isinstance(at, (nn.LayerNorm, nn.Identity)):
        hook = at.register_forward_pre_hook(lambda _, given: take(given[0]))
    else:
        hook = at.register_forward_hook(lambda _, given, out: take(_first(out)))
    try:
        yield
    finally:
        hook.remove()


class _Passed(nn.Module):
    """Stands in for a layer below the one that is entered; `like` answers for its attributes."""

    def __init__(self, like: nn.Module, hidden: Tensor, pair: bool):
        super().__init__()
        self.__dict__.update(like_=like, hidden=hidden, pair=pair)

    def __getattr__(self, name: str):
        return getattr(self.__dict__["like_"], name)

    def forward(self, *_, **__):
        return (self.hidden, None) if self.pair else self.hidden


class _Leave(Exception):
    """Ends a run early, with what it came for."""

    def __init__(self, value: Tensor):
        self.value = value


def _leave(value: Tensor):
    raise _Leave(value)


def _given(hidden: Tensor):
    def hook(_: nn.Module, args: tuple, named: dict) -> tuple[tuple, dict]:
        if args:
            return (hidden, *args[1:]), named
        return args, named | {"hidden_states": hidden}

    return hook


def _cast(linear: nn.Linear, given: tuple[Tensor]) -> tuple[Tensor]:
    return (given[0].to(linear.weight.dtype),)


def _first(out: Tensor | tuple) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


_MISSING = object()


def _get(module: nn.Module, path: str, default=_MISSING) -> nn.Module:
    """The module at a dotted path; the module itself for the empty one."""
    try:
        return reduce(getattr, path.split("."), module) if path else module
    except AttributeError:
        if default is _MISSING:
            raise
        return default
