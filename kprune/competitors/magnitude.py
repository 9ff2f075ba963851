"""Magnitude pruning: the floor that looks at the weights only."""

from torch import Tensor

from kprune.encoders import Encoder, Sublayer
from kprune.mask_search import search
from kprune.report import Report
from kprune.sampling import Sample
from kprune.surgery import cut


def magnitude(
    teacher: Encoder, student: Encoder, sample: Sample, report: Report, progress: bool = True
) -> None:
    """Keep the units with the largest squared weights per FLOP; tune nothing.

    Args:
        teacher: the uncompressed model; not used.
        student: a copy of it, pruned in place.
        sample: gives the length that FLOPs are counted at.
        report: gives the limit; receives what was kept.
        progress: not used; there is nothing to wait for.
    """
    scores = [
        squared_weights(sublayer) / sublayer.unit_flops(sample.length)
        for sublayer in student.sublayers
    ]
    masks, threshold = search(student.sublayers, scores, report.limit, sample.length)
    report.thresholds.append(threshold)
    report.kept = cut(student, masks)


def squared_weights(sublayer: Sublayer) -> Tensor:
    """Sum of squares of each unit's rows of the input and columns of the output projections."""
    total = sublayer.output.weight.double().square().sum(0)
    for linear in sublayer.inputs:
        total = total + linear.weight.double().square().sum(1)
    return total.unflatten(0, (-1, sublayer.unit_size)).sum(1)
