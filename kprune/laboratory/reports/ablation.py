"""`13_ablation`: what each ingredient brings."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory import tables
from kprune.laboratory.figures import GREEN, GREY, LEAST, WIDTH, called, panels
from kprune.laboratory.reports.noise import of_score


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

    Called noise is less than one standard error of the dev set, 1.5 points where that is not known,
    or than two of the mean over seeds.
    """
    found = []
    each = variants.groupby(["task", "rate", "without"], sort=False)
    means, seeds = each["loss"].mean().dropna(), each["loss"].sem().fillna(0.0)
    chance = each["noise"].mean().fillna(1.5).clip(lower=2 * seeds)
    for (task, rate), some in means.groupby(level=["task", "rate"], sort=False):
        noise = chance.loc[some.index].droplevel(["task", "rate"])
        some = some.droplevel(["task", "rate"]).sort_values(ascending=False)
        noise = noise[some.index]
        text = f"- {tables.called([task])[0]} at {rate:.0%}: "
        text += f"*{some.index[0]}* matters most, {some.iloc[0]:.1f} points are lost without it"
        if len(little := some[some.abs() < noise]):
            text += f"; {tables.few([f'*{name}*' for name in little.index], 9)} "
            text += "cannot be told from noise"
        for name, points in some[some <= -noise].items():
            text += f"; without *{name}* the method is {-points:.1f} points *better*"
        found.append(text + ".")
    return "\n".join(found)


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
        lost = here.groupby("without")["loss"].agg(["mean", "sem"]).fillna(0.0)
        if (noise := here["noise"].mean()) > 0:
            axis.axvspan(-noise, noise, color=GREY, alpha=0.5, linewidth=0)
        axis.axvline(0, color="black", linewidth=1)
        for place, name in enumerate(order):
            if name in lost.index:
                _bar(axis, place, *lost.loc[name])
        words = f"{task}: most is lost without {lost['mean'].idxmax()}"
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
    words += ["whiskers: of the seeds"] * bool(variants["seed"].nunique() > 1)
    figure.supxlabel("; ".join(words), fontsize="medium")
    return figure


def _bar(axis: plt.Axes, place: int, mean: float, error: float) -> None:
    """A bar with its value beside it, and beyond its whisker if it has one."""
    axis.barh(place, mean, height=0.7, color=GREEN, xerr=error or None, ecolor="0.25")
    side = 1 if mean >= 0 else -1
    style = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
    style |= {"ha": "left" if side > 0 else "right"}
    axis.annotate(
        f"{mean:.1f}".replace("-", "−"), (mean + side * error, place), (5 * side, 0), **style
    )
