"""`10_accuracy`: scores of the methods at each rate, and K-prune's lead over the others."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import (
    METRIC_NAMES,
    WIDTH,
    below,
    panels,
    room,
    share_legend,
    styles,
    teacher_line,
)
from kprune.laboratory.reports import noise
from kprune.laboratory.tables import GAP, NAMES, called, named_by, summarise


def with_dense(
    table: pd.DataFrame, runs: pd.DataFrame, rows: Sequence[str], digits: int = 1
) -> pd.DataFrame:
    """The table with the teacher's score in a column of its own, after those that name a row."""
    dense = 100 * runs.groupby([*rows], sort=False)["dense"].mean().astype(float).rename("teacher")
    shown = dense.map(f"{{:.{digits}f}}".format, na_action="ignore").fillna(GAP)
    table = table.join(shown, on=[*rows])
    return table[[*rows, "teacher", *table.columns.drop([*rows, "teacher"])]]


def gaps(runs: pd.DataFrame, ours: str) -> Iterator[tuple[dict, pd.DataFrame, dict]]:
    """Of each task and rate: what names it, the runs, and by how much `ours` is above each other.

    In points, by seed, of the seeds that both methods have done.
    """
    keys = [*named_by(runs, "task"), "rate"]
    summarise(runs, "score", keys, "label")  # each method has one run a seed, or it says so
    for key, cell in runs.groupby(keys, sort=False):
        points = 100 * pd.to_numeric(cell["score"], errors="coerce")
        scores = points.groupby([cell["label"], cell["seed"]], sort=False).first().unstack(0)
        above = {
            label: gap
            for label in scores.columns.drop(ours, errors="ignore")
            if ours in scores and len(gap := (scores[ours] - scores[label]).dropna())
        }
        yield dict(zip(keys, key, strict=True)), cell, above


def lead(runs: pd.DataFrame) -> pd.DataFrame:
    """Points by which K-prune is above the best other method, for each task and rate.

    Of the seeds that both have done; "yes" where that is `noise.clear`, "not known" where the dev
    set's error is not. K-prune+ is none of the others: `gained` is about that.
    """
    ours, rows = NAMES["kprune"], []
    whole = ~runs["method"].isin(["kprune", "kprune+"]) | (runs["label"] == ours)
    for names, cell, above in gaps(runs[whole], ours):
        own = cell[cell["label"] == ours]
        if own.empty:
            continue
        row = {**names, "rate": f"{names['rate']:.0%}"}
        if above:
            best = min(above, key=lambda label: above[label].mean())
            own = own[own["seed"].isin(above[best].index)]
            row |= {"best other": best, "lead": above[best].mean()}
            told = {True: "yes", False: "no"}[noise.clear(above[best], error := noise.at_most(own))]
            row["beyond noise"] = "not known" if np.isnan(error) else told
        mean = 100 * pd.to_numeric(own["score"], errors="coerce").mean()
        rows.append(row | {ours: mean})
    named = [*named_by(runs, "task"), "rate", ours, "best other", "lead", "beyond noise"]
    return pd.DataFrame(rows).reindex(columns=named)


def gained(runs: pd.DataFrame) -> str:
    """Points by which K-prune+ is above K-prune at each rate, in words; "" where it was not run.

    Means over tasks of means over the seeds that both have done.
    """
    ours, plus = NAMES["kprune"], NAMES["kprune+"]
    both = runs[runs["label"].isin([ours, plus])]
    each: dict[float, list[float]] = {}
    for names, _, above in gaps(both, plus):
        if ours in above:
            each.setdefault(names["rate"], []).append(above[ours].mean())
    found = []
    for rate, more in sorted(each.items()):
        text = f"- With {rate:.0%} removed K-prune+ is {np.mean(more):.1f} points above K-prune in "
        text += f"the mean over {len(more)} tasks, from {min(more):.1f} to {max(more):.1f}."
        found.append(text.replace(" -", " −"))
    return "\n".join(found)


def answer(ahead: pd.DataFrame) -> str:
    """Where K-prune leads and where not, in words, from what `lead` gave."""
    rates = [float(rate.rstrip("%")) / 100 for rate in ahead["rate"]]
    ahead = ahead.assign(at=rates, place=called(ahead["task"])).dropna(subset="lead")
    found = []
    for rate, some in ahead.groupby("at"):
        first = some[some["lead"] >= 0.05]
        text = f"- With {rate:.0%} of the FLOPs removed K-prune is ahead of every competitor on "
        text += f"{len(first)} of {len(some)} tasks"
        if len(first):
            best, least = first.loc[first["lead"].idxmax()], first.loc[first["lead"].idxmin()]
            text += f", by {least['lead']:.1f} ({least['place']}) to {best['lead']:.1f} points "
            text += f"({best['place']})"
            text += f", on {(first['beyond noise'] == 'yes').sum()} of them by more than noise"
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
