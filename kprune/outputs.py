"""What a head predicts: one record a kind, taken from the model's own head and configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

MASKED = -1e4  # a logit that says never


@dataclass(frozen=True)
class Kind:
    """One kind of prediction. A *mask* is True at real tokens, bool [batch, length], or None.

    Attributes:
        name: what messages, tasks and records call it.
        outputs: number of outputs of the head (labels, or the width of an embedding).
        read: (the model's output, mask) → z, [batch, outputs] or [batch, length, outputs].
        distance: (z_S, z_T, γ, mask) → K_pred, the predictive knowledge lost, one per sample.
        probe: (z, z_T, γ, mask, signs like z) → one number per sample, linear in z, whose squared
            gradients average over the signs to the Fisher information of K_pred at z = z_T.
        loss: (z, labels, mask) → the loss that such a model is fine-tuned with, one per sample;
            None where there are no labels.
        metric: the usual score.
        first_only: whether the head reads the first token only.
        minibatch: samples whose gradients the faithful method sums before squaring.
    """

    name: str
    outputs: int
    read: Callable[[Any, Tensor | None], Tensor]
    distance: Callable[[Tensor, Tensor, float, Tensor | None], Tensor]
    probe: Callable[[Tensor, Tensor, float, Tensor | None, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None
    metric: str
    first_only: bool = False
    minibatch: int = 32


def kind_of(model: PreTrainedModel, pooling: str = "mean", normalize: bool = True) -> Kind:
    """What a model predicts, by its class and configuration.

    Args:
        model: a fine-tuned model, or a backbone without a head (an embedding model).
        pooling: of a backbone: "mean" over real tokens, or "first".
        normalize: whether its output is scaled to length 1.

    Raises:
        ValueError: for a head that is none of the known ones.
    """
    config = model.config
    known = {name for one in type(model).__mro__ for name in HEADS if one.__name__.endswith(name)}
    if known:
        kind = HEADS[known.pop()](config)
    elif model.base_model is model:
        kind = _embedding(config, pooling, normalize)
    else:
        raise ValueError(
            f"kprune cannot open a {type(model).__name__}: it knows models whose class ends in "
            f"{', '.join(HEADS)}, and backbones without a head."
        )
    return kind


def _softened(z: Tensor, gamma: float) -> Tensor:
    return F.log_softmax(_float(z) / gamma, -1)


def _float(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))


def divergence(z_s: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None = None) -> Tensor:
    """γ² · KL(softmax(z_T/γ) ‖ softmax(z_S/γ)) over the last dimension (section 4.1)."""
    ours, theirs = _softened(z_s, gamma), _softened(z_t, gamma)
    return gamma**2 * (theirs.exp() * (theirs - ours)).sum(-1)


def _classes_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    """The direction √p·ε − p·(√p·ε), whose second moment is diag(p) − p·pᵀ."""
    p = torch.softmax(_float(z_t) / gamma, -1)
    root = p.sqrt() * signs.to(p)
    return ((root - p * root.sum(-1, keepdim=True)) * z).sum(-1)


def squared_error(z_s: Tensor, z_t: Tensor, gamma: float = 1.0, mask: Tensor | None = None):
    """‖z_S − z_T‖², one per sample."""
    return (_float(z_s) - _float(z_t)).square().flatten(1).sum(1)


def _squares_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    return (z * signs.to(z)).flatten(1).sum(1)


def _labels_apart(z_s: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None) -> Tensor:
    """γ² · the sum over labels of KL between two yes-or-no distributions."""
    both = [torch.stack([_float(z) / gamma, torch.zeros_like(_float(z))], -1) for z in (z_s, z_t)]
    return gamma**2 * divergence(*both, 1.0).sum(-1)


def _labels_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    p = torch.sigmoid(_float(z_t) / gamma)
    return ((p * (1 - p)).sqrt() * signs.to(p) * z).sum(-1)


def _ends(z: Tensor, mask: Tensor | None) -> Tensor:
    """Start and end distributions of spans, [batch, 2, length]; padding never counts."""
    z = z if mask is None else z.masked_fill(~mask[..., None], MASKED)
    return z.transpose(1, 2)


def _spans_distance(z_s: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None) -> Tensor:
    return divergence(_ends(z_s, mask), _ends(z_t, mask), gamma).mean(1)


def _spans_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    probed = _classes_probe(z.transpose(1, 2), _ends(z_t, mask), gamma, None, signs.transpose(1, 2))
    return probed.sum(1) / 2**0.5


def _spans_loss(z: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    ends = _ends(z, mask).transpose(1, 2)
    return F.cross_entropy(ends, labels, reduction="none").mean(1)


def _over_tokens(each: Tensor, mask: Tensor | None, power: float = 1.0) -> Tensor:
    """Sum over real tokens, divided by their number to a power: [batch, length] to [batch]."""
    if mask is None:
        return each.sum(1) / each.shape[1] ** power
    return (each * mask).sum(1) / mask.sum(1) ** power


def _tokens_distance(z_s: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None) -> Tensor:
    return _over_tokens(divergence(z_s, z_t, gamma), mask)


def _tokens_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    return _over_tokens(_classes_probe(z, z_t, gamma, None, signs), mask, 0.5)


def _tokens_loss(z: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    each = F.cross_entropy(z.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    return each.sum(1) / (labels != -100).sum(1).clamp(min=1)


def _reads_first(config) -> bool:
    return getattr(config, "classifier_pooling", "cls") == "cls"


def _sequence(config) -> Kind:
    """A sequence classifier's kind: its problem type, else its number of labels, tells."""
    logits = {"read": lambda out, mask: out.logits, "first_only": _reads_first(config)}
    if config.problem_type == "multi_label_classification":
        return Kind(
            "multilabel",
            config.num_labels,
            distance=_labels_apart,
            probe=_labels_probe,
            loss=lambda z, labels, mask: F.binary_cross_entropy_with_logits(
                z, labels.to(z), reduction="none"
            ).mean(1),
            metric="f1_micro",
            **logits,
        )
    if config.problem_type == "regression" or config.num_labels == 1:
        return Kind(
            "regression",
            config.num_labels,
            distance=squared_error,
            probe=_squares_probe,
            loss=lambda z, labels, mask: squared_error(z, labels.reshape(z.shape)),
            metric="spearman",
            **logits,
        )
    return Kind(
        "classification",
        config.num_labels,
        distance=divergence,
        probe=_classes_probe,
        loss=lambda z, labels, mask: F.cross_entropy(z, labels, reduction="none"),
        metric="accuracy",
        **logits,
    )


def _span(config) -> Kind:
    return Kind(
        "span",
        2,
        read=lambda out, mask: torch.stack([out.start_logits, out.end_logits], -1),
        distance=_spans_distance,
        probe=_spans_probe,
        loss=_spans_loss,
        metric="f1",
        minibatch=12,
    )


def _tokens(config) -> Kind:
    return Kind(
        "tokens",
        config.num_labels,
        read=lambda out, mask: out.logits,
        distance=_tokens_distance,
        probe=_tokens_probe,
        loss=_tokens_loss,
        metric="f1",
    )


def pooled(out: Any, mask: Tensor | None, pooling: str, normalize: bool) -> Tensor:
    """The embedding of each sequence, from a backbone's output: [batch, d]."""
    hidden = out.last_hidden_state
    if pooling == "first":
        found = hidden[:, 0]
    elif mask is None:
        found = hidden.mean(1)
    else:
        real = mask[..., None].to(hidden)
        found = (hidden * real).sum(1) / real.sum(1)
    return F.normalize(found, dim=1) if normalize else found


def _embedding(config, pooling: str, normalize: bool) -> Kind:
    return Kind(
        "embedding",
        config.hidden_size,
        read=partial(pooled, pooling=pooling, normalize=normalize),
        distance=squared_error,
        probe=_squares_probe,
        loss=None,
        metric="spearman",
        first_only=pooling == "first",
    )


HEADS: dict[str, Callable[[Any], Kind]] = {
    "ForSequenceClassification": _sequence,
    "ForQuestionAnswering": _span,
    "ForTokenClassification": _tokens,
}
