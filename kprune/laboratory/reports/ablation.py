"""`13_ablation`: what each ingredient brings."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import BLUE, WIDTH, called, panels


def losses(runs: pd.DataFrame) -> pd.DataFrame:
    """The variants' runs with `loss`: points below the whole method of their seed, if both are
    done.
    """
    whole = runs["without"] == ""
    return runs[~whole].assign(loss=-ahead(runs[~whole], runs[whole]))


def ahead(runs: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """Points by which each run is ahead of the other one of its model, task, rate and seed."""
    keys = ["model", "task", "rate", "seed"]
    ours, theirs = (
        pd.to_numeric(some["score"], errors="coerce").where(some["state"] == "done")
        for some in (runs, others)
    )
    by = theirs.set_axis(pd.MultiIndex.from_frame(others[keys]))
    return 100 * (ours - by.reindex(pd.MultiIndex.from_frame(runs[keys])).to_numpy())


def draw_ingredients(
    runs: pd.DataFrame,
    x: str = "loss",
    y: str = "without",
    xlabel: str = "points below the whole method",
) -> Figure:
    """What each ingredient brings on each task: points (`x`) lost without it, from `losses`, or
    gained by it alone, from `beyond.alone`; `y` is the column of the ingredients.
    """
    several = runs["rate"].nunique() > 1
    names = zip(called(runs["task"]), runs["rate"], strict=True)
    variants = runs.assign(
        task=[task + (f" at {rate:.0%}" if several else "") for task, rate in names]
    )
    tasks = list(dict.fromkeys(variants["task"]))
    order = list(dict.fromkeys(variants[y]))
    # A scale for each task: one that loses fifty points would hide the others' two.
    figure, axes = panels(len(tasks), 3, (1.25 * WIDTH, 2.2), sharey=True)
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = variants[variants["task"] == task]
        sns.barplot(here, x=x, y=y, order=order, color=BLUE, errorbar="sd", ax=axis)
        axis.axvline(0, color="black", linewidth=1)
        axis.set(title=task, xlabel=xlabel, ylabel=y)
        axis.title.set_fontsize("medium")
    return figure
