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
UNLABELLED = -100  # of a token: what losses skip


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
        return HEADS[known.pop()](config)
    if model.base_model is model:
        read = partial(pooled, pooling=pooling, normalize=normalize)
        first = pooling == "first"
        return Kind("embedding", config.hidden_size, read, *SQUARES, None, "spearman", first)
    raise ValueError(
        f"kprune cannot open a {type(model).__name__}: it knows models whose class ends in "
        f"{', '.join(HEADS)}, and backbones without a head."
    )


def _float(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))


def divergence(z_s: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None = None) -> Tensor:
    """γ² · KL(softmax(z_T/γ) ‖ softmax(z_S/γ)) over the last dimension (section 4.1)."""
    ours, theirs = (F.log_softmax(_float(z) / gamma, -1) for z in (z_s, z_t))
    return gamma**2 * (theirs.exp() * (theirs - ours)).sum(-1)


def _classes_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    """The direction √p·ε − p·(√p·ε), whose second moment is diag(p) − p·pᵀ."""
    p = torch.softmax(_float(z_t) / gamma, -1)
    root = p.sqrt() * signs.to(p)
    return ((root - p * root.sum(-1, keepdim=True)) * z).sum(-1)


def _classes_loss(z: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    return F.cross_entropy(z, labels, reduction="none")


def squared_error(z_s: Tensor, z_t: Tensor, gamma: float = 1.0, mask: Tensor | None = None):
    """‖z_S − z_T‖², one per sample."""
    return (_float(z_s) - _float(z_t)).square().flatten(1).sum(1)


def _squares_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    return (z * signs.to(z)).flatten(1).sum(1)


def _squares_loss(z: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    return squared_error(z, labels.reshape(z.shape))


def _labels_apart(z_s: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None) -> Tensor:
    """γ² · the sum over labels of KL between two yes-or-no distributions."""
    both = (torch.stack([_float(z), torch.zeros_like(_float(z))], -1) for z in (z_s, z_t))
    return divergence(*both, gamma).sum(-1)


def _labels_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    p = torch.sigmoid(_float(z_t) / gamma)
    return ((p * (1 - p)).sqrt() * signs.to(p) * z).sum(-1)


def _labels_loss(z: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, labels.to(z), reduction="none").mean(1)


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
    return F.cross_entropy(_ends(z, mask).transpose(1, 2), labels, reduction="none").mean(1)


def _over_tokens(each: Tensor, mask: Tensor | None, power: float = 1.0) -> Tensor:
    """Sum over real tokens, divided by their number to a power: [batch, length] to [batch]."""
    real = torch.ones_like(each) if mask is None else mask.to(each)
    return (each * real).sum(1) / real.sum(1) ** power


def _tokens_distance(z_s: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None) -> Tensor:
    return _over_tokens(divergence(z_s, z_t, gamma), mask)


def _tokens_probe(z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
    return _over_tokens(_classes_probe(z, z_t, gamma, None, signs), mask, 0.5)


def _tokens_loss(z: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    each = F.cross_entropy(z.transpose(1, 2), labels, reduction="none", ignore_index=UNLABELLED)
    return each.sum(1) / (labels != UNLABELLED).sum(1).clamp(min=1)


def pooled(out: Any, mask: Tensor | None, pooling: str, normalize: bool) -> Tensor:
    """The embedding of each sequence, from a backbone's output: [batch, d]."""
    hidden = out.last_hidden_state
    if pooling == "first":
        found = hidden[:, 0]
    else:
        real = hidden.new_ones(hidden.shape[:2]) if mask is None else mask.to(hidden)
        found = (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    return F.normalize(found, dim=1) if normalize else found


def _logits(out: Any, mask: Tensor | None) -> Tensor:
    return out.logits


def _start_and_end(out: Any, mask: Tensor | None) -> Tensor:
    return torch.stack([out.start_logits, out.end_logits], -1)


SQUARES = squared_error, _squares_probe
CLASSES = divergence, _classes_probe, _classes_loss
LABELS = _labels_apart, _labels_probe, _labels_loss
SPANS = _spans_distance, _spans_probe, _spans_loss
TOKENS = _tokens_distance, _tokens_probe, _tokens_loss


def _sequence(config) -> Kind:
    """A sequence classifier's kind: its problem type, else its number of labels, tells."""
    count, first_only = config.num_labels, getattr(config, "classifier_pooling", "cls") == "cls"
    if config.problem_type == "multi_label_classification":
        return Kind("multilabel", count, _logits, *LABELS, "f1_micro", first_only)
    if config.problem_type == "regression" or count == 1:
        return Kind("regression", count, _logits, *SQUARES, _squares_loss, "spearman", first_only)
    return Kind("classification", count, _logits, *CLASSES, "accuracy", first_only)


# By the end of a model's class name.
HEADS: dict[str, Callable[[Any], Kind]] = {
    "ForSequenceClassification": _sequence,
    "ForQuestionAnswering": lambda config: Kind(
        "span", 2, _start_and_end, *SPANS, "f1", minibatch=12
    ),
    "ForTokenClassification": lambda config: Kind(
        "tokens", config.num_labels, _logits, *TOKENS, "f1"
    ),
}
