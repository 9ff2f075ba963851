"""The figures that lessons share; those of one lesson are in a module of its own beside this."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from kprune.laboratory.figures import (
    COLOURS,
    GREEN,
    GREY,
    METRIC_NAMES,
    WIDTH,
    room,
    short_name,
    standard_error,
)
from kprune.report import Report
from kprune.sampling import Sample
from kprune.weight_tuning import Tuning


def lengths(sample: Sample) -> Figure:
    """Histogram of the sample's sequence lengths."""
    counts = [len(example["input_ids"]) for example in sample.examples]
    figure, axes = plt.subplots()
    sns.histplot(x=counts, discrete=max(counts) < 80, ax=axes, color=GREEN)
    mean = sample.tokens / len(counts)
    axes.axvline(mean, color="black", linestyle="--")
    axes.margins(y=0.15)
    style = {"xytext": (5, 0), "textcoords": "offset points", "va": "top", "fontsize": "small"}
    axes.annotate(f"mean {mean:.1f}", (mean, 0.97), xycoords=("data", "axes fraction"), **style)
    axes.set(
        title=f"{len(counts):,} sequences share {sample.tokens:,} tokens",
        xlabel="length (tokens, special tokens included)",
        ylabel="sequences",
    )
    return figure


def survivors(report: Report) -> Figure:
    """Share of heads and of neurons that survive in each layer, with their numbers."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH * 1.15, 3.2), sharey=True)
    for axis, name in zip(axes, ("heads", "neurons"), strict=True):
        kept, dense = (np.array(getattr(report, before + name)) for before in ("", "dense_"))
        layers = range(1, len(kept) + 1)
        axis.barh(layers, 100, color="0.92", label="before")
        axis.barh(layers, 100 * kept / dense, color=COLOURS[name], label="after")
        for layer, few, many in zip(layers, kept, dense, strict=True):
            axis.annotate(f"{few} of {many}", (102, layer), va="center", fontsize="small")
        axis.set(title=name.capitalize(), xlabel=f"surviving {name} (%)", xlim=(0, 135))
        axis.set_xticks([0, 25, 50, 75, 100])
        axis.set_yticks(layers)
        axis.grid(axis="y", visible=False)
    axes[0].set_ylabel("layer")
    return figure


def tuning(results: Sequence[Tuning]) -> Figure:
    """Relative output error on the sample of each sublayer before and after weight-tuning."""
    rows = [
        (short_name(t), when, 100 * getattr(result, when))
        for t, result in enumerate(results)
        for when in ("before", "after")
    ]
    table = pd.DataFrame(rows, columns=["sublayer", "tuning", "error"])
    figure, axes = plt.subplots(figsize=(WIDTH * 1.15, 3.4))
    sns.barplot(table, x="sublayer", y="error", hue="tuning", palette=[GREY, GREEN], ax=axes)
    axes.set(
        title="Tuning lowers every sublayer's output error, on the sample",
        xlabel="sublayer, from the embedding upwards",
        ylabel="output error\n‖Y − P·W‖² / ‖Y‖² (%)",
    )
    names = [short_name(t).replace(" ", "\n") for t in range(len(results))]
    axes.set_xticks(range(len(results)), names, fontsize="small")
    axes.margins(y=0.12)  # the number of the tallest bar is not on the frame
    for bars in axes.containers:
        # One decimal of what is small, which would read as no error.
        numbers = [f"{height:.{int(height < 9.95)}f}" for height in bars.datavalues]
        axes.bar_label(bars, numbers, fontsize=8.5 if len(results) <= 12 else 6, padding=1)
    axes.legend(title="weight-tuning")
    return figure


def accuracy(
    table: pd.DataFrame, metric: str, dense: float, examples: int, chance: float | None = None
) -> Figure:
    """Score against the share of FLOPs that is removed; the table has `rate` and `score` (0 to 1).

    They have bars of one standard error on so many `examples`, and the teacher's a band, where that
    is known. The dotted line is `chance`, the score without a look at the text.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    rates = np.array([0.0, *table["rate"]]) * 100
    scores = np.array([dense, *table["score"]]) * 100
    error = [100 * standard_error(score / 100, examples, metric) for score in scores]
    if error[0]:
        band = scores[0] - error[0], scores[0] + error[0]
        axes.axhspan(*band, color="0.9", label="teacher ± one standard error")
    axes.axhline(scores[0], color=GREY, linestyle="--", linewidth=1.2)
    style = {"color": GREEN, "marker": "o", "capsize": 3, "label": "K-prune"}
    axes.errorbar(rates, scores, error, **style)
    style = {"xytext": (-4, -5), "textcoords": "offset points", "fontsize": "small"}
    for rate, score in zip(rates[1:], scores[1:], strict=True):
        axes.annotate(f"{score:.1f}", (rate, score), ha="right", va="top", **style)
    if chance is not None:
        axes.axhline(100 * chance, color="black", linestyle=":", label="the most frequent label")
        axes.set_ylim(100 * chance - 4, None)
    axes.legend(loc="center left", fontsize="small")
    axes.set(
        title="What is left of the score as FLOPs go",
        xlabel="rate: FLOPs removed (% of the teacher's)",
        ylabel=f"{METRIC_NAMES.get(metric, metric)} on the dev set (× 100)",
        xlim=(-3, 103),
    )
    room(axes)
    return figure


def confidence(sure: Sequence[float], right: Sequence[bool], labels: int = 2) -> Figure:
    """The wrong answers alone by confidence, and how often an answer of some confidence is right.

    `sure` is the probability of each chosen label, of so many `labels`. Bars are one standard
    error; a place of fewer than five answers has no point.
    """
    sure, right = np.asarray(sure, dtype=float), np.asarray(right, dtype=bool)
    size = 1.25 * WIDTH, 3.4
    figure, (alone, rates) = plt.subplots(1, 2, figsize=size, layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # so that a label does not touch the other panel
    edges = np.linspace(1 / labels, 1, 11)
    alone.hist(sure[~right], edges, color=GREY, edgecolor="white")
    alone.set(
        title=f"The {(~right).sum()} wrong answers alone",
        xlabel="probability of the chosen label",
        ylabel="dev sentences",
    )
    places = np.clip(np.searchsorted(edges[::2], sure, "right") - 1, 0, 4)
    rates.axline(
        (1 / labels, 1 / labels), slope=1, color="black", linestyle=":", label="calibrated"
    )
    for place in range(5):
        here = places == place
        if (count := here.sum()) < 5:
            continue
        mean, share = sure[here].mean(), right[here].mean()
        error = standard_error(share, count)
        rates.errorbar(mean, share, error, color=GREEN, marker="o", capsize=3)
        style = {"xytext": (0, -4), "textcoords": "offset points", "fontsize": "small"}
        style |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}  # on the line
        rates.annotate(f"{count}", (mean, share - error), ha="center", va="top", **style)
    rates.set(
        title="Is it as often right as it is sure?",
        xlabel="probability of the chosen label, mean",
        ylabel="share right (of how many),\n± one standard error",
        xlim=(0.9 / labels, 1),
        ylim=(0.9 / labels, 1),
    )
    rates.legend(loc="lower right")
    return figure


def readable(table: pd.DataFrame) -> Styler:
    """A table of texts: left-aligned, whole, without row numbers."""
    left = [{"selector": "th, td", "props": "text-align: left !important"}]
    return table.style.hide().set_table_styles(left).format(precision=2)
