"""`22_base_size`: a deep and wide encoder beside a small one, in scores kept and in passes."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import share_legend
from kprune.laboratory.tables import called

KEYS = ["model", "task", "label", "rate"]


def kept(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs with `kept`, what is left of the teacher's score, in per cent; seeds apart."""
    done = runs[runs["state"] == "done"]
    share = 100 * done["score"].astype(float) / done["dense"].astype(float)
    return done.assign(kept=share)[[*KEYS, "seed", "kept"]]


def draw_kept(shares: pd.DataFrame) -> Figure:
    """Bars of what is kept: a panel for each model and rate, a group for each task."""
    shown = shares.assign(task=called(shares["task"]))
    shown = shown.assign(rate=shown["rate"].map("{:.0%} of FLOPs gone".format))
    order = list(dict.fromkeys(shown["label"]))
    grid = sns.catplot(
        shown,
        x="task",
        y="kept",
        hue="label",
        hue_order=order,
        col="model",
        row="rate",
        kind="bar",
        errorbar="sd",
        height=2.2,
        aspect=1.6,
        legend=False,
    )
    grid.set_titles("{col_name}, {row_name}").set_axis_labels("", "of the teacher's score (%)")
    for axis in grid.axes.flat:
        axis.axhline(100, color="0.5", linestyle="--", linewidth=1)
    share_legend(grid.figure, columns=len(order))
    return grid.figure


def cost(runs: pd.DataFrame) -> pd.DataFrame:
    """Means of each model and method: `passes` in F, `memory (MB)`, `runs`.

    Of the runs with the most threads: those that shared the machine with others had fewer.
    """
    done = runs[(runs["state"] == "done") & runs["passes"].notna()]
    done = done[done["threads"] == done["threads"].max()]
    numbers = done.astype({"passes": float, "memory": float})
    means = numbers.groupby(["model", "label"], sort=False).agg(
        passes=("passes", "mean"), memory=("memory", "mean"), runs=("run", "count")
    )
    return means.reset_index().rename(columns={"memory": "memory (MB)"})


def units(runs: pd.DataFrame, method: str = "kprune") -> pd.DataFrame:
    """Shares of heads and neurons that a method leaves in each layer at its highest rate, means."""
    done = runs[(runs["state"] == "done") & (runs["method"] == method)]
    rows = []
    for _, run in done[done["rate"] == done["rate"].max()].iterrows():
        for kind in ("heads", "neurons"):
            for layer, (left, all_) in enumerate(zip(run[kind], run[f"dense_{kind}"], strict=True)):
                share = 100 * left / all_
                rows.append((run["model"], run["task"], kind, layer + 1, share))
    long = pd.DataFrame(rows, columns=["model", "task", "kind", "layer", "share"])
    keys = ["model", "kind", "task"]
    return long.pivot_table("share", keys, "layer", sort=False).round(0)
