"""`14_sensitivity`: scores along each hyperparameter."""

import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREY, MARKERS, WIDTH, called, panels, share_legend


def draw_sensitivity(runs: pd.DataFrame) -> Figure:
    """Score against each hyperparameter, a line for each task; from `tables.one_at_a_time`."""
    parameters = list(dict.fromkeys(runs["parameter"]))
    figure, axes = panels(len(parameters), 2, (1.15 * WIDTH, 2.8), more=0.0)
    names = {"gamma": "temperature γ", "lam": "λ", "mu": "μ", "tokens": "sample (tokens)"}
    for axis, name in zip(axes.flat, parameters, strict=False):
        here = runs[(runs["parameter"] == name) & (runs["state"] == "done")]
        for (task, some), marker in zip(here.groupby("task", sort=False), MARKERS, strict=False):
            score = 100 * some.astype({"score": float}).groupby("value")["score"].mean()
            axis.plot(score.index, score, marker=marker, label=called([task])[0])
        values = sorted(set(here["value"]))
        if values and values[0] == 0:
            axis.set_xscale("symlog", linthresh=values[1])
        else:
            axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values], rotation=45)
        axis.minorticks_off()
        axis.axvline(here.loc[here["centre"], "value"].max(), color=GREY, linestyle=":")
        axis.set(xlabel=names[name], ylabel="score × 100")
    share_legend(figure, columns=4)
    return figure
