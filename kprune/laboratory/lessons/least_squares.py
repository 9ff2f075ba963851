"""Lesson 05: a sublayer with few units, and how well tuning does with few tokens."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from kprune.encoders import Sublayer
from kprune.laboratory.figures import GREEN, GREY
from kprune.surgery import keep_units

LEAST = 0.1  # % of output error: the bottom of the figure, where perfect fits are shown


def keep_strongest(sublayer: Sublayer, features: Iterable[Tensor], share: float) -> None:
    """Keep this share of a sublayer's units, those that write most (S_rep), in place.

    `features` are blocks of rows, [tokens, features].
    """
    power = sum(P.square().sum(0) for P in features)
    written = power * sublayer.output.weight.square().sum(0)
    written = written.unflatten(0, (-1, sublayer.unit_size)).sum(1)
    keep_units(sublayer, written >= written.quantile(1 - share))


def error(rows: Sequence[tuple[Tensor, Tensor]], W: Tensor) -> float:
    """‖Y − P·W‖² / ‖Y‖² over blocks of rows, pairs of P and Y."""
    left = sum((Y - P @ W).square().sum() for P, Y in rows)
    return (left / sum(Y.square().sum() for _, Y in rows)).item()


def few_tokens(points: Sequence[tuple[float, float, float]], untuned: float) -> Figure:
    """Output error after tuning on few tokens, on those and on unseen text.

    `points` are tokens for each unit, and the errors (0 to 1) on the sample and on unseen text, of
    one sample each; several of a size give a mean and its standard error. `untuned` is the error on
    unseen text before tuning. What is fitted better than the figure shows is a triangle at its
    bottom.
    """
    table = pd.DataFrame(points, columns=["tokens", "sample", "unseen"])
    table[["sample", "unseen"]] *= 100
    found = table.groupby("tokens").agg(["mean", "sem"])
    figure, axes = plt.subplots()
    for name, label, colour, marker in (
        ("sample", "the sample itself", "black", "o"),
        ("unseen", "unseen text", GREEN, "D"),
    ):
        mean, error = found[name]["mean"], found[name]["sem"].fillna(0)
        shown = np.maximum(mean, LEAST)
        axes.plot(found.index, shown, color=colour, label=label)
        low, high = (np.maximum(mean + sign * error, LEAST) for sign in (-1, 1))
        style = {"color": colour, "alpha": 0.2, "linewidth": 0}
        if name == "unseen":  # one entry of the legend is enough
            style["label"] = "± one standard error"
        axes.fill_between(found.index, low, high, **style)
        for here, shape in ((mean > LEAST, marker), (mean <= LEAST, "v")):
            style = {"color": colour, "marker": shape, "zorder": 3, "clip_on": False}
            axes.scatter(found.index[here], shown[here], 36, **style)
    fitted = found["sample"]["mean"] <= LEAST
    style = {"fontsize": "small", "color": "0.35"}
    if fitted.any():
        place = found.index[fitted][0], 1.4 * LEAST
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # on lines of the grid
        axes.annotate(f"fitted perfectly (< {LEAST}%)", place, bbox=box, **style)
    axes.axhline(100 * untuned, color=GREY, linestyle="--")
    axes.axvline(1, color="0.35", linestyle=":")
    where = {"textcoords": "offset points", "xytext": (-3, 3), **style}
    axes.annotate("untuned", (found.index[-1], 100 * untuned), ha="right", **where)
    where |= {"xytext": (5, -4), "xycoords": ("data", "axes fraction"), "va": "top"}
    axes.annotate("as many tokens as units", (1, 1), **where)
    axes.set(
        xscale="log",
        yscale="log",
        title="Too few tokens are fitted too well",
        xlabel="tokens in the sample, for each unit kept",
        ylabel="output error after tuning (%)",
        ylim=(LEAST, max(200, 4 * found["unseen"]["mean"].max())),
    )
    axes.set_xticks(found.index, [f"{number:g}" for number in found.index])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.78), fontsize="small")
    return figure
