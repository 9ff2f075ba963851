"""`14_sensitivity`: scores along each hyperparameter."""

import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory import tables
from kprune.laboratory.figures import (
    GREY,
    MARKERS,
    PALETTE,
    WIDTH,
    called,
    panels,
    room,
    share_legend,
)

SYMBOLS = {"gamma": "γ", "lam": "λ", "mu": "μ", "tokens": "tokens"}


def answer(runs: pd.DataFrame) -> str:
    """By how much each hyperparameter moves the score, in words; from `tables.one_at_a_time`."""
    done = runs[runs["state"] == "done"].astype({"score": float})
    found = []
    for (task, name), some in done.groupby(["task", "parameter"], sort=False):
        score = 100 * some.groupby("value")["score"].mean()
        centre = some.loc[some["centre"], "value"].max()
        text = f"- {tables.called([task])[0]}, {SYMBOLS.get(name, name)}: {score.min():.1f} (at "
        text += f"{score.idxmin():g}) to {score.max():.1f} (at {score.idxmax():g})"
        if centre in score:
            text += f", {score[centre]:.1f} at the default {centre:g}"
        found.append((score.max() - score.min(), text + "."))
    return "\n".join(text for _, text in sorted(found, key=lambda pair: -pair[0]))


def draw_sensitivity(runs: pd.DataFrame) -> Figure:
    """Score against each hyperparameter, a line for each task; from `tables.one_at_a_time`."""
    parameters = list(dict.fromkeys(runs["parameter"]))
    figure, axes = panels(len(parameters), 2, (1.15 * WIDTH, 2.8), more=0.4, sharey=True)
    tasks = list(dict.fromkeys(runs["task"]))
    colours = dict(zip(tasks, PALETTE[2:], strict=False))
    names = {"gamma": "temperature γ", "lam": "λ", "mu": "μ", "tokens": "sample (tokens)"}
    for axis, name in zip(axes.flat, parameters, strict=False):
        here = runs[(runs["parameter"] == name) & (runs["state"] == "done")]
        for (task, some), marker in zip(here.groupby("task", sort=False), MARKERS, strict=False):
            score = 100 * some.astype({"score": float}).groupby("value")["score"].mean()
            style = {"marker": marker, "color": colours.get(task, "black")}
            axis.plot(score.index, score, label=called([task])[0], **style)
        values = sorted(set(here["value"]))
        if values and values[0] == 0:
            axis.set_xscale("symlog", linthresh=values[1])
        else:
            axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:,g}" if value >= 1 else f"{value:g}" for value in values])
        axis.tick_params(labelsize="small")
        axis.minorticks_off()
        axis.axvline(here.loc[here["centre"], "value"].max(), color=GREY, linestyle=":")
        axis.set(xlabel=names[name], ylabel="score × 100")
    room(axes.flat[0])
    if len(tasks) > 1:
        share_legend(figure, columns=4)
    else:
        figure.suptitle(called(tasks)[0], ha="left", x=0.01, fontweight="bold")
    return figure
