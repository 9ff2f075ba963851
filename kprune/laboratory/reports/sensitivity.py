"""`14_sensitivity`: scores along each hyperparameter."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREY, MARKERS, WIDTH, share_legend
from kprune.laboratory.tables import TASK_NAMES


def draw_sensitivity(runs: pd.DataFrame) -> Figure:
    """Score against each hyperparameter, a line for each task.

    Args:
        runs: what `tables.one_at_a_time` gave.
    """
    parameters = list(dict.fromkeys(runs["parameter"]))
    figure, axes = plt.subplots(
        -(-len(parameters) // 2),
        2,
        figsize=(1.15 * WIDTH, 2.8 * -(-len(parameters) // 2)),
        squeeze=False,
    )
    names = {"gamma": "temperature γ", "lam": "λ", "mu": "μ", "tokens": "sample (tokens)"}
    for axis, name in zip(axes.flat, parameters, strict=False):
        here = runs[(runs["parameter"] == name) & (runs["state"] == "done")]
        for (task, some), marker in zip(here.groupby("task", sort=False), MARKERS, strict=False):
            score = 100 * some.astype({"score": float}).groupby("value")["score"].mean()
            axis.plot(score.index, score, marker=marker, label=TASK_NAMES.get(task, task))
        values = sorted(set(here["value"]))
        if values and values[0] == 0:
            axis.set_xscale("symlog", linthresh=values[1])
        else:
            axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values], rotation=45)
        axis.minorticks_off()
        axis.axvline(here.loc[here["centre"], "value"].max(), color=GREY, linestyle=":")
        axis.set(xlabel=names[name], ylabel="score × 100")
    share_legend(figure, axes, len(parameters), columns=4)
    return figure
