"""`10_accuracy`: scores of the methods at each rate, and K-prune's lead over the others."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory import tables
from kprune.laboratory.figures import (
    METRIC_NAMES,
    WIDTH,
    below,
    called,
    panels,
    room,
    share_legend,
    styles,
    teacher_line,
)
from kprune.laboratory.reports import noise
from kprune.laboratory.tables import GAP, NAMES, named_by, summarise


def with_dense(
    table: pd.DataFrame, runs: pd.DataFrame, rows: Sequence[str], digits: int = 1
) -> pd.DataFrame:
    """The table with the teacher's score in a column of its own, after those that name a row."""
    dense = 100 * runs.groupby([*rows], sort=False)["dense"].mean().astype(float).rename("teacher")
    shown = dense.map(f"{{:.{digits}f}}".format, na_action="ignore").fillna(GAP)
    table = table.join(shown, on=[*rows])
    return table[[*rows, "teacher", *table.columns.drop([*rows, "teacher"])]]


def lead(runs: pd.DataFrame) -> pd.DataFrame:
    """Points by which K-prune is above the best other method, for each task and rate.

    K-prune+ is none of the others: `gained` is about that.
    """
    rows = named_by(runs, "task")
    whole = ~runs["method"].isin(["kprune", "kprune+"]) | (runs["label"] == NAMES["kprune"])
    means = summarise(runs[whole], "score", [*rows, "label"], "rate", scale=100)
    ours = means["label"] == NAMES["kprune"]
    keys = [*rows, "rate"]
    best = means[~ours].dropna(subset="mean").sort_values("mean").groupby(keys, sort=False).last()
    joined = means[ours].set_index(keys)[["mean"]].join(best[["mean", "label"]], rsuffix=" of it")
    joined["lead"] = joined["mean"] - joined["mean of it"]
    joined = joined.rename(columns={"mean": NAMES["kprune"], "label": "best other"})
    joined = joined.drop(columns="mean of it").reset_index()
    return joined.assign(rate=joined["rate"].map("{:.0%}".format))


def gained(runs: pd.DataFrame) -> str:
    """Points by which K-prune+ is above K-prune at each rate, in words; "" where it was not run."""
    rows = named_by(runs, "task")
    means = summarise(runs, "score", [*rows, "rate"], "label", scale=100)
    means = means.pivot_table("mean", [*rows, "rate"], "label").reset_index()
    ours, plus = NAMES["kprune"], NAMES["kprune+"]
    if not {ours, plus} <= {*means}:
        return ""
    found = []
    for rate, some in means.dropna(subset=[ours, plus]).groupby("rate"):
        more = some[plus] - some[ours]
        text = f"- With {rate:.0%} removed K-prune+ is {more.mean():.1f} points above K-prune in "
        text += f"the mean over {len(more)} tasks, from {more.min():.1f} to {more.max():.1f}."
        found.append(text.replace(" -", " −"))
    return "\n".join(found)


def answer(ahead: pd.DataFrame) -> str:
    """Where K-prune leads and where not, in words, from what `lead` gave."""
    rates = [float(rate.rstrip("%")) / 100 for rate in ahead["rate"]]
    ahead = ahead.assign(at=rates, place=tables.called(ahead["task"])).dropna(subset="lead")
    found = []
    for rate, some in ahead.groupby("at"):
        first = some[some["lead"] >= 0.05]
        text = f"- With {rate:.0%} of the FLOPs removed K-prune is ahead of every competitor on "
        text += f"{len(first)} of {len(some)} tasks"
        if len(first):
            best, least = first.loc[first["lead"].idxmax()], first.loc[first["lead"].idxmin()]
            text += f", by {least['lead']:.1f} ({least['place']}) to {best['lead']:.1f} points "
            text += f"({best['place']})"
        found.append(text + ".")
    for _, row in ahead[ahead["lead"] < 0.05].iterrows():
        ours, place = row[NAMES["kprune"]], f"{row['place']} at {row['rate']}"
        theirs = f"{row['best other']} has {ours - row['lead']:.1f} there, K-prune {ours:.1f}"
        level = row["lead"] > -0.05
        found.append(
            f"- Level on {place}: {ours:.1f} each." if level else f"- Not on {place}: {theirs}."
        )
    leads = ahead.pivot_table("lead", "place", "at", sort=False).sort_index(axis=1)
    both = leads[[*leads.columns[[0, -1]]]].dropna() if leads.shape[1] > 1 else leads[:0]
    if len(both):
        low, high = both.columns
        larger = f"{(both[high] > both[low]).sum()} of {len(both)} tasks"
        found.append(f"- The lead is larger at {high:.0%} than at {low:.0%} on {larger}.")
    return "\n".join(found)


def draw_curves(runs: pd.DataFrame) -> Figure:
    """Score against the share of FLOPs gone: a panel for each task, a colour for each method.

    A line joins three rates or more; of fewer, methods stand side by side. Whiskers are one
    standard error of the dev set, where it is known, or the seeds' deviation where that is larger.
    """
    tasks, looks = list(dict.fromkeys(runs["task"])), styles(runs["label"])
    figure, axes = panels(len(tasks), 3, (1.25 * WIDTH, 2.6), sharex=True)
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = runs[runs["task"] == task]
        rates = np.unique(runs["rate"])
        aside = 1.0 if len(rates) < 3 else 0.0
        for place, (label, look) in enumerate(looks.items()):
            some = here[here["label"] == label].astype({"score": float})
            score = 100 * some.groupby("rate")["score"].agg(["mean", "std"])
            chance = [noise.of_score(part) for _, part in some.groupby("rate")]
            spread = np.nanmax([score["std"].fillna(0), np.nan_to_num(chance)], axis=0)
            style = {"label": label, "capsize": 2, **look}
            style |= {} if len(score) > 2 else {"linestyle": ""}
            at = 100 * score.index + aside * (place - (len(looks) - 1) / 2)
            axis.errorbar(at, score["mean"], spread, **style)
        if not (here["state"] == "done").any():
            axis.annotate("no run is done", (0.5, 0.5), xycoords="axes fraction", ha="center")
            axis.set_yticks([])
        axis.set_xticks(100 * rates)
        axis.margins(x=0.12)
        teacher_line(axis, here[here["state"] == "done"])
        room(axis)
        metric = next(iter(here["metric"].dropna()), "score")
        metric = METRIC_NAMES.get(metric, metric)
        axis.set(title=called([task])[0], ylabel=f"{metric} × 100")
        axis.title.set_fontsize("medium")
    below(axes, "FLOPs removed (%)")
    share_legend(figure, columns=6)
    return figure
