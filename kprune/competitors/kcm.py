"""KCM: "Gradient-Free Structured Pruning with Unlabeled Data" (Nova et al., ICML 2023)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.competitors.kwon import rescaled
from kprune.encoders import Encoder
from kprune.mask_search import search
from kprune.progress import bar, timed
from kprune.report import Report
from kprune.sampling import Batch, Sample, on_device

TOLERANCE = 0.01


@torch.no_grad()
def kcm(
    teacher: Encoder, student: Encoder, sample: Sample, report: Report, progress: bool = True
) -> None:
    """Prune neurons only, ranked by R2D2: how representative, times how active.

    No gradients and no labels. Heads are never touched, so a limit below their FLOPs is out of
    reach.

    Args:
        teacher: the uncompressed model.
        student: a copy of it, pruned in place; scales are folded into its output projections.
        sample: the sample dataset.
        report: gives the limit; receives what was kept and how it went.
        progress: whether to show a progress bar.

    Raises:
        ValueError: when the limit cannot be met by neurons alone.
    """
    heads = [sub for sub in student.sublayers if sub.kind == "MHA"]
    neurons = [sub for sub in student.sublayers if sub.kind == "FFN"]
    fixed = sum(sub.units * sub.unit_flops(sample.length) for sub in heads)
    if fixed >= report.limit:
        raise ValueError(
            f"KCM prunes neurons only, and the heads alone cost {fixed / report.dense_flops:.1%} "
            f"of the FLOPs; rate can be at most {1 - fixed / report.dense_flops:.3f} here, got "
            f"{report.rate}."
        )
    parts = on_device(sample, student.model.device)
    with bar(2 * len(student.sublayers), "pruning", progress) as steps:
        steps.set_postfix_str("R2D2")
        with timed(report.seconds, "knowledge"):
            activity = data_driven(student, parts, steps.update)
            scores = [
                representative(sub.output.weight.T) * active
                for sub, active in zip(neurons, activity, strict=True)
            ]
        with timed(report.seconds, "mask search"):
            halfway = math.sqrt(report.limit * report.dense_flops)
            wide, _ = _masks(student, neurons, scores, halfway - fixed, sample.length)
            narrow, threshold = _masks(
                student, neurons, scores, report.limit - fixed, sample.length
            )
            report.thresholds.append(threshold)
        steps.set_postfix_str("rescaling")
        rescaled(student, wide, narrow, parts, sample.task.kind != "span", report, steps.update)


def representative(weight: Tensor, tolerance: float = TOLERANCE, longest: int = 1000) -> Tensor:
    """R2, representative ranking: the diagonal of a kernelised convex mask.

    K_ij = exp(−‖w_i − w_j‖²/σ²) with σ² the mean squared distance, so that no weight scale matters;
    from C = 1/N, C ← C ∘ √(K / (K·C)) until its relative change is below the tolerance.

    Args:
        weight: rows of the FFN's second projection, one per neuron, [neurons, d].
        tolerance: of the relative change.
        longest: iterations at the most.

    Returns:
        diag(C), [neurons].
    """
    distance = torch.cdist(weight.double(), weight.double()).square()
    kernel = torch.exp(-distance / distance.mean().clamp(min=torch.finfo(torch.float64).tiny))
    mask = torch.full_like(kernel, 1 / len(kernel))
    for _ in range(longest):
        new = mask * (kernel / (kernel @ mask)).sqrt()
        change = (new - mask).norm() / mask.norm()
        mask = new
        if change < tolerance:
            break
    return mask.diagonal().clone()


def data_driven(encoder: Encoder, parts: Sequence[Batch], tick=lambda: None) -> list[Tensor]:
    """D2, data-driven ranking: each neuron's mean activation over real tokens, normalised.

    Args:
        encoder: the model.
        parts: the sample's batches.
        tick: called after each sublayer.

    Returns:
        One [neurons] for each FFN sublayer.
    """
    hidden = [encoder.embed(batch.inputs) for batch in parts]
    found = []
    for sublayer in encoder.sublayers:
        total, tokens = 0.0, 0
        for number, batch in enumerate(parts):
            features = sublayer.features(hidden[number], batch.mask)
            hidden[number] = sublayer.finish(hidden[number], features)
            if sublayer.kind == "FFN":
                real = features.flatten(0, 1) if batch.mask is None else features[batch.mask]
                total, tokens = total + real.double().sum(0), tokens + len(real)
        if sublayer.kind == "FFN":
            mean = total / tokens
            found.append(mean / mean.norm())
        tick()
    return found


def _masks(
    encoder: Encoder, neurons: Sequence, scores: Sequence[Tensor], budget: float, length: float
) -> tuple[list[Tensor], float]:
    """Masks of all sublayers: every head stays, neurons are ranked over the whole model."""
    kept, threshold = search(neurons, scores, budget, length)
    rest = iter(kept)
    masks = [
        next(rest)
        if sublayer.kind == "FFN"
        else torch.ones(sublayer.units, dtype=torch.bool, device=scores[0].device)
        for sublayer in encoder.sublayers
    ]
    return masks, threshold
