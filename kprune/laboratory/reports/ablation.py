"""`13_ablation`: what each ingredient brings."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import BLUE, WIDTH, called, panels


def losses(runs: pd.DataFrame) -> pd.DataFrame:
    """The variants' runs with `loss`: points below the whole method of their seed, if both are
    done.
    """
    keys = ["model", "task", "rate", "seed"]
    score = pd.to_numeric(runs["score"], errors="coerce").where(runs["state"] == "done")
    whole = runs["without"] == ""
    by = score[whole].set_axis(pd.MultiIndex.from_frame(runs.loc[whole, keys]))
    found = by.reindex(pd.MultiIndex.from_frame(runs.loc[~whole, keys])).to_numpy() - score[~whole]
    return runs[~whole].assign(loss=100 * found)


def draw_ingredients(runs: pd.DataFrame) -> Figure:
    """What each ingredient brings on each task: points lost without it, from `losses`."""
    several = runs["rate"].nunique() > 1
    names = zip(called(runs["task"]), runs["rate"], strict=True)
    variants = runs.assign(
        task=[task + (f" at {rate:.0%}" if several else "") for task, rate in names]
    )
    tasks = list(dict.fromkeys(variants["task"]))
    order = list(dict.fromkeys(variants["without"]))
    # A scale for each task: one that loses fifty points would hide the others' two.
    figure, axes = panels(len(tasks), 3, (1.25 * WIDTH, 2.2), sharey=True)
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = variants[variants["task"] == task]
        sns.barplot(here, x="loss", y="without", order=order, color=BLUE, errorbar="sd", ax=axis)
        axis.axvline(0, color="black", linewidth=1)
        axis.set(title=task, xlabel="points below the whole method", ylabel="without")
        axis.title.set_fontsize("medium")
    return figure
