"""The table and the figures of lesson 06: what a run gives, where its time goes, what it needs."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from kprune.encoders import Encoder
from kprune.laboratory.evaluation import DevSet, check_dev, predict
from kprune.laboratory.figures import GREEN, GREY, METRIC_NAMES, WIDTH, standard_error
from kprune.laboratory.lessons.knowledge import minibatches
from kprune.pruning import prune
from kprune.report import Report
from kprune.sampling import Sample


def result(report: Report, scores: Mapping, latency: Mapping, metric: str) -> pd.DataFrame:
    """Score, size and, where it was timed, speed of the dense and of the pruned model."""
    rows = {
        metric: (f"{scores[name][metric]:.3f}" for name in ("dense", "pruned")),
        "FLOPs per sequence (M)": (f"{n / 1e6:,.0f}" for n in (report.dense_flops, report.flops)),
        "parameters (M)": (f"{n / 1e6:.1f}" for n in (report.dense_parameters, report.parameters)),
    }
    if latency:
        rows["ms for 32 × 128 tokens"] = (f"{1000 * latency[name]:,.0f}" for name in latency)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["dense", "pruned"])


def same(
    loop: Callable, teacher: PreTrainedModel, sample: Sample, rate: float, **options: object
) -> list[list[int]]:
    """The numbers of the units that a reader's loop keeps, once they and the logits are K-prune's.

    `loop(teacher, sample, rate)` gives the student and these numbers; the teacher is in float64.
    """
    mine, kept = loop(teacher, sample, rate)
    options |= {"precision": "full", "progress": False}
    theirs, report = prune(teacher, sample, rate, **options)
    assert kept == report.kept
    mine, theirs = Encoder(mine), Encoder(theirs)
    with torch.no_grad():
        for batch in minibatches(sample, mine.device):
            assert (mine.run(batch) - theirs.run(batch)).abs().max() < 1e-9
    return kept


def errors_that_stay(dense: PreTrainedModel, pruned: PreTrainedModel, dev: DevSet) -> str:
    """How many of the teacher's wrong answers the pruned model shares; "" where none is wrong."""
    if dev.task.kind != "classification":
        return ""
    labels, (order, _) = torch.tensor(dev.rows[dev.task.label][:]), check_dev(dense, dev)
    logits = (torch.stack(predict(model, dev)).cpu() for model in (dense, pruned))
    # In the order of the data's classes, which may be another than the model's.
    wrong = [z[:, order or slice(None)].argmax(1) != labels for z in logits]
    stay, more = (wrong[0] & wrong[1]).sum(), (wrong[1] & ~wrong[0]).sum()
    return f"of the teacher's {wrong[0].sum()} wrong answers {stay} stay wrong; {more} more are"


def parts(seconds: Mapping[str, float], one_pass: float) -> Figure:
    """The time of each part of a run, in passes of so many seconds."""
    names = {"knowledge": "measure", "mask search": "search", "tuning": "tune"}
    names |= {"advancing": "advance"}
    seconds = seconds or {"nothing": 0.0}  # some floors take no time that is told
    passes = [spent / one_pass for spent in seconds.values()]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.4 * len(passes)))
    bars = axes.barh([names.get(n, n) for n in seconds], passes, color=GREY, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=4, fontsize="small")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    title = "Measuring takes the most" if passes[0] == max(passes) else "Where the time goes"
    axes.set(title=title, xlabel="time (passes)", xlim=(0, 1.12 * max(passes) or 1))
    return figure


def variants(
    found: Mapping[str, Sequence[float]], dense: float, examples: int, metric: str
) -> Figure:
    """Scores (0 to 1) by variant, one for each seed, beside the dense model's.

    The dense score has a band of one standard error, on so many `examples`, where it is known.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 1.1 + 0.45 * len(found)))
    error = standard_error(dense, examples, metric)
    axes.axvspan(100 * (dense - error), 100 * (dense + error), color="0.92")
    axes.axvline(100 * dense, color="0.35", linestyle="--", label="teacher, ± one standard error")
    for place, scores in enumerate(found.values()):
        axes.plot([100 * x for x in scores], [place] * len(scores), "o", color=GREEN, alpha=0.6)
        axes.plot(100 * sum(scores) / len(scores), place, "|", color="black", markersize=16)
    axes.plot([], [], "o", color=GREEN, alpha=0.6, label="one seed")
    axes.plot([], [], "|", color="black", markersize=12, linestyle="", label="mean")
    axes.set_yticks(range(len(found)), [*found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set(
        title="What each part of the loop brings",
        xlabel=f"{METRIC_NAMES.get(metric, metric)} on the dev set (× 100)",
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure
