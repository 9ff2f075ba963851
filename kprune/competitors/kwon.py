"""Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers"."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import lsmr
from torch import Tensor

from kprune.encoders import Encoder, advance, view
from kprune.knowledge import mask_gradients, ranking_dtype
from kprune.progress import bar, timed
from kprune.report import Report
from kprune.sampling import Batch, Sample, on_device
from kprune.surgery import cut
from kprune.weight_tuning import NormalEquations, gather

DAMP = 1.0
LARGEST_SCALE = 10.0


@torch.no_grad()
def kwon(
    teacher: Encoder, student: Encoder, sample: Sample, report: Report, progress: bool = True
) -> None:
    """Fisher mask search, rearrangement within each sublayer, rescaling of the survivors.

    The one method here that needs labels: the Fisher information is of the task's loss. The
    paper's setting is a sample of 2,048 sequences.

    Args:
        teacher: the uncompressed model.
        student: a copy of it, pruned in place; scales are folded into its output projections.
        sample: the sample dataset, with labels.
        report: gives the limit; receives what was kept and how it went.
        progress: whether to show a progress bar.

    Raises:
        ValueError: when the sample has no labels.
    """
    if sample.labels is None:
        raise ValueError(
            "Kwon et al. need labels, and the sample has none; draw it from a task's training data."
        )
    dtype = ranking_dtype(report.options["precision"], student.model)
    kind = sample.task.kind
    parts = on_device(sample, student.model.device)
    labels = torch.tensor(sample.labels, device=student.model.device)
    count = len(student.sublayers)
    with bar(4 * count * len(parts), "pruning", progress) as steps:
        steps.set_postfix_str("Fisher information")
        with timed(report.seconds, "knowledge"):
            gradients = mask_gradients(
                student,
                parts,
                lambda logits, batch: task_loss(logits, labels[batch.index], kind, batch.mask),
                sample.task,
                dtype,
                lambda: steps.update(3 * count),
            )
        with timed(report.seconds, "mask search"):
            scores = [gradient.double().square().sum(0) for gradient in gradients]
            halfway = math.sqrt(report.limit * report.dense_flops)
            wide = fisher_search(student, scores, halfway, sample.length)
            narrow = fisher_search(student, scores, report.limit, sample.length)
            narrow = [
                rearrange(mask, gradient) for mask, gradient in zip(narrow, gradients, strict=True)
            ]
        steps.set_postfix_str("rescaling")
        rescaled(
            student, wide, narrow, parts, kind != "span", report, lambda: steps.update(len(parts))
        )


def task_loss(logits: Tensor, labels: Tensor, kind: str, mask: Tensor | None = None) -> Tensor:
    """The loss that a model of this kind is fine-tuned with, one per sequence, [batch].

    Args:
        logits: [batch, labels], or [batch, length, 2] for spans.
        labels: [batch], or [batch, 2] for spans.
        kind: "classification", "regression" or "span".
        mask: True at real tokens, bool [batch, length]; used for spans only.
    """
    if kind == "regression":
        return (logits.squeeze(1) - labels).square()
    if kind == "span":
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None], -1e4)
        return F.cross_entropy(logits, labels, reduction="none").mean(1)
    return F.cross_entropy(logits, labels, reduction="none")


def fisher_search(
    encoder: Encoder, scores: Sequence[Tensor], budget: float, length: float
) -> list[Tensor]:
    """The best heads and the best neurons, ranked apart over the whole model.

    For every number of heads from 1 up, the rest of the budget goes to the best neurons; the split
    with the largest total score is taken.

    Args:
        encoder: the model.
        scores: Fisher information of the units of each sublayer, [units].
        budget: FLOPs that the kept units may cost together.
        length: tokens per sequence that FLOPs are counted at.

    Returns:
        A mask for each sublayer, bool [units]; it never exceeds the budget.
    """
    ranked, cost, gain = {}, {}, {}
    for kind in ("MHA", "FFN"):
        own = [i for i, sublayer in enumerate(encoder.sublayers) if sublayer.kind == kind]
        pooled, order = torch.cat([scores[i] for i in own]).sort(descending=True)
        ranked[kind] = (own, order)
        cost[kind] = encoder.sublayers[own[0]].unit_flops(length)
        gain[kind] = torch.cat([pooled.new_zeros(1), pooled.cumsum(0)])
    heads = torch.arange(1, len(gain["MHA"]), device=order.device)
    heads = heads[heads * cost["MHA"] <= budget]
    if len(heads) == 0:
        heads = torch.zeros(1, dtype=torch.int64, device=order.device)
    neurons = ((budget - heads * cost["MHA"]) / cost["FFN"]).long().clamp(max=len(gain["FFN"]) - 1)
    best = int((gain["MHA"][heads] + gain["FFN"][neurons]).argmax())
    masks: list[Tensor] = [torch.empty(0)] * len(scores)
    for kind, number in (("MHA", heads[best]), ("FFN", neurons[best])):
        own, order = ranked[kind]
        mask = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        mask[order[: int(number)]] = True
        for i, part in zip(own, mask.split([len(scores[i]) for i in own]), strict=True):
            masks[i] = part
    return masks


def rearrange(mask: Tensor, gradients: Tensor) -> Tensor:
    """Exchange pruned for kept units of one sublayer where that lowers ‖Σ pruned gradients‖².

    Starts from the lowest-scored units; each further unit, in ascending order, joins the pruned
    set, and the one whose return leaves the smallest norm leaves it.

    Args:
        mask: True at the kept units, bool [units]; gives how many are pruned.
        gradients: mask gradients, [minibatches, units].

    Returns:
        A mask with as many kept units.
    """
    gone = int((~mask).sum())
    if gone in (0, len(mask)):
        return mask
    vectors = gradients.T.double()
    order = vectors.square().sum(1).argsort()
    pruned, total = order[:gone].clone(), vectors[order[:gone]].sum(0)
    for unit in order[gone:]:
        candidates = torch.cat([pruned, unit[None]])
        total = total + vectors[unit]
        # ‖total − g‖² of each candidate g, up to the common ‖total‖²
        members = vectors[candidates]
        back = (members.square().sum(1) - 2 * members @ total).argmin()
        total = total - members[back]
        pruned = candidates[torch.arange(gone + 1, device=mask.device) != back]
    keep = torch.ones_like(mask)
    keep[pruned] = False
    return keep


def rescaled(
    student: Encoder,
    wide: Sequence[Tensor],
    narrow: Sequence[Tensor],
    parts: Sequence[Batch],
    first_token_last: bool,
    report: Report,
    tick=lambda: None,
) -> None:
    """Cut the student and fit one scale per survivor, sublayer by sublayer from the bottom.

    Each sublayer's output is fitted to that of a *half-way* teacher, the model cut at
    √(remaining share). The first attention sublayer is skipped, and all that follows a sublayer
    whose solve fails or whose scales leave [−10, 10] keeps scale 1. The scales are folded into the
    output projections.

    Args:
        student: the uncompressed copy; cut and rescaled in place.
        wide: the half-way teacher's masks.
        narrow: the student's.
        parts: the sample's batches.
        first_token_last: fit the last sublayer at the first token only, which is all that a
            classifier reads.
        report: receives what was kept and how it went.
        tick: called after each sublayer.
    """
    halfway = view(copy.deepcopy(student.model))
    cut(halfway, wide)
    report.kept = cut(student, narrow)
    last = len(student.sublayers) - 1
    with timed(report.seconds, "rescaling"):
        hidden = [student.embed(batch.inputs) for batch in parts]
        teacher_hidden = list(hidden)
        for t, (source, target) in enumerate(
            zip(halfway.sublayers, student.sublayers, strict=True)
        ):
            if t and target.units:
                first = first_token_last and t == last
                equations = gather(source, target, teacher_hidden, hidden, parts, first)
                scales = solve_scales(equations, target.output.weight.T, target.unit_size)
                if scales is None:
                    place = f"{target.kind} of layer {target.layer + 1}"
                    report.notes.append(f"rescaling stopped at the {place}: a scale left ±10")
                    return
                target.output.weight.mul_(scales.repeat_interleave(target.unit_size))
            else:
                advance(source, teacher_hidden, parts)
            advance(target, hidden, parts)
            tick()


def solve_scales(equations: NormalEquations, weight: Tensor, unit_size: int) -> Tensor | None:
    """Damped least squares around 1 for one scale per unit: min_s ‖Y − Σ_i s_i · P_i·W_i‖²_F.

    Args:
        equations: PᵀP and PᵀY of the surviving features.
        weight: the output projection, [features, d].
        unit_size: features per unit.

    Returns:
        Scales [units], or None when a scale is not finite or leaves [−10, 10].
    """
    weight = weight.double()
    blocks = (-1, unit_size)
    gram = equations.gram * (weight @ weight.T)
    gram = gram.unflatten(0, blocks).sum(1).unflatten(1, blocks).sum(2).cpu().numpy()
    moment = (equations.moment * weight).sum(1).unflatten(0, blocks).sum(1).cpu().numpy()
    change = lsmr(gram, moment - gram.sum(1), damp=DAMP)[0]
    scales = 1 + change
    if not np.isfinite(scales).all() or np.abs(scales).max() > LARGEST_SCALE:
        return None
    return torch.as_tensor(scales, dtype=torch.float32, device=equations.gram.device)
