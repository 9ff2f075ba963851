"""`11_speed`: the largest speed-up within an allowed loss, and what batches do to it."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREY, MARKERS, WIDTH, greys, panels, share_legend, styles
from kprune.laboratory.tables import called


def measured(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each size of batch that a finished run of `09_benchmark` timed.

    Columns `model`, `task`, `label`, `rate`, `achieved`; `loss` (points), `batch size`, `length`,
    `speedup`, and `share`, that of the ideal, 1 / (1 − share of FLOPs gone). `runs` as
    `tables.collect` gives them.
    """
    rows = runs.loc[runs["state"] == "done", ["model", "task", "label", "rate", "achieved"]]
    lost = 100 * (runs["dense"] - runs["score"]).astype(float)
    timed = runs["extra"].map(lambda extra: extra["inference"], na_action="ignore")
    rows = rows.assign(loss=lost, timed=timed).explode("timed", ignore_index=True)
    sizes = pd.DataFrame([*rows.pop("timed")]).astype({"batch size": int, "length": int})
    speedup = sizes["dense"] / sizes["pruned"]
    share = speedup * (1 - rows["achieved"].astype(float))
    return rows.join(sizes[["batch size", "length"]]).assign(speedup=speedup, share=share)


def fastest(work: pd.DataFrame, rows: Sequence[str], allowed: float) -> pd.DataFrame:
    """The largest mean speed-up of each row among the rates that lose at most so many points.

    `work` is what `measured` gave, of one size of batch unless `rows`, the columns that name a row,
    tell sizes apart. Gives `rows`, and `rate`, `loss` (points) and `speedup`, empty where no rate
    loses at most `allowed` points.
    """
    means = work.groupby([*rows, "rate"], sort=False)[["loss", "speedup"]].mean().reset_index()
    within = means[means["loss"] <= allowed]
    best = within.loc[within.groupby([*rows], sort=False)["speedup"].idxmax()]
    return means[[*rows]].drop_duplicates().merge(best, how="left", on=[*rows])


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


def answer_batches(work: pd.DataFrame) -> str:
    """What batches bring, in words, from what `measured` gave; of K-prune at its highest rate."""
    some = work[work["label"] == "K-prune"]
    some = some[some["rate"] == some["rate"].max()].dropna(subset="share")
    if some.empty:
        return ""
    shares = some.groupby("batch size")["share"].mean()
    return (
        f"- Batches: at {some['rate'].iloc[0]:.0%} K-prune's models reach {shares.iloc[0]:.2f} of "
        f"the ideal in batches of {shares.index[0]}, {shares.iloc[-1]:.2f} in batches of "
        f"{shares.index[-1]}."
    )


def draw_fastest(best: pd.DataFrame) -> Figure:
    """The speed-up that each method reaches on each task, from what `fastest` gave."""
    tasks, looks = list(dict.fromkeys(best["task"])), styles(best["label"])
    figure, axes = plt.subplots(figsize=(1.25 * WIDTH, 1.0 + 0.2 * len(tasks) * len(looks)))
    style = {"textcoords": "offset points", "va": "center", "fontsize": "small", "color": "0.35"}
    for number, (label, look) in enumerate(looks.items()):
        some = best[(best["label"] == label) & best["speedup"].notna()]
        lane = 0.8 * ((number + 0.5) / len(looks) - 0.5)  # of its own, so that none hides another
        places = [tasks.index(task) + lane for task in some["task"]]
        if places:
            axes.plot(some["speedup"], places, linestyle="", label=label, **look)
        for place, (_, row) in zip(places, some.iterrows(), strict=True):
            # to the left, where no dotted line is: a mark is close below its ideal
            axes.annotate(
                f"{row['rate']:.0%}", (row["speedup"], place), (-7, -1), ha="right", **style
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
    axes.set_ylim(len(tasks) - 0.2, -0.6)
    axes.grid(axis="y", visible=False)
    for place in range(1, len(tasks)):
        axes.axhline(place - 0.5, color="0.9", linewidth=1)
    axes.set(
        title="Speed-up within the allowed loss, and the rate that gives it",
        xlabel="speed-up over the teacher (×)",
        xlim=(0.9, None),
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_rates(work: pd.DataFrame) -> Figure:
    """Mean speed-up against the rate: a panel for each length, a line for each size of batch.

    `work` is what `measured` gave, of one method.
    """
    lengths = sorted(set(work["length"]))
    figure, axes = panels(len(lengths), 2, (1.1 * WIDTH, 3.0), sharey=True)
    gone = np.linspace(0, work["rate"].max())
    for axis, length in zip(axes.flat, lengths, strict=False):
        here = work[work["length"] == length].groupby(["batch size", "rate"])["speedup"].mean()
        shades = greys(here.index.get_level_values(0).nunique())
        for (size, some), marker, shade in zip(
            here.groupby(level=0), MARKERS, shades, strict=False
        ):
            rates = some.index.get_level_values("rate")
            style = {"marker": marker, "color": shade, "label": f"batches of {size}"}
            axis.plot(100 * rates, some, **style)
        axis.plot(
            100 * gone, 1 / (1 - gone), color=GREY, linestyle="--", label="ideal, 1/(1 − rate)"
        )
        axis.set(title=f"{length} tokens", xlabel="FLOPs removed (%)", ylim=(0, None))
    axes[0, 0].set_ylabel("speed-up over the teacher (×)")
    share_legend(figure, columns=5)
    return figure
