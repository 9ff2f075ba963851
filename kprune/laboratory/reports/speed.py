"""`11_speed`: the largest speed-up within an allowed loss."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREY, WIDTH, called


def fastest(runs: pd.DataFrame, rows: Sequence[str], allowed: float) -> pd.DataFrame:
    """The largest mean speed-up of each row among the rates that lose at most so many points.

    Gives `rows` (columns that name a row), `runs` that are done, and `rate`, `loss` (points) and
    `speedup`, empty where no rate loses at most `allowed` points.
    """
    found = []
    for names, group in runs.groupby([*rows], sort=False):
        group = group[group["state"] == "done"]
        columns = {"score": "mean", "dense": "mean", "speedup": "mean"}
        rates = group.groupby("rate").agg(columns).astype(float)
        rates["loss"] = 100 * (rates["dense"] - rates["score"])
        within = rates[rates["loss"] <= allowed]
        row = dict(zip(rows, names, strict=True)) | {"runs": len(group)}
        row |= {"rate": None, "loss": None, "speedup": None}
        if len(within):
            rate = within["speedup"].idxmax()
            row |= {"rate": rate, **within.loc[rate, ["loss", "speedup"]].to_dict()}
        found.append(row)
    return pd.DataFrame(found).astype({"rate": float, "loss": float, "speedup": float})


def draw_fastest(best: pd.DataFrame) -> Figure:
    """The speed-up that each method reaches on each task, from what `fastest` gave."""
    table = best.assign(task=called(best["task"]))
    tasks, labels = (list(dict.fromkeys(table[name])) for name in ("task", "label"))
    figure, axes = plt.subplots(figsize=(1.25 * WIDTH, 3.6))
    sns.barplot(table, x="task", y="speedup", hue="label", order=tasks, hue_order=labels, ax=axes)
    # The rate behind each bar; where there is none, why: no rate within the loss, or no run.
    style = {"ha": "center", "va": "bottom", "rotation": 90, "fontsize": "x-small"}
    for _, row in table.iterrows():
        place = (labels.index(row["label"]) + 0.5) / len(labels)
        place = tasks.index(row["task"]) - 0.4 + 0.8 * place
        text = "no run" if not row["runs"] else "none" if np.isnan(row["rate"]) else ""
        tip = place, 0 if text else row["speedup"]
        text = text or f"{row['rate']:.0%}"
        axes.annotate(text, tip, (0, 2), textcoords="offset points", **style)
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1.2)
    axes.margins(y=0.12)
    axes.set(
        title="Speed-up within the allowed loss, with the rate that gives it",
        xlabel="task",
        ylabel="speed-up over the teacher (×)",
    )
    sns.move_legend(axes, "upper left", bbox_to_anchor=(1, 1), title=None)
    return figure
