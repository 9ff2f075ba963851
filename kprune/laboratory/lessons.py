"""The figures of the lessons, notebooks 00 to 06."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.data.batching import batches
from kprune.laboratory.figures import BLUE, COLOURS, GREEN, GREY, METRIC_NAMES, WIDTH

if TYPE_CHECKING:
    from torch import Tensor

    from kprune.report import Report
    from kprune.sampling import Sample
    from kprune.weight_tuning import Tuning


def lengths(sample: Sample) -> Figure:
    """Histogram of the sample's sequence lengths."""
    counts = [len(example["input_ids"]) for example in sample.examples]
    figure, axes = plt.subplots()
    sns.histplot(x=counts, discrete=max(counts) < 80, ax=axes, color=BLUE)
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


def padding(sample: Sample, sizes: Sequence[int]) -> Figure:
    """How much of each batch is padding, in drawing order and sorted by length."""
    rows = []
    for size in sizes:
        for order, by_length in (("as drawn", False), ("sorted by length", True)):
            parts = batches(sample.examples, max_tokens=size, by_length=by_length)
            cells = sum(part.inputs["input_ids"].numel() for part in parts)
            rows.append((f"{size:,}", order, 100 * (1 - sample.tokens / cells)))
    table = pd.DataFrame(rows, columns=["size", "order", "padding"])
    figure, axes = plt.subplots()
    sns.barplot(table, x="size", y="padding", hue="order", palette=[GREY, BLUE], ax=axes)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.0f%%", fontsize="small", padding=2)
    axes.set(
        title="Sorting by length saves most of the padding",
        xlabel="batch size (tokens, padding included)",
        ylabel="padding (% of all positions)",
        ylim=(0, max(60, table["padding"].max() * 1.15)),
    )
    axes.legend(title=None)
    return figure


def importance(scores: Sequence[Tensor], start: int = 0) -> Figure:
    """Heat maps of importance per FLOP: each head of each layer, and neurons sorted within a layer.

    `scores` are those of the units of each sublayer from `start` (counted from 0) up.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH * 1.25, 3.2), width_ratios=(2, 3))
    logs = [np.log10(np.asarray(score.cpu(), dtype=float) + 1e-30) for score in scores]
    seen = [value for row in logs for value in row if value > -29] or [-30, -29]
    titles = {"head": "Heads", "rank": "Neurons, sorted within a layer"}
    for parity, (axis, (xlabel, title)) in enumerate(zip(axes, titles.items(), strict=True)):
        rows = {t // 2 + 1: row for t, row in enumerate(logs, start) if t % 2 == parity}
        if parity:
            rows = {layer: -np.sort(-row) for layer, row in rows.items()}
        grid = pd.DataFrame.from_dict(rows, orient="index")
        grid.columns = grid.columns + 1
        sns.heatmap(
            grid[::-1],
            ax=axis,
            cmap="viridis",
            vmin=min(seen),
            vmax=max(seen),
            xticklabels=max(1, grid.shape[1] // 6) if parity else 1,
            cbar=bool(parity),
            cbar_kws={"label": "importance per FLOP (log10)"},
        )
        axis.set(title=title, xlabel=xlabel, ylabel="layer")
        axis.tick_params(axis="both", rotation=0, labelsize="small")
    return figure


def threshold(scores, costs, kinds: Sequence[str], budget: float, nu: float) -> Figure:
    """The mask search: FLOPs of the units above each threshold, and where the budget cuts.

    Pooled importance per FLOP, FLOPs and kind ("heads" or "neurons") of each unit; the FLOPs that
    may be kept; the threshold that KPMS found.
    """
    order = np.argsort(-np.asarray(scores))
    scores, costs = np.asarray(scores)[order], np.asarray(costs, dtype=float)[order]
    kinds = np.asarray(kinds)[order]
    kept = np.cumsum(costs)
    figure, axes = plt.subplots()
    for kind, size, marker, above in (("neurons", 5, "o", 2), ("heads", 30, "s", 3)):
        here = kinds == kind
        x, y = 100 * kept[here] / kept[-1], np.maximum(scores[here], 1e-30)
        style = {"color": COLOURS[kind], "marker": marker, "linewidths": 0, "zorder": above}
        axes.scatter(x, y, size, label=kind, **style)
    share = 100 * budget / kept[-1]
    axes.axvspan(0, share, color=GREEN, alpha=0.12, label="budget")
    if np.isfinite(nu):
        axes.axhline(max(nu, 1e-30), color="black", linestyle="--", linewidth=1)
        axes.annotate("ν", (99, max(nu, 1e-30)), ha="right", va="bottom")
    axes.set(
        yscale="log",
        title="The threshold ν cuts where the kept units fill the budget",
        xlabel="FLOPs of this unit and all above it (% of the pool)",
        ylabel="importance per FLOP",
        xlim=(0, 100),
    )
    axes.legend(loc="upper right")
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
    """Relative output error of each sublayer before and after weight-tuning."""
    kinds = "MHA", "FFN"
    rows = [
        (f"{kinds[t % 2]} {t // 2 + 1}", when, 100 * getattr(result, when))
        for t, result in enumerate(results)
        for when in ("before", "after")
    ]
    table = pd.DataFrame(rows, columns=["sublayer", "tuning", "error"])
    figure, axes = plt.subplots(figsize=(WIDTH * 1.15, 3.4))
    sns.barplot(table, x="sublayer", y="error", hue="tuning", palette=[GREY, GREEN], ax=axes)
    axes.set(
        title="Tuning lowers every sublayer's output error",
        xlabel="sublayer, from the embedding upwards",
        ylabel="output error ‖Y − P·W‖² / ‖Y‖² (%)",
    )
    axes.tick_params(axis="x", rotation=45, labelsize="small")
    axes.legend(title="weight-tuning")
    return figure


def accuracy(table: pd.DataFrame, metric: str, dense: float, examples: int) -> Figure:
    """Score against the share of FLOPs that is left; the table has `flops` and `score` (0 to 1).

    An accuracy has a band of one standard error, on so many `examples`, around the teacher's.
    """
    figure, axes = plt.subplots()
    error = (dense * (1 - dense) / examples) ** 0.5 if metric == "accuracy" else 0.0
    if error:
        axes.axhspan(dense - error, dense + error, color="0.92", label="one standard error")
        axes.legend(loc="lower right")
    axes.axhline(dense, color=GREY, linestyle="--", linewidth=1.2)
    style = {"va": "bottom", "fontsize": "small", "color": "0.35"}
    axes.annotate(
        f"teacher {dense:.3f}", (0.01, dense), xycoords=("axes fraction", "data"), **style
    )
    sns.lineplot(table, x=100 * table["flops"], y="score", marker="o", color=BLUE, ax=axes)
    axes.plot(100, dense, marker="D", color="0.35")
    style = {"xytext": (0, -14), "textcoords": "offset points", "ha": "center", "fontsize": "small"}
    for flops, score in zip(table["flops"], table["score"], strict=True):
        axes.annotate(f"{score:.3f}", (100 * flops, score), **style)
    low = min(table["score"].min(), dense)
    room = max(0.25 * (dense - low), 0.005, 1.2 * error)
    axes.set(
        title="Accuracy against cost",
        xlabel="FLOPs left (% of the teacher's)",
        ylabel=f"{METRIC_NAMES.get(metric, metric)} on the dev set",
        xlim=(0, 105),
        ylim=(low - room, dense + room),
    )
    return figure
