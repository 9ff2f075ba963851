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
from kprune.engine.attention import plug_in, without_heads
from kprune.engine.hooks import Leave, entered, given, gives, leave, replaced
from kprune.engine.sharing import sharing_weights
from kprune.families import Names, head_size, names_of
from kprune.outputs import Kind, kind_of


@dataclass(frozen=True)
class Sublayer:
    """One MHA or FFN sublayer. A *unit* is a head (d_h features) or a neuron (one feature).

    Attributes:
        place: its number t, from 0 at the embedding.
        inputs: the projections that give its units their inputs; the model's own modules.
        blocks: parts of a unit's rows in each of them.
        output: the output projection; what it is given are the *features* of the units.
        total: within its block, hands X + Sub(X), [batch, length, d], to a function.
        unit_size: features of a unit.
        others: further projections that lose a head's rows with it.
        after: what the family needs when units were removed (`families.Names.after`).
    """

    place: int
    inputs: tuple[nn.Linear, ...]
    blocks: int
    output: nn.Linear
    total: Callable
    unit_size: int = 1
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
        totals = [
            partial(given, _get(layer, path)) if path else partial(gives, layer)
            for path in names.sums
        ]
        heads = Sublayer(
            place=2 * number,
            inputs=tuple(_get(layer, path) for path in names.heads_in),
            blocks=names.blocks[0],
            output=_get(layer, names.heads_out),
            total=totals[0],
            unit_size=head_size(self.model),
            others=tuple(filter(None, (_get(layer, path, False) for path in names.others))),
            after=partial(_after, names, layer),
        )
        neurons = Sublayer(
            place=2 * number + 1,
            inputs=(_get(layer, names.neurons_in),),
            blocks=names.blocks[1],
            output=_get(layer, names.neurons_out),
            total=totals[1],
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
                stack.enter_context(entered(self.layers, start, hidden, self.names.pairs))
            if stop is not None and stop < len(self.layers):
                stack.enter_context(given(self.layers[stop], leave))
            elif stop is not None:
                stack.enter_context(gives(self.layers[-1], leave))
            try:
                found = self.model(**self._inputs(batch), return_dict=True)
            except Leave as early:
                return early.value
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
        with tapped([sublayer]) as features, sublayer.total(leave):
            total = self.run(batch, hidden, sublayer.layer, sublayer.layer + 1)
        return features[0], total

    def reaching(self, module: nn.Module, batch: Batch, hidden: Tensor, start: int) -> Tensor:
        """What one of the model's modules is given in a run from layer `start`; it ends there."""
        with given(module, leave, first=True):
            return self.run(batch, hidden, start)

    def copy(self, dtype: torch.dtype | None = None) -> "Encoder":
        """The same encoder with modules of its own and frozen views of the same weights.

        Args:
            dtype: of the sublayers' matrix products, where their projections are converted; the sum
                with the input, norms, embeddings and head keep theirs. None converts nothing.
        """
        twin = Encoder(sharing_weights(self.model), self.pooling, self.normalize)
        plug_in(twin.model)
        for sublayer in twin.sublayers if dtype else ():
            for linear in (*sublayer.inputs, *sublayer.others, sublayer.output):
                linear.to(dtype).register_forward_pre_hook(_cast)
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


def flops(model: PreTrainedModel, length: float) -> float:
    """FLOPs of a model's units on one sequence of `length` tokens (see `Sublayer.unit_flops`)."""
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

    def tap(number: int, passing: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not passing.requires_grad:
            passing = passing.detach().requires_grad_()
        features[number] = passing
        return passing

    with ExitStack() as stack:
        for number, sublayer in enumerate(sublayers):
            stack.enter_context(replaced(sublayer.output, partial(tap, number)))
        yield features


def _cast(linear: nn.Linear, given: tuple[Tensor]) -> tuple[Tensor]:
    return (given[0].to(linear.weight.dtype),)


def _after(names: Names, layer: nn.Module, heads: Tensor, features: Tensor) -> None:
    """What a layer needs when heads were removed."""
    if not heads.any():
        without_heads(_get(layer, names.heads_in[0].rpartition(".")[0]))
    names.after(layer, heads, features)


def _get(module: nn.Module, path: str, must: bool = True) -> nn.Module | None:
    """The module at a dotted path; None where there `must` not be one, and is none."""
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError:
        if must:
            raise
        return None
