"""Random pruning: the floor below every method."""

import torch

from kprune.encoders import Encoder
from kprune.mask_search import search
from kprune.report import Report
from kprune.sampling import Sample
from kprune.surgery import cut


def random(
    teacher: Encoder, student: Encoder, sample: Sample, report: Report, progress: bool = True
) -> None:
    """Keep units at random, heads and neurons alike, until the budget is full; tune nothing.

    Args:
        teacher: the uncompressed model; not used.
        student: a copy of it, pruned in place.
        sample: gives the seed.
        report: gives the limit; receives what was kept.
        progress: not used; there is nothing to wait for.
    """
    generator = torch.Generator().manual_seed(sample.seed)
    scores = [
        torch.rand(sublayer.units, generator=generator, dtype=torch.float64)
        for sublayer in student.sublayers
    ]
    masks, threshold = search(student.sublayers, scores, report.limit, sample.length)
    report.thresholds.append(threshold)
    report.kept = cut(student, masks)
