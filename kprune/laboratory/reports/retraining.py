"""`24_retraining`: pruning without retraining against pruning with it."""

import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import WIDTH, called, panels, share_legend, styles
from kprune.laboratory.tables import NAMES

SERIES = "series"


def trained(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `series`, their method and what it is trained on afterwards, and `minutes`.

    Their `label` says for how many passes, too.
    """
    rows = runs.to_dict("records")
    series = [_series(row) for row in rows]
    labels = [
        f"{name}, {row['again']:g} {'pass' if row['again'] == 1 else 'passes'}"
        if row["again"]
        else name
        for name, row in zip(series, rows, strict=True)
    ]
    minutes = pd.to_numeric(runs["seconds"], errors="coerce") / 60
    return runs.assign(**{SERIES: series, "label": labels, "minutes": minutes})


def _series(row: dict) -> str:
    name = NAMES.get(row["method"], row["method"])
    if row["again"]:
        return f"{name}, {'distilled' if row['distil'] else 'fine-tuned'}"
    return f"{name}, polished" if row["polish"] else name


def matching(runs: pd.DataFrame) -> pd.DataFrame:
    """What it takes to be as good as K-prune+ by training with labels, from runs of `trained`.

    For each task and rate: scores (× 100) and passes (F) of K-prune+, and the cheapest run of at
    least its score that was trained: its `label` and passes; empty where none is as good.
    """
    done = runs[runs["state"] == "done"].astype({"score": float, "passes": float})
    rows = []
    for (task, rate), some in done.groupby(["task", "rate"], sort=False):
        means = some.groupby("label", sort=False)[["score", "passes", "again"]].mean()
        if (own := NAMES["kprune+"]) not in means.index:
            continue
        ours = means.loc[own]
        good = means[(means["again"] > 0) & (means["score"] >= ours["score"])]
        best = good.nsmallest(1, "passes")
        row = {"task": task, "rate": rate, "K-prune+": 100 * ours["score"], "F": ours["passes"]}
        row |= {"as good": best.index[0] if len(best) else None}
        row |= {"its score": 100 * best["score"].max(), "its F": best["passes"].max()}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_frontier(runs: pd.DataFrame) -> Figure:
    """Score against the passes that pruning and training take, a panel for each task and rate.

    Runs of `trained`; lines join the same method after more and more passes over the training set.
    """
    done = runs[runs["state"] == "done"].astype({"score": float, "dense": float, "passes": float})
    tasks, series = (list(dict.fromkeys(done[name])) for name in ("task", SERIES))
    # Where layers alone were tried there is nothing to compare them with.
    rates = [rate for rate, some in done.groupby("rate") if some["method"].nunique() > 1]
    size = 1.25 * WIDTH, 2.6
    figure, axes = panels(len(tasks) * len(rates), len(rates), size, more=1.2, sharex=True)
    looks = styles(series)
    for line, (task, name) in enumerate(zip(tasks, called(tasks), strict=True)):
        for column, rate in enumerate(rates):
            axis = axes[line, column]
            here = done[(done["task"] == task) & (done["rate"] == rate)]
            for one, some in here.groupby(SERIES, sort=False):
                means = some.groupby("again")[["passes", "score"]].mean()
                axis.plot(means["passes"], 100 * means["score"], label=one, **looks[one])
            teacher = 100 * here["dense"].mean()
            axis.axhline(teacher, color="0.5", linestyle="--", linewidth=1.2, label="teacher")
            axis.set(title=f"{name}, −{rate:.0%} FLOPs", xscale="log", ylabel="score × 100")
            axis.set_xlabel(
                "time (F: plain passes over the sample)" if line + 1 == len(tasks) else ""
            )
            axis.title.set_fontsize("medium")
    share_legend(figure, 3)
    return figure
