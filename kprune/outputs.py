"""What a head predicts: one class a kind, chosen by the model's own head and configuration."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from kprune.data.tokens import UNLABELLED
from kprune.engine.least_squares import wide
from kprune.families import noted, report_of

MASKED = -1e4  # a logit that says never


class Kind:
    """One kind of prediction. A *mask* is True at real tokens, bool [batch, length], or None."""

    name: str  # what messages, tasks and records call it
    minibatch = 32  # samples whose gradients the faithful method sums before squaring
    pools = False  # whether the output is a mean over tokens
    first_only = False  # whether the head reads the first token only, once `State` has seen it

    def __init__(self, outputs: int):
        self.outputs = outputs  # of the head: labels, or the width of an embedding

    def read(self, out: Any, mask: Tensor | None) -> Tensor:
        """z, [batch, outputs] or [batch, length, outputs], from the model's output."""
        return out.logits

    def distance(self, z_s: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None) -> Tensor:
        """K_pred, the predictive knowledge lost, one per sample."""

    def probe(self, z: Tensor, z_t: Tensor, gamma: float, mask: Tensor | None, signs: Tensor):
        """One number per sample, linear in z, whose squared gradients average over the signs (like
        z) to the Fisher information of K_pred at z = z_T."""

    # The loss that such a model is fine-tuned with, one per sample; None where no labels are.
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None  # z, labels, mask


def _float(z: Tensor) -> Tensor:
    return z.to(wide(z.dtype))


def divergence(z_s: Tensor, z_t: Tensor, gamma: float) -> Tensor:
    """γ² · KL(softmax(z_T/γ) ‖ softmax(z_S/γ)) over the last dimension (section 4.1)."""
    ours, theirs = (F.log_softmax(_float(z) / gamma, -1) for z in (z_s, z_t))
    return gamma**2 * (theirs.exp() * (theirs - ours)).sum(-1)


def divergence_probe(z: Tensor, z_t: Tensor, gamma: float, signs: Tensor) -> Tensor:
    """The direction √p·ε − p·(√p·ε), whose second moment is diag(p) − p·pᵀ."""
    p = torch.softmax(_float(z_t) / gamma, -1)
    root = p.sqrt() * signs.to(p)
    return ((root - p * root.sum(-1, keepdim=True)) * z).sum(-1)


class Classification(Kind):
    """One of several labels."""

    name = "classification"

    def distance(self, z_s, z_t, gamma, mask):
        return divergence(z_s, z_t, gamma)

    def probe(self, z, z_t, gamma, mask, signs):
        return divergence_probe(z, z_t, gamma, signs)

    def loss(self, z, labels, mask):
        return F.cross_entropy(z, labels, reduction="none")


class Multilabel(Kind):
    """Yes or no to each label: K_pred is the sum of their divergences."""

    name = "multilabel"

    def distance(self, z_s, z_t, gamma, mask):
        both = (torch.stack([_float(z), torch.zeros_like(_float(z))], -1) for z in (z_s, z_t))
        return divergence(*both, gamma).sum(-1)

    def probe(self, z, z_t, gamma, mask, signs):
        p = torch.sigmoid(_float(z_t) / gamma)
        return ((p * (1 - p)).sqrt() * signs.to(p) * z).sum(-1)

    def loss(self, z, labels, mask):
        return F.binary_cross_entropy_with_logits(z, labels.to(z), reduction="none").mean(1)


class Regression(Kind):
    """Numbers: K_pred is ‖z_S − z_T‖²."""

    name = "regression"

    def distance(self, z_s, z_t, gamma, mask):
        return (_float(z_s) - _float(z_t)).square().flatten(1).sum(1)

    def probe(self, z, z_t, gamma, mask, signs):
        return (z * signs.to(z)).flatten(1).sum(1)

    def loss(self, z, labels, mask):
        return self.distance(z, labels.reshape(z.shape), 1.0, mask)


