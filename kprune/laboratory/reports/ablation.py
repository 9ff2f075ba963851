"""`13_ablation`: what each ingredient brings."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory import tables
from kprune.laboratory.figures import GREEN, GREY, LEAST, WIDTH, called, panels
from kprune.laboratory.reports.noise import of_score, to_exceed


def losses(runs: pd.DataFrame) -> pd.DataFrame:
    """The variants' runs with `loss`: points below the whole method of their seed, if both are
    done; and with `noise`, one standard error of the dev set at the whole method's score.
    """
    keys = ["model", "task", "rate", "seed"]
    score = pd.to_numeric(runs["score"], errors="coerce").where(runs["state"] == "done")
    whole = runs["without"] == ""
    by = score[whole].set_axis(pd.MultiIndex.from_frame(runs.loc[whole, keys]))
    found = by.reindex(pd.MultiIndex.from_frame(runs.loc[~whole, keys])).to_numpy() - score[~whole]
    groups = runs[whole].groupby(keys[:-1])
    errors = pd.Series({name: of_score(some) for name, some in groups}, dtype=float)
    place = pd.MultiIndex.from_frame(runs.loc[~whole, keys[:-1]])
    return runs[~whole].assign(loss=100 * found, noise=errors.reindex(place).to_numpy())


def answer(variants: pd.DataFrame) -> str:
    """What matters most on each task and what does not, in words, from `losses`.

    Called noise is what does not exceed `noise.to_exceed`.
    """
    found = []
    for (task, rate), some in variants.groupby(["task", "rate"], sort=False):
        lost = _means(some)
        if lost.empty:
            continue
        text = f"- {tables.called([task])[0]} at {rate:.0%}: "
        first, *others = leaders(lost)
        points = lost["mean"].map("{:.1f}".format)
        if others:
            named = [f"*{name}* ({points[name]})" for name in others]
            text += f"most is lost without *{first}*, {points[first]} points, which noise does not "
            text += f"tell from what is lost without {tables.few(named, 9)}"
        else:
            text += f"*{first}* matters most, {points[first]} points are lost without it"
        little = lost[lost["mean"].abs() < lost["noise"]].index.difference([first, *others], False)
        if len(little):
            text += f"; {tables.few([f'*{name}*' for name in little], 9)} cannot be told from noise"
        for name, mean in lost.loc[lost["mean"] <= -lost["noise"], "mean"].items():
            text += f"; without *{name}* the method is {-mean:.1f} points *better*"
        found.append(text + ".")
    return "\n".join(found)


def _means(variants: pd.DataFrame) -> pd.DataFrame:
    """Of one task and rate, by what is left out: `mean` loss, `noise`; the largest loss first."""
    groups = variants.dropna(subset="loss").groupby("without", sort=False)
    noise = to_exceed(groups["noise"].mean(), groups["loss"].sem())
    means = pd.DataFrame({"mean": groups["loss"].mean(), "noise": noise})
    return means.sort_values("mean", ascending=False)


def leaders(means: pd.DataFrame) -> list[str]:
    """What is missed most, and what cannot be told from it though it can from nothing."""
    first, most = means.index[0], means.iloc[0]
    near = most["mean"] - means["mean"] < np.hypot(most["noise"], means["noise"])
    clear = means["mean"] >= means["noise"]
    return [first, *means.index[near & clear].difference([first], sort=False)]


def draw_ingredients(runs: pd.DataFrame) -> Figure:
    """What each ingredient brings on each task: points lost without it, from `losses`.

    All tasks have one scale, of half of `LEAST` points at the least, so that none magnifies noise;
    the grey band is one standard error of the dev set, a whisker one of the mean over seeds. An
    ingredient that no finished run was without has no bar.
    """
    several = runs["rate"].nunique() > 1
    names = zip(called(runs["task"]), runs["rate"], strict=True)
    variants = runs.assign(
        task=[task + (f" at {rate:.0%}" if several else "") for task, rate in names]
    )
    variants = variants.dropna(subset="loss")
    tasks, order = (list(dict.fromkeys(variants[name])) for name in ("task", "without"))
    size = 1.25 * WIDTH, 0.5 + 0.36 * len(order)
    figure, axes = panels(len(tasks), 3, size, more=0.5, sharex=True, sharey=True)
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = variants[variants["task"] == task]
        lost = dict(list(here.groupby("without")["loss"]))
        if (noise := here["noise"].mean()) > 0:
            axis.axvspan(-noise, noise, color=GREY, alpha=0.5, linewidth=0)
        axis.axvline(0, color="black", linewidth=1)
        for place, name in enumerate(order):
            if name in lost:
                _bar(axis, place, lost[name])
        first = leaders(_means(here))
        words = f"most is lost without {' or '.join(first)}"
        words = f"{task}: {words if len(first) < 3 else 'noise hides what matters most'}"
        axis.set_title(words, fontsize="small")
        axis.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].set(ylim=(len(order) - 0.4, -0.6))
    for axis in axes[:, 0]:
        axis.set_ylabel("without")
    low, high = axes[0, 0].get_xlim()
    low, high = low - 0.1 * (high - low) * (low < 0), high + 0.12 * (high - low)
    axes[0, 0].set_xlim(low, max(high, low + LEAST / 2))
    words = ["points below the whole method"]
    words += ["grey: one standard error of the dev set"] * bool(variants["noise"].notna().any())
    words += ["dots: seeds, whiskers: of their mean"] * bool(variants["seed"].nunique() > 1)
    figure.supxlabel("; ".join(words), fontsize="medium")
    return figure


def _bar(axis: plt.Axes, place: int, lost: pd.Series) -> None:
    """A bar with its value beyond it, and of several seeds their own values and a whisker."""
    mean, error = lost.mean(), lost.sem() if len(lost) > 1 else 0.0
    axis.barh(place, mean, height=0.7, color=GREEN, xerr=error or None, ecolor="0.25")
    side = 1 if mean >= 0 else -1
    ends = side * np.array([*lost, mean + side * error])
    if len(lost) > 1:
        axis.plot(lost, [place + 0.2] * len(lost), "o", color="0.25", markersize=3)
    style = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
    style |= {"ha": "left" if side > 0 else "right"}
    axis.annotate(
        f"{mean:.1f}".replace("-", "−"), (side * ends.max(), place), (5 * side, 0), **style
    )
