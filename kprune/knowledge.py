"""Predictive and representational knowledge, and the importance of units that follows from them."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from kprune.encoders import Encoder, Sublayer
from kprune.passes import Measured, measurements
from kprune.sampling import Batch
from kprune.tasks import Task


def predictive_loss(
    student: Tensor, teacher: Tensor, kind: str, gamma: float = 2.0, mask: Tensor | None = None
) -> Tensor:
    """K_pred, the predictive knowledge that each sample loses (section 4.1 of the paper).

    γ² · KL(softmax(z_T/γ) ‖ softmax(z_S/γ)) for classes; the mean of that over the start and the
    end distribution for spans, padding left out; the squared error of the outputs for regression.

    Args:
        student: logits z_S, [batch, labels], or [batch, length, 2] for spans.
        teacher: logits z_T, of the same shape.
        kind: "classification", "regression" or "span".
        gamma: the temperature γ.
        mask: True at real tokens, bool [batch, length]; used for spans only.

    Returns:
        One loss per sample, [batch].
    """
    if kind == "regression":
        return (student - teacher).square().flatten(1).sum(1)
    if kind == "span":
        # Padding must not count, or a sample's loss would depend on its batch.
        if mask is not None:
            student, teacher = (z.masked_fill(~mask[..., None], -1e4) for z in (student, teacher))
        student, teacher = student.transpose(1, 2), teacher.transpose(1, 2)  # [batch, 2, length]
    log_student, log_teacher = (F.log_softmax(z / gamma, -1) for z in (student, teacher))
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)  # [batch] or [batch, 2]
    return gamma**2 * (divergence.mean(1) if kind == "span" else divergence)


def representational_loss(teacher: Tensor, student: Tensor, mask: Tensor | None = None) -> Tensor:
    """K_rep = ‖X_T + Sub_T(X_T) − X_S − Sub_S(X_S; m)‖²_F over non-padding tokens (section 4.1).

    Args:
        teacher: the teacher's sublayer output before its LayerNorm, [batch, length, d].
        student: the student's, of the same shape.
        mask: True at real tokens, bool [batch, length]; None where nothing is padded.

    Returns:
        The lost knowledge, a scalar.
    """
    squared = (teacher - student).square().sum(-1)
    return squared.sum() if mask is None else squared[mask].sum()


@torch.no_grad()
def predict(
    encoder: Encoder, hidden: Sequence[Tensor], batches: Sequence[Batch], start: int = 0
) -> list[Tensor]:
    """Logits of each batch, from the hidden states at the input of sublayer `start`."""
    logits = []
    for x, batch in zip(hidden, batches, strict=True):
        for sublayer in encoder.sublayers[start:]:
            x = sublayer(x, batch.mask)
        logits.append(encoder.head(x))
    return logits


def importance(
    encoder: Encoder,
    start: int,
    hidden: Sequence[Tensor],
    batches: Sequence[Batch],
    teacher: list[Tensor],
    task: Task,
    length: float,
    gamma: float = 2.0,
    lam: float = 0.00025,
    mu: float = 64.0,
    dtype: torch.dtype | None = None,
    tick: Callable[[], object] = lambda: None,
    predictive: bool = True,
) -> list[Tensor]:
    """Importance per FLOP of every unit in sublayer `start` and above (section 4.1 of the paper).

    S = (S_pred + λ·S_rep) · μ / F_h for heads and (S_pred + λ·S_rep) / F_n for neurons, estimated
    around "all remaining units on" and computed as the authors' code does:

    - S_pred: the mask gradient of K_pred's mean over a minibatch of `task.minibatch` samples *in
      sampling order*, squared, summed over minibatches, times ½, divided by the number of samples.
      The mask gradient of a sample is Σ_tokens feature · ∂K_pred/∂feature, summed into its
      minibatch here, so the way that the passes are batched changes nothing.
    - S_rep of feature k: mean over tokens of f_k² times the mean of W_k² over its d weights.
    - A head's score is the mean over its d_h features.

    The gradient is exactly zero where the student still *is* the teacher, so at the first sublayer
    S_pred says nothing and S_rep alone ranks (with λ = 0 every score is 0, and the first sublayer
    loses every unit). The paper's method has this weakness; it is kept.

    Args:
        encoder: the student, its sublayers below `start` pruned.
        start: number of the target sublayer, from 0 at the bottom.
        hidden: the student's hidden states at the target's input, one [batch, length, d] per batch.
        batches: the sample's batches.
        teacher: the teacher's logits of each batch. An empty list means that the student is still
            the teacher: it is filled with the student's logits, and no gradient is taken.
        task: gives the kind of prediction and the minibatch.
        length: tokens per sequence that FLOPs are counted at.
        gamma: temperature γ of K_pred.
        lam: λ, the weight of representational knowledge.
        mu: μ, the weight of heads against neurons.
        dtype: precision of the passes' matrix products; None keeps the model's.
        tick: called after each batch.
        predictive: False leaves S_pred out (the paper's ablation), and the gradient with it.

    Returns:
        Scores [units] of sublayers `start` … 2L − 1, float64.
    """
    same = not teacher  # no gradient to take: the student is the teacher
    sublayers = encoder.sublayers[start:]
    sums = Sums(sublayers, batches, task.minibatch)

    def lost(number: int, logits: Tensor) -> Tensor:
        return predictive_loss(logits, teacher[number], task.kind, gamma, batches[number].mask)

    loss = None if same or not predictive else lost
    passes = measurements(encoder, sublayers, hidden, batches, task, dtype, loss)
    for batch, found in zip(batches, passes, strict=True):
        sums.add(batch, found)
        if same:
            teacher.append(found.logits)
        tick()
    return [
        (predictive_score + lam * representational_score)
        * (mu if sublayer.kind == "MHA" else 1.0)
        / sublayer.unit_flops(length)
        for sublayer, predictive_score, representational_score in zip(
            sublayers, sums.predictive(), sums.representational(), strict=True
        )
    ]


def mask_gradients(
    encoder: Encoder,
    batches: Sequence[Batch],
    loss: Callable[[Tensor, Batch], Tensor],
    task: Task,
    dtype: torch.dtype | None = None,
    tick: Callable[[], object] = lambda: None,
) -> list[Tensor]:
    """Gradient of a loss with respect to every unit's mask variable, minibatch by minibatch.

    Args:
        encoder: the model.
        batches: the sample's batches.
        loss: gives one loss per sequence, [batch], from the logits and the batch.
        task: gives the kind of prediction, and the size of the minibatches, in sampling order,
            whose mean loss is meant.
        dtype: precision of the passes' matrix products; None keeps the model's.
        tick: called after each batch.

    Returns:
        For each sublayer the gradients, [minibatches, units].
    """
    sums = Sums(encoder.sublayers, batches, task.minibatch)
    passes = measurements(
        encoder,
        encoder.sublayers,
        (encoder.embed(batch.inputs) for batch in batches),
        batches,
        task,
        dtype,
        lambda number, logits: loss(logits, batches[number]),
    )
    for batch, found in zip(batches, passes, strict=True):
        sums.add(batch, found)
        tick()
    return [
        by_unit(sublayer, gradients)
        for sublayer, gradients in zip(encoder.sublayers, sums.gradients, strict=True)
    ]


# What a CPU multiplies bfloat16 with: AMX at about ten times the rate of float32, AVX-512 at twice.
BF16_UNITS = ("amx_bf16", "avx512_bf16")


def ranking_dtype(precision: str, model: PreTrainedModel) -> torch.dtype | None:
    """The type of matrix products in passes that only rank units; None for the model's own.

    Raises:
        ValueError: for another word than "auto", "bf16" or "full".
    """
    check_precision(precision)
    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if model.device.type == "cuda"
            else any(torch.cpu.get_capabilities().get(unit, False) for unit in BF16_UNITS)
        )
        precision = "bf16" if native and model.dtype == torch.float32 else "full"
    return torch.bfloat16 if precision == "bf16" else None


def check_precision(precision: str) -> None:
    """Raise ValueError for another word than "auto", "bf16" or "full"."""
    if precision not in ("auto", "bf16", "full"):
        raise ValueError(f'precision is "auto", "bf16" or "full"; got {precision!r}.')


def by_unit(sublayer: Sublayer, per_feature: Tensor) -> Tensor:
    """Sums over the features of each unit: [..., features] to [..., units]."""
    return per_feature.unflatten(-1, (-1, sublayer.unit_size)).sum(-1)


class Sums:
    """The two sums over the sample that the scores of units are made of."""

    def __init__(self, sublayers: Sequence[Sublayer], batches: Sequence[Batch], minibatch: int):
        self.sublayers, self.minibatch = sublayers, minibatch
        self.samples = sum(len(batch.index) for batch in batches)
        self.tokens = sum(batch.tokens for batch in batches)
        weights = [sublayer.output.weight for sublayer in sublayers]  # [d, features]
        minibatches = -(-self.samples // minibatch)
        self.gradients = [
            weight.new_zeros(
                minibatches,
                weight.shape[1],
                dtype=torch.promote_types(weight.dtype, torch.float32),
            )
            for weight in weights
        ]
        self.squares = [
            weight.new_zeros(weight.shape[1], dtype=torch.float64) for weight in weights
        ]

    def add(self, batch: Batch, found: Measured) -> None:
        number = batch.index // self.minibatch
        # The last minibatch may be smaller; each gradient is of its own minibatch's mean.
        size = (self.samples - number * self.minibatch).clamp(max=self.minibatch)[:, None]
        for total, squares in zip(self.squares, found.squares, strict=True):
            total += squares
        for total, own in zip(self.gradients, found.gradients, strict=bool(found.gradients)):
            total.index_add_(0, number, own.to(total.dtype) / size)

    def predictive(self) -> list[Tensor]:
        return [
            _per_unit(sublayer, gradients.double().square().sum(0) / (2 * self.samples))
            for sublayer, gradients in zip(self.sublayers, self.gradients, strict=True)
        ]

    def representational(self) -> list[Tensor]:
        return [
            _per_unit(
                sublayer,
                squares / self.tokens * sublayer.output.weight.double().square().mean(0),
            )
            for sublayer, squares in zip(self.sublayers, self.squares, strict=True)
        ]


def _per_unit(sublayer: Sublayer, per_feature: Tensor) -> Tensor:
    return by_unit(sublayer, per_feature) / sublayer.unit_size
