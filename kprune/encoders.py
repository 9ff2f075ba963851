"""A Hugging Face encoder as 2L sublayers: its own forward runs, entered at a sublayer and watched.

No attention, norm, gate or head is written again here: a family is a few names (`families`).
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kprune.data.batching import Batch
from kprune.data.checks import number
from kprune.engine.attention import plug_in
from kprune.engine.empty import NoUnits
from kprune.engine.hooks import Cast, Handle, Leave, Passed, entered, given, gives, leave, replaced
from kprune.engine.sharing import sharing_weights
from kprune.families import Names, names_of
from kprune.outputs import Kind, kind_of


def name_of(place: int) -> str:
    """What a sublayer is called, by its number from 0 at the embedding."""
    return f"{'FFN' if place % 2 else 'MHA'} of layer {place // 2 + 1}"


@dataclass(frozen=True)
class Sublayer:
    """One MHA or FFN sublayer. A *unit* is a head (d_h features) or a neuron (one feature)."""

    place: int  # its number t, from 0 at the embedding
    part: nn.Module  # its layer
    names: Names
    unit_size: int = 1  # features of a unit

    @property
    def input_paths(self) -> tuple[str, ...]:
        return self.names.heads_in if self.kind == "MHA" else (self.names.neurons_in,)

    @property
    def inputs(self) -> tuple[nn.Linear, ...]:
        """The projections that give its units their inputs."""
        return tuple(map(self.part.get_submodule, self.input_paths))

    @property
    def blocks(self) -> int:
        """Parts of a unit's rows in each of them."""
        return self.names.blocks[self.place % 2]

    @property
    def other_paths(self) -> tuple[str, ...]:
        """Of further projections that lose a head's rows with it."""
        here = dict(self.part.named_modules()) if self.kind == "MHA" else ()
        return tuple(path for path in self.names.others if path in here)

    @property
    def output_path(self) -> str:
        return self.names.heads_out if self.kind == "MHA" else self.names.neurons_out

    @property
    def output(self) -> nn.Linear:
        """What this projection is given are the *features* of the units."""
        return self.part.get_submodule(self.output_path)

    @property
    def projections(self) -> dict[str, nn.Linear]:
        """All that a unit has rows or columns in, by path."""
        paths = (*self.input_paths, *self.other_paths, self.output_path)
        return {path: self.part.get_submodule(path) for path in paths}

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What it can share with no other: its projections, and what is given X + Sub(X)."""
        path = self.names.sums[self.place % 2]
        return self.projections | ({path: self.part.get_submodule(path)} if path else {})

    def silence(self) -> None:
        """Take its units' part out of X + Sub(X): in a copy whose features alone are wanted."""
        if not isinstance(self.output, NoUnits):
            self.part.set_submodule(self.output_path, NoUnits(self.output))

    def total(self, take: Callable[[Tensor], object]) -> Handle:
        """Within the block, hands X + Sub(X), [batch, length, d], to a function."""
        path = self.names.sums[self.place % 2]
        return given(self.part.get_submodule(path), take) if path else gives(self.part, take)

    @property
    def kind(self) -> Literal["MHA", "FFN"]:
        return "FFN" if self.place % 2 else "MHA"

    @property
    def layer(self) -> int:
        return self.place // 2

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return name_of(self.place)

    @property
    def units(self) -> int:
        return self.output.in_features // self.unit_size

    def unit_flops(self, length: float) -> float:
        """FLOPs of one unit on one sequence of `length` tokens (multiplies and adds counted).

        2 for each weight of its rows and columns and each token, and 4·s²·d_h for a head's
        attention. In BERT that is the paper's F_h = 3·2·s·d·d_h + 2·2·s²·d_h + 2·s·d_h·d and F_n =
        2·2·s·d; a gated neuron costs half as much again. Biases, norms, activations and embeddings
        are ignored.
        """
        projections = len(self.inputs) * self.blocks + 1
        flops = 2 * projections * length * self.output.out_features * self.unit_size
        return flops + (4 * length**2 * self.unit_size if self.kind == "MHA" else 0)