class Embedding(Regression):
    """The output of a backbone without a head, pooled over real tokens: numbers without labels."""

    name, loss = "embedding", None

    def __init__(self, outputs: int, pooling: str, normalize: bool):
        super().__init__(outputs)
        self.pooling, self.normalize, self.pools = pooling, normalize, pooling == "mean"

    def read(self, out, mask):
        hidden = out.last_hidden_state
        if self.pooling == "cls":
            found = hidden[:, 0]
        else:
            real = hidden.new_ones(hidden.shape[:2]) if mask is None else mask.to(hidden)
            found = (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return F.normalize(found, dim=1) if self.normalize else found


class Span(Kind):
    """A start and an end among the tokens: K_pred is the mean of both divergences."""

    name, minibatch = "span", 12

    def read(self, out, mask):
        return torch.stack([out.start_logits, out.end_logits], -1)

    def ends(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """Start and end distributions, [batch, 2, length]; padding never counts."""
        return (z if mask is None else z.masked_fill(~mask[..., None], MASKED)).transpose(1, 2)

    def distance(self, z_s, z_t, gamma, mask):
        return divergence(self.ends(z_s, mask), self.ends(z_t, mask), gamma).mean(1)

    def probe(self, z, z_t, gamma, mask, signs):
        z, signs = z.transpose(1, 2), signs.transpose(1, 2)
        return divergence_probe(z, self.ends(z_t, mask), gamma, signs).sum(1) / 2**0.5

    def loss(self, z, labels, mask):
        ends = self.ends(z, mask).transpose(1, 2)
        return F.cross_entropy(ends, labels, reduction="none").mean(1)


class Tokens(Kind):
    """A label for each token: K_pred is the mean divergence over real tokens."""

    name = "tokens"

    def distance(self, z_s, z_t, gamma, mask):
        return self.over_tokens(divergence(z_s, z_t, gamma), mask)

    def probe(self, z, z_t, gamma, mask, signs):
        return self.over_tokens(divergence_probe(z, z_t, gamma, signs), mask, 0.5)

    def loss(self, z, labels, mask):
        z = z.transpose(1, 2)
        each = F.cross_entropy(z, labels, reduction="none", ignore_index=UNLABELLED)
        return each.sum(1) / (labels != UNLABELLED).sum(1).clamp(min=1)

    def over_tokens(self, each: Tensor, mask: Tensor | None, power: float = 1.0) -> Tensor:
        """Sum over real tokens, divided by their number to a power: [batch, length] to [batch]."""
        real = torch.ones_like(each) if mask is None else mask.to(each)
        return (each * real).sum(1) / real.sum(1) ** power


def _sequence(config: Any) -> Kind:
    """A sequence classifier's kind: its problem type, else its number of labels, tells."""
    kind = Classification
    if config.problem_type == "multi_label_classification":
        kind = Multilabel
    elif config.problem_type == "regression" or config.num_labels == 1:
        kind = Regression
    found = kind(config.num_labels)
    found.pools = getattr(config, "classifier_pooling", "") == "mean"  # ModernBERT's, if so set
    return found


# By the end of a model's class name.
HEADS: dict[str, Callable[[Any], Kind]] = {
    "ForSequenceClassification": _sequence,
    "ForQuestionAnswering": lambda config: Span(2),
    "ForTokenClassification": lambda config: Tokens(config.num_labels),
}


def pooled(model: PreTrainedModel) -> dict[str, Any]:
    """How a model without a head was pooled when it was pruned: `pooling` and `normalize`.

    Its report tells, or where it has none its configuration; empty of a dense model.
    """
    told = noted(getattr(model, "config", None)) | (report_of(model).get("options") or {})
    return {name: told[name] for name in ("pooling", "normalize") if name in told}


def kind_of(model: PreTrainedModel, pooling: str = "mean", normalize: bool = True) -> Kind:
    """What a model predicts, by its class and configuration; ValueError for an unknown head.

    `pooling` ("mean" over real tokens, or "cls", the first one) and `normalize` (to length 1) are
    of the output of a backbone without a head, an embedding model.
    """
    known = {name for one in type(model).__mro__ for name in HEADS if one.__name__.endswith(name)}
    if known:
        return HEADS[known.pop()](model.config)
    if model.base_model is model:
        return Embedding(model.config.hidden_size, pooling, normalize)
    raise ValueError(
        f"kprune cannot open a {type(model).__name__}: it knows models whose class ends in "
        f"{', '.join(HEADS)}, and backbones without a head."
    )
