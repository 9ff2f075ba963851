"""Lesson 03: a knapsack, and the figures of the threshold, who pays, and what μ trades."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from kprune.laboratory.figures import BLUE, COLOURS, GREEN, ORANGE, WIDTH

LEAST = 1e-30  # what a logarithmic axis shows of zero
GONE = "0.75"


def knapsack(scores: Sequence[Tensor], costs: Tensor) -> pd.DataFrame:
    """Heads and neurons of one layer by what each is worth per FLOP, the best first."""
    kinds = zip(("head", "neuron"), scores, strict=True)
    units = [f"{kind} {i}" for kind, some in kinds for i in range(len(some))]
    importance = torch.cat([*scores])
    columns = {"importance": importance * 1e6, "FLOPs": costs, "per FLOP": importance / costs * 1e9}
    table = pd.DataFrame({name: x.numpy(force=True) for name, x in columns.items()}, units)
    table = table.sort_values("per FLOP", ascending=False)
    return table.round({"importance": 2}).astype({"FLOPs": int, "per FLOP": int})


def threshold(scores: Tensor, costs: Tensor, heads: Tensor, budget: float, nu: float) -> Figure:
    """The mask search: each unit over the FLOPs of all that score as high, and where ν cuts.

    Pooled importance per FLOP, FLOPs and whether it is a head, [units]; the FLOPs that may be kept.
    """
    order = (-scores).argsort(stable=True).numpy(force=True)
    scores, costs, heads = (x.numpy(force=True)[order] for x in (scores, costs, heads))
    share = 100 * np.cumsum(costs) / costs.sum()
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    for kind, here, size, marker in (("neurons", ~heads, 9, "o"), ("heads", heads, 34, "s")):
        for stays in (False, True):
            some = here & ((scores > nu) == stays)
            style = {"color": COLOURS[kind] if stays else GONE, "marker": marker, "linewidths": 0}
            label = f"{kind} that stay" if stays else f"{kind} under water"
            y = np.maximum(scores[some], LEAST)
            axes.scatter(share[some], y, size, label=label, zorder=2 + (kind == "heads"), **style)
    limit = 100 * budget / costs.sum()
    axes.axvline(limit, color=GREEN, linewidth=1.5, label=f"budget τ, {limit:.0f}% of the pool")
    if np.isfinite(nu):
        axes.axhline(max(nu, LEAST), color="black", linestyle="--", linewidth=1)
        style = {"ha": "right", "va": "bottom", "fontsize": "small"}
        axes.annotate(f"ν = {nu:.1e}", (99, max(nu, LEAST)), **style)
    axes.set(
        yscale="log",
        title="The water stands at ν where the units above it fill the budget",
        xlabel="FLOPs of this unit and of all above it (% of the pool)",
        ylabel="importance per FLOP",
        xlim=(0, 100),
    )
    axes.legend(loc="lower left", fontsize="small", markerscale=1.3)
    return figure


def payers(kept: Sequence[float], first: float) -> Figure:
    """Units that a search keeps (%): of each sublayer from t = 1 up; `first` was decided before."""
    figure, axes = plt.subplots()
    for t, share in enumerate([first, *kept]):
        style = {"color": ORANGE if t % 2 else BLUE}
        if t == 0:
            style = {"facecolor": "white", "edgecolor": BLUE, "hatch": "////"}
        place = t // 2 + 1 + (0.2 if t % 2 else -0.2)
        axes.bar(place, share, 0.38, **style)
        label = {"ha": "center", "va": "bottom", "fontsize": "small"}
        axes.annotate(f"{share:.0f}", (place, share), **label)
    axes.set_xticks(range(1, len(kept) // 2 + 2))
    axes.set(
        title="Who pays: what the search would keep in each layer",
        xlabel="layer",
        ylabel="units kept (%)",
        ylim=(0, 112),
    )
    axes.grid(axis="x", visible=False)
    before = Patch(facecolor="white", edgecolor=BLUE, hatch="////", label="decided before")
    handles = [Patch(color=COLOURS[kind], label=kind) for kind in COLOURS]
    axes.legend(handles=[*handles, before], ncols=3, loc="upper left", fontsize="small")
    return figure


def exchange(factors: Sequence[float], heads: Sequence[float], neurons: Sequence[float]) -> Figure:
    """Heads and neurons that a search keeps (%), over the exchange rate μ."""
    figure, axes = plt.subplots()
    for kind, kept, marker in (("heads", heads, "s"), ("neurons", neurons, "o")):
        axes.plot(factors, kept, color=COLOURS[kind], marker=marker, label=kind)
    axes.axvline(64, color="black", linestyle=":", linewidth=1.2)
    axes.annotate(" the paper's 64", (64, 1), fontsize="small")
    axes.set(
        xscale="log",
        title="μ moves the budget between heads and neurons",
        xlabel="μ",
        ylabel="units kept (%)",
        ylim=(-5, 105),
    )
    axes.legend(loc="upper left")
    return figure
