"""`11_speed`: the largest speed-up within an allowed loss."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREY, WIDTH, called, styles


def credible(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose speed-up is at most 1 / (1 − the share of FLOPs gone), or was not measured.

    What is not pruned takes time, too: more than that is an error of the measurement.
    """
    speedup, gone = (pd.to_numeric(runs[name]) for name in ("speedup", "achieved"))
    return runs[~(speedup * (1 - gone) > 1)]


def answer(best: pd.DataFrame, allowed: float) -> str:
    """How fast each method gets within the loss, in words, from what `fastest` gave."""
    found = []
    for label, some in best.groupby("label", sort=False):
        within = some.dropna(subset="speedup")
        text = f"- {label}: {len(within)} of {len(some)} tasks within {allowed:g} points"
        if len(within):
            most = within.loc[within["speedup"].idxmax()]
            ideal = within["speedup"] * (1 - within["rate"])
            text += f", up to {most['speedup']:.2f}× ({called([most['task']])[0]}, "
            text += f"{most['rate']:.0%} gone); of the ideal 1/(1 − rate) a median of "
            text += f"{ideal.median():.0%} is reached"
        found.append(text + ".")
    return "\n".join(found)


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
    tasks, looks = list(dict.fromkeys(best["task"])), styles(best["label"])
    figure, axes = plt.subplots(figsize=(1.25 * WIDTH, 1.0 + 0.42 * len(tasks)))
    style = {"textcoords": "offset points", "va": "center", "fontsize": "small", "color": "0.35"}
    for number, (label, look) in enumerate(looks.items()):
        some = best[(best["label"] == label) & best["speedup"].notna()]
        places = [tasks.index(task) for task in some["task"]]
        above = 0, -10 if number % 2 else 10  # neighbours do not write over each other
        if places:
            axes.plot(some["speedup"], places, linestyle="", label=label, **look)
        for place, (_, row) in zip(places, some.iterrows(), strict=True):
            axes.annotate(
                f"{row['rate']:.0%}", (row["speedup"], place), above, ha="center", **style
            )
    for place, task in enumerate(tasks):
        if best.loc[best["task"] == task, "speedup"].isna().all():
            axes.annotate("none within the loss", (1, place), (6, 0), **style)
    for rate in sorted(set(best["rate"].dropna())):
        ideal = 1 / (1 - rate)
        axes.axvline(ideal, color=GREY, linestyle=":")
        style = {"xycoords": ("data", "axes fraction"), "fontsize": "x-small", "ha": "right"}
        axes.annotate(f"ideal at {rate:.0%} ", (ideal, 0.02), color="0.35", **style)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_yticks(range(len(tasks)), called(tasks))
    axes.set_ylim(len(tasks) - 0.4, -0.7)
    axes.grid(axis="y", visible=False)
    axes.set(
        title="Speed-up within the allowed loss, and the rate that gives it",
        xlabel="speed-up over the teacher (×)",
        xlim=(0.9, None),
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
