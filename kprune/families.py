"""Families of encoders: where each keeps its parts, by name, and what few of them need besides.

To add one: its names, and if its attention counts heads by itself, what to do `after` a cut;
`family_check.check_family` says whether they are right.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from kprune.engine.empty import home
from kprune.engine.sharing import sharing_weights


@dataclass(frozen=True)
class Names:
    """Where a family keeps its parts, by paths below a layer, and what it needs besides."""

    layers: str  # the list of layers, below the backbone
    heads_in: tuple[str, ...]  # projections that give queries, keys and values, or one for all
    heads_out: str  # the output projection of the heads
    neurons_in: str  # the projection that gives the neurons' inputs
    neurons_out: str  # the output projection of the neurons
    sums: tuple[str, str]  # modules given X + Sub(X), of MHA and FFN; "": the layer gives it
    # Parts of a unit's rows in each input projection: 3 of a head in a fused one for queries, keys
    # and values, 2 of a gated neuron.
    blocks: tuple[int, int] = (1, 1)
    pairs: bool = False  # whether a layer gives a tuple, its hidden states first
    others: tuple[str, ...] = ()  # further input projections of heads, where a layer has them
    # Called with a layer, the numbers of the heads that are left and the number of their features
    # when heads were removed, for what the family remembers of them.
    after: Callable[[nn.Module, Tensor, int], None] = lambda layer, heads, features: None
    # Gives the model to look at, where it is not the model itself.
    prepare: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model

    @property
    def attention(self) -> str:
        """The module that holds the heads' input projections."""
        return self.heads_in[0].rpartition(".")[0]


BERT = Names(
    layers="encoder.layer",
    heads_in=("attention.self.query", "attention.self.key", "attention.self.value"),
    heads_out="attention.output.dense",
    neurons_in="intermediate.dense",
    neurons_out="output.dense",
    sums=("attention.output.LayerNorm", "output.LayerNorm"),
)
DISTILBERT = Names(
    layers="transformer.layer",
    heads_in=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    heads_out="attention.out_lin",
    neurons_in="ffn.lin1",
    neurons_out="ffn.lin2",
    sums=("sa_layer_norm", "output_layer_norm"),
)


def _slice_position_bias(attention: nn.Module, arguments: tuple, named: dict) -> tuple:
    """MPNet hands each layer the position bias of all heads; a pruned one has fewer."""
    hidden, mask, bias, *rest = arguments
    if bias is not None:
        with torch.inference_mode(False):  # what stays here must serve training, too
            attention.kept_heads = attention.kept_heads.to(bias.device)
        bias = bias[:, attention.kept_heads]
    return (hidden, mask, bias, *rest), named


def _after_mpnet(layer: nn.Module, heads: Tensor, features: int) -> None:
    attention = layer.attention.attn
    attention.all_head_size = features
    # No buffer: from_pretrained would leave what no file holds empty. So `to` does not move it.
    heads = heads.to(home(attention.q.weight))
    if (earlier := getattr(attention, "kept_heads", None)) is None:
        attention.register_forward_pre_hook(_slice_position_bias, with_kwargs=True)
        attention.kept_heads = heads
    else:
        attention.kept_heads = earlier[heads.to(earlier.device)]


MPNET = replace(
    BERT,
    heads_in=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    heads_out="attention.attn.o",
    sums=("attention.LayerNorm", "output.LayerNorm"),
    pairs=True,
    after=_after_mpnet,
)


def _after_deberta(layer: nn.Module, heads: Tensor, features: int) -> None:
    attention = layer.attention.self
    attention.num_attention_heads, attention.all_head_size = len(heads), features


DEBERTA = replace(
    BERT,
    heads_in=tuple(f"attention.self.{part}_proj" for part in ("query", "key", "value")),
    others=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
    pairs=True,
    after=_after_deberta,
)


def _untied(model: PreTrainedModel) -> PreTrainedModel:
    """ALBERT's layers share their weights; pruned ones differ, so a copy has modules for each."""
    count, groups = model.config.num_hidden_layers, model.config.num_hidden_groups
    if model.config.inner_group_num != 1:
        raise ValueError("kprune prunes ALBERT with one layer in a group; this one has several.")
    if groups == count:
        return model
    model = sharing_weights(model)
    tied = model.base_model.encoder.albert_layer_groups
    # One configuration for all: layers ask their own which attention to use.
    model.base_model.encoder.albert_layer_groups = nn.ModuleList(
        sharing_weights(tied[int(i / (count / groups))], model.config) for i in range(count)
    )
    model.config.num_hidden_groups = count
    return model


ALBERT = Names(
    layers="encoder.albert_layer_groups",
    heads_in=tuple(f"albert_layers.0.attention.{part}" for part in ("query", "key", "value")),
    heads_out="albert_layers.0.attention.dense",
    neurons_in="albert_layers.0.ffn",
    neurons_out="albert_layers.0.ffn_output",
    sums=("albert_layers.0.attention.LayerNorm", "albert_layers.0.full_layer_layer_norm"),
    prepare=_untied,
)
MODERNBERT = Names(
    layers="layers",
    heads_in=("attn.Wqkv",),
    heads_out="attn.Wo",
    neurons_in="mlp.Wi",
    neurons_out="mlp.Wo",
    sums=("mlp_norm", ""),
    blocks=(3, 2),
)
FAMILIES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), BERT),
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "deberta-v2": DEBERTA,
    "albert": ALBERT,
    "modernbert": MODERNBERT,
}
BUILT_IN = frozenset(FAMILIES)


def family_of(config: PreTrainedConfig) -> str | None:
    """The family that a configuration is of; a pruned model's notes it."""
    return noted(config).get("family", getattr(config, "model_type", None))


def noted(config: PreTrainedConfig) -> dict[str, Any]:
    """What a configuration says of a pruning: the `family` and the units `kept`; or nothing."""
    found = getattr(config, "kprune", None)
    return found if isinstance(found, dict) else {}


def report_of(model: Any) -> dict[str, Any]:
    """What is known of a model's pruning, as `kprune.json` tells it; empty of a dense one."""
    return getattr(model, "report", None) or {}


def names_of(model: PreTrainedModel) -> Names:
    """The names of a model's family; ValueError for one that is not known, or cannot be pruned."""
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        advice = "; its model is `[0].auto_model`" if hasattr(model, "encode") else ""
        if isinstance(model, (str, Path)):
            advice = ", a path; load it first, by AutoModelFor….from_pretrained"
        raise ValueError(
            f"kprune takes a loaded transformers model; got a {name} in place of the model{advice}."
        )
    config = model.config
    family = family_of(config)
    if family not in FAMILIES:
        raise ValueError(
            f"kprune cannot open a {name}: it knows the families {', '.join(FAMILIES)}, and this "
            f"one is {family!r}; to add it, give kprune.families.FAMILIES its Names."
        )
    if getattr(config, "is_decoder", False):
        raise ValueError(f"kprune prunes encoders, and this {name} is configured as a decoder.")
    if getattr(config, "chunk_size_feed_forward", 0):
        raise ValueError(f"This {name} works in chunks; load it with chunk_size_feed_forward=0.")
    return FAMILIES[family]
