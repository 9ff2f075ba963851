"""`13_ablation`: what each ingredient brings."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory import tables
from kprune.laboratory.figures import GREEN, WIDTH, called, panels


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


def answer(variants: pd.DataFrame, noise: float = 1.5) -> str:
    """What matters most on each task and what does not, in words, from `losses`.

    Less than `noise` points are called none.
    """
    found = []
    means = variants.groupby(["task", "rate", "without"], sort=False)["loss"].mean().dropna()
    for (task, rate), some in means.groupby(level=["task", "rate"], sort=False):
        some = some.droplevel(["task", "rate"]).sort_values(ascending=False)
        text = f"- {tables.called([task])[0]} at {rate:.0%}: "
        text += f"*{some.index[0]}* matters most, {some.iloc[0]:.1f} points are lost without it"
        if len(little := some[some.abs() < noise]):
            text += f"; {tables.few([f'*{name}*' for name in little.index], 9)} "
            text += f"less than {noise:g}, which may be noise"
        for name, points in some[some <= -noise].items():
            text += f"; without *{name}* the method is {-points:.1f} points *better*"
        found.append(text + ".")
    return "\n".join(found)


def draw_ingredients(runs: pd.DataFrame) -> Figure:
    """What each ingredient brings on each task: points lost without it, from `losses`."""
    several = runs["rate"].nunique() > 1
    names = zip(called(runs["task"]), runs["rate"], strict=True)
    variants = runs.assign(
        task=[task + (f" at {rate:.0%}" if several else "") for task, rate in names]
    )
    variants = variants.dropna(subset="loss")
    tasks = list(dict.fromkeys(variants["task"]))
    order = list(dict.fromkeys(runs["without"]))
    # A scale for each task: one that loses fifty points would hide the others' two.
    figure, axes = panels(len(tasks), 3, (1.25 * WIDTH, 2.2), sharey=True)
    style = {"color": GREEN, "saturation": 1}
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = variants[variants["task"] == task]
        sns.barplot(here, x="loss", y="without", order=order, errorbar="sd", ax=axis, **style)
        axis.axvline(0, color="black", linewidth=1)
        if here["seed"].nunique() == 1:  # else the whiskers are there
            axis.bar_label(axis.containers[0], fmt="%.1f", padding=4, fontsize="small")
        low, high = axis.get_xlim()
        axis.set_xlim(low - 0.14 * (high - low) * (low < 0), high + 0.2 * (high - low))
        axis.set(title=task, xlabel="points below the whole method", ylabel="without")
        axis.title.set_fontsize("medium")
    return figure
