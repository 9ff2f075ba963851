"""A uniform view of a Hugging Face encoder: embeddings, 2L sublayers, task head.

Architectures differ by one `NameMap` each; nothing else in the package knows BERT from DistilBERT.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from kprune.attention import attend
from kprune.sampling import Batch
from kprune.states import HiddenStates


@dataclass(frozen=True)
class NameMap:
    """Where one architecture keeps the parts of a post-LayerNorm encoder.

    `layers` and the fields up to `ffn_norm` are dotted paths, the latter from one layer.
    `embed(backbone, inputs)` gives hidden states; `heads` maps a model class to the name of the
    projection that gives its logits, and `readout(model, hidden)`, which gives the input of that.
    """

    layers: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    ffn_input: str
    activation: str
    ffn_output: str
    ffn_norm: str
    embed: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    heads: dict[str, tuple[str, Callable[[PreTrainedModel, Tensor], Tensor]]]


NAME_MAPS = {
    "bert": NameMap(
        layers="encoder.layer",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        ffn_input="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        ffn_output="output.dense",
        ffn_norm="output.LayerNorm",
        embed=lambda bert, inputs: bert.embeddings(
            input_ids=inputs["input_ids"], token_type_ids=inputs.get("token_type_ids")
        ),
        heads={
            "BertForSequenceClassification": (
                "classifier",
                lambda model, hidden: model.dropout(model.bert.pooler(hidden)),
            ),
            "BertForQuestionAnswering": ("qa_outputs", lambda model, hidden: hidden),
        },
    ),
    "distilbert": NameMap(
        layers="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_input="ffn.lin1",
        activation="ffn.activation",
        ffn_output="ffn.lin2",
        ffn_norm="output_layer_norm",
        embed=lambda distilbert, inputs: distilbert.embeddings(inputs["input_ids"]),
        heads={
            "DistilBertForSequenceClassification": (
                "classifier",
                lambda model, hidden: model.dropout(F.relu(model.pre_classifier(hidden[:, 0]))),
            ),
            "DistilBertForQuestionAnswering": (
                "qa_outputs",
                lambda model, hidden: model.dropout(hidden),
            ),
        },
    ),
}


@dataclass(frozen=True)
class Sublayer:
    """One MHA or FFN sublayer: X + Sub(X), then LayerNorm (post-LN).

    The fields refer to the model's own modules, so surgery on them shows here at once. A *unit* is
    a head (`unit_size` = d_h features) or a neuron (`unit_size` = 1).
    """

    layer: int
    kind: Literal["MHA", "FFN"]
    inputs: tuple[nn.Linear, ...]
    output: nn.Linear
    norm: nn.LayerNorm
    unit_size: int
    activation: Callable[[Tensor], Tensor] | None = None

    @property
    def units(self) -> int:
        """Number of units that the sublayer has now."""
        return self.output.in_features // self.unit_size

    def unit_flops(self, length: float) -> float:
        """FLOPs of one unit on one sequence of `length` tokens (multiplies and adds counted).

        F_h = 3·2·s·d·d_h + 2·2·s²·d_h + 2·s·d_h·d for a head, F_n = 2·2·s·d for a neuron: biases,
        norms, activations and embeddings are ignored, as in the paper.
        """
        d, d_h = self.output.out_features, self.unit_size
        if self.kind == "FFN":
            return 4 * length * d
        return 8 * length * d * d_h + 4 * length**2 * d_h

    def features(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the units compute, just before the output projection.

        Args:
            hidden: sublayer input X, [batch, length, d].
            mask: True at real tokens, bool [batch, length]; None where nothing is padded.

        Returns:
            [batch, length, units · unit_size]; empty in the last dimension for an empty sublayer.
        """
        hidden = hidden.to(self.output.weight.dtype)
        if self.units == 0:
            return hidden[..., :0]
        projected = [linear(hidden) for linear in self.inputs]
        if self.kind == "FFN":
            return self.activation(projected[0])
        heads = (part.unflatten(-1, (-1, self.unit_size)).transpose(1, 2) for part in projected)
        return attend(*heads, mask=mask).transpose(1, 2).flatten(-2)

    def finish(self, hidden: Tensor, features: Tensor) -> Tensor:
        """The sublayer's output LayerNorm(X + P·Wᵀ + b): [batch, length, d]."""
        return self.norm(hidden + self.output(features))

    def cast(self, dtype: torch.dtype | None) -> "Sublayer":
        """The same sublayer with its projections copied to `dtype`; None leaves them as they are.

        The sum with the input and the norm keep the precision of the input.
        """
        if dtype in (None, self.output.weight.dtype):
            return self
        inputs = tuple(copy.deepcopy(linear).to(dtype) for linear in self.inputs)
        return replace(self, inputs=inputs, output=copy.deepcopy(self.output).to(dtype))

    def __call__(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """The whole step from input to output, [batch, length, d]; arguments as in `features`."""
        return self.finish(hidden, self.features(hidden, mask))


@dataclass(frozen=True)
class Encoder:
    """The uniform view: `embed`, then `sublayers` from the embedding upwards, then `head`.

    The head is `readout`, then the projection `last`.
    """

    model: PreTrainedModel
    sublayers: tuple[Sublayer, ...]
    embed: Callable[[dict[str, Tensor]], Tensor]
    readout: Callable[[Tensor], Tensor]
    last: nn.Linear

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states at the top: [batch, labels], or [batch, length, 2] of spans."""
        return self.last(self.readout(hidden))

    def flops(self, length: float) -> float:
        """FLOPs of all units on one sequence of `length` tokens, by the paper's count."""
        return sum(sub.units * sub.unit_flops(length) for sub in self.sublayers)

    def cast(self, dtype: torch.dtype | None) -> "Encoder":
        """The same encoder with the projections of its sublayers copied to `dtype`."""
        return replace(self, sublayers=tuple(sub.cast(dtype) for sub in self.sublayers))

    def units(self, kind: Literal["MHA", "FFN"]) -> list[int]:
        """Heads ("MHA") or neurons ("FFN") of each layer."""
        return [sub.units for sub in self.sublayers if sub.kind == kind]


def view(model: PreTrainedModel) -> Encoder:
    """The uniform view of a fine-tuned model.

    Args:
        model: a model of a family in `NAME_MAPS`, with a sequence-classification or
            question-answering head. The view shares its modules.

    Raises:
        ValueError: for any other family or head.
    """
    family, name = getattr(model.config, "model_type", None), type(model).__name__
    if family not in NAME_MAPS:
        raise ValueError(
            f"kprune cannot open a {name}: it knows the architectures {', '.join(NAME_MAPS)}, and "
            f"this one is {family!r}."
        )
    if name not in NAME_MAPS[family].heads:
        raise ValueError(
            f"kprune cannot open a {name}; load the model as one of "
            f"{', '.join(NAME_MAPS[family].heads)}."
        )
    if getattr(model.config, "is_decoder", False):
        raise ValueError(f"kprune prunes encoders, and this {name} is configured as a decoder.")
    names = NAME_MAPS[family]
    last, readout = names.heads[name]
    backbone = model.base_model
    d_h = model.config.hidden_size // model.config.num_attention_heads
    sublayers = []
    for number, layer in enumerate(_get(backbone, names.layers)):
        mha_inputs = tuple(_get(layer, path) for path in (names.query, names.key, names.value))
        sublayers += [
            Sublayer(
                layer=number,
                kind="MHA",
                inputs=mha_inputs,
                output=_get(layer, names.attention_output),
                norm=_get(layer, names.attention_norm),
                unit_size=d_h,
            ),
            Sublayer(
                layer=number,
                kind="FFN",
                inputs=(_get(layer, names.ffn_input),),
                output=_get(layer, names.ffn_output),
                norm=_get(layer, names.ffn_norm),
                unit_size=1,
                activation=_get(layer, names.activation),
            ),
        ]
    return Encoder(
        model=model,
        sublayers=tuple(sublayers),
        embed=lambda inputs: names.embed(backbone, inputs),
        readout=lambda hidden: readout(model, hidden),
        last=getattr(model, last),
    )


def forward(encoder: Encoder, inputs: dict[str, Tensor], mask: Tensor | None = None) -> Tensor:
    """Logits of the whole model, computed through the view.

    Args:
        encoder: the view.
        inputs: `input_ids` and, where the family has them, `token_type_ids`, int64 [batch, length].
        mask: True at real tokens, bool [batch, length]; None where nothing is padded.

    Returns:
        Logits: [batch, labels] of a classifier, [batch, length, 2] of a span model.
    """
    hidden = encoder.embed(inputs)
    for sublayer in encoder.sublayers:
        hidden = sublayer(hidden, mask)
    return encoder.head(hidden)


@torch.no_grad()
def advance(
    sublayer: Sublayer, hidden: HiddenStates | list[Tensor], parts: Sequence[Batch]
) -> None:
    """Replace hidden states at a sublayer's input by those at its output, batch by batch."""
    for number, batch in enumerate(parts):
        hidden[number] = sublayer(hidden[number], batch.mask)


def _get(module: nn.Module, path: str) -> nn.Module:
    return reduce(getattr, path.split("."), module)