class Encoder:
    """A model seen as sublayers, from the embedding upwards.

    Args:
        model: a fine-tuned model of a known family; its modules are shared, not copied.
        pooling: of a model without a head: "mean" over real tokens, or "cls", the first.
        normalize: whether such a model's output is scaled to length 1.

    Its `kind` is what the head predicts (`outputs`), its `sublayers` are 2L.
    """

    def __init__(self, model: PreTrainedModel, pooling: str = "mean", normalize: bool = True):
        self.names = names_of(model)
        # Of an ALBERT whose layers share weights, a copy with layers of their own.
        self.model: PreTrainedModel = self.names.prepare(model)
        self.pooling, self.normalize = pooling, normalize
        self.kind: Kind = kind_of(model, pooling, normalize)
        self.layers: nn.ModuleList = self.model.base_model.get_submodule(self.names.layers)
        d_h = model.config.hidden_size // model.config.num_attention_heads
        self.sublayers = [
            Sublayer(2 * number + kind, layer, self.names, unit_size)
            for number, layer in enumerate(self.layers)
            for kind, unit_size in enumerate((d_h, 1))
        ]

    def __repr__(self) -> str:
        heads, neurons = self.units("MHA"), self.units("FFN")
        return f"Encoder({type(self.model).__name__}, heads {heads}, neurons {neurons})"

    def run(
        self, batch: Batch, hidden: Tensor | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """The model's own forward, entered at the input of a sublayer and left at that of another.

        `hidden`, [batch, length, d], enters at sublayer `start`; None starts at the embedding.
        Sublayer 2L is the head; without `stop` it runs to the end. Gives the outputs as `kind`
        reads them, or the hidden states at the input of sublayer `stop`. Those of an FFN are
        X + Sub(X) of the heads below it, before a norm that stands between.
        """
        with ExitStack() as stack:
            if hidden is not None:
                below = self.model.base_model, self.layers, start // 2, hidden, self.names.pairs
                # DeBERTa's convolution beside the first layer takes the embeddings.
                stack.enter_context(entered(*below, embed=start == 1))
                if start % 2:
                    stack.enter_context(self._past_heads(start // 2, hidden))
            if stop is not None and stop % 2:
                stack.enter_context(self.sublayers[stop - 1].total(leave))
            elif stop is not None and stop < len(self.sublayers):
                stack.enter_context(given(self.layers[stop // 2], leave))
            elif stop is not None:
                stack.enter_context(gives(self.layers[-1], leave))
            try:
                found = self.model(**self._inputs(batch), return_dict=True)
            except Leave as early:
                return early.value
        return self.kind.read(found, batch.mask)

    def passing(
        self, batch: Batch, hidden: Tensor, place: int, on: Callable | None = None
    ) -> tuple[Tensor, Tensor]:
        """A sublayer's features P and X + Sub(X), from `hidden` at its input.

        The run ends there, or at the input of the next sublayer, with which `on` is called.
        """
        sublayer, totals = self.sublayers[place], []
        with tapped([sublayer]) as features, sublayer.total(totals.append if on else leave):
            found = self.run(batch, hidden, place, place + 1)
        if on is None:
            return features[0], found
        on(found)
        return features[0], totals[0]

    def reaching(self, module: nn.Module, batch: Batch, hidden: Tensor, start: int) -> Tensor:
        """What one of the model's modules is given in a run from sublayer `start`, its end."""
        with given(module, leave, first=True):
            return self.run(batch, hidden, start)

    @contextmanager
    def _past_heads(self, layer: int, total: Tensor) -> Iterator[None]:
        """Within the block, a layer's heads do nothing, and X + Sub(X) is what is given here."""
        part, nothing = self.layers[layer], total.new_zeros(()).expand(total.shape)
        core, out = self.names.attention, self.names.heads_out
        # What sums lies within the attention of ALBERT, which runs for nothing.
        paths = [] if self.names.sums[0].startswith(core) else [core]
        paths += [out] if paths and not out.startswith(core) else []
        kept = {path: part.get_submodule(path) for path in paths}
        for path, module in kept.items():
            part.set_submodule(path, Passed(module, nothing, path == core))
        try:
            with replaced(part.get_submodule(self.names.sums[0]), lambda _: total):
                yield
        finally:
            for path, module in kept.items():
                part.set_submodule(path, module)

    def copy(self, dtype: torch.dtype | None = None) -> "Encoder":
        """The same encoder with modules of its own and frozen views of the same weights.

        With `dtype` the sublayers' projections are converted, and nothing else.
        """
        twin = Encoder(sharing_weights(self.model), self.pooling, self.normalize)
        twin.kind = self.kind
        plug_in(twin.model)
        for sublayer in twin.sublayers if dtype else ():
            cast = Cast(dtype)
            for linear in sublayer.projections.values():
                linear.to(dtype).register_forward_pre_hook(cast)
        for part in twin.layers.modules() if dtype else ():
            if isinstance(part, nn.PReLU):  # the activation that has a weight
                part.to(dtype)
        return twin

    def flops(self, length: float) -> float:
        """FLOPs of all units on one sequence of `length` tokens, by the paper's count."""
        return sum(sub.units * sub.unit_flops(length) for sub in self.sublayers)

    def units(self, kind: Literal["MHA", "FFN"]) -> list[int]:
        """Heads ("MHA") or neurons ("FFN") of each layer."""
        return [sub.units for sub in self.sublayers if sub.kind == kind]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def last(self) -> nn.Linear | None:
        """The head's last projection, which gives the outputs; None without a head."""
        inside = {id(module) for module in self.model.base_model.modules()}
        outside = (m for m in self.model.modules() if id(m) not in inside)
        linears = [module for module in outside if isinstance(module, nn.Linear)]
        return linears[-1] if linears else None

    @cached_property
    def takes_token_types(self) -> bool:
        known = inspect.signature(self.model.base_model.forward).parameters
        return "token_type_ids" in known and getattr(self.model.config, "type_vocab_size", 2) > 1

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        # Without padding the kernels are faster without a mask; a head of one's own may want one.
        own = not type(self.model).__module__.startswith(("transformers.", "kprune."))
        masked = {"attention_mask": batch.attention_mask} if own or batch.mask is not None else {}
        ids = {"input_ids": batch.inputs["input_ids"]}
        return (batch.inputs if self.takes_token_types else ids) | masked


def flops(model: PreTrainedModel, length: float) -> float:
    """FLOPs of a model's units on one sequence of `length` tokens (see `Sublayer.unit_flops`)."""
    return Encoder(model).flops(number("length, in tokens,", length, above=0, whole=False))


def tapped(sublayers: Sequence[Sublayer]) -> AbstractContextManager[list[Tensor]]:
    """Within the block, the features of `sublayers` in passing: a list, [batch, length, features].

    Where gradients are on, the first of them is a leaf of the graph: nothing below is
    differentiated, and nothing else (weights are frozen in an `Encoder.copy`).
    """
    return _watched(sublayers, replaced)


def projected(sublayers: Sequence[Sublayer]) -> AbstractContextManager[list[Tensor]]:
    """Within the block, what the output projections of `sublayers` give: [batch, length, d]."""
    return _watched(sublayers, gives)


@contextmanager
def _watched(sublayers: Sequence[Sublayer], hook: Callable) -> Iterator[list[Tensor]]:
    found: list[Tensor] = [torch.empty(0)] * len(sublayers)

    def tap(number: int, passing: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not passing.requires_grad:
            passing = passing.detach().requires_grad_()
        found[number] = passing
        return passing

    with ExitStack() as stack:
        for number, sublayer in enumerate(sublayers):
            stack.enter_context(hook(sublayer.output, partial(tap, number)))
        yield found
