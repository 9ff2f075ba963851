"""`24_retraining`: pruning without retraining against pruning with it."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from kprune.laboratory.figures import (
    WIDTH,
    below,
    called,
    panels,
    room,
    share_legend,
    styles,
    teacher_line,
)
from kprune.laboratory.tables import NAMES, named_by

SERIES = "series"
OWN = NAMES["kprune"], NAMES["kprune+"]


def trained(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `series`, their method and what it is trained on afterwards.

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
    return runs.assign(**{SERIES: series, "label": labels})


def _series(row: dict) -> str:
    name = NAMES.get(row["method"], row["method"])
    if row["again"]:
        return f"{name}, {'distilled' if row['distil'] else 'fine-tuned'}"
    return f"{name}, polished" if row["polish"] else name


def _look(series: str) -> dict:
    """Of its method; open and broken where the teacher's outputs are learnt."""
    method, _, how = series.partition(", ")
    learns = how in ("distilled", "polished")
    more = {"linestyle": "--", "markerfacecolor": "white"} if learns else {}
    return {**styles([method])[method], "markersize": 7, **more}


def against(runs: pd.DataFrame) -> pd.DataFrame:
    """K-prune and K-prune+ beside what was trained with labels, from runs of `trained`.

    For each task, rate and method that are done: its score (× 100) and passes (F), and those of the
    cheapest `trained` run that is as good; of the best one where none `caught up`.
    """
    done = runs[runs["state"] == "done"].astype({"score": float, "passes": float})
    keys, rows = named_by(runs, "task", "rate"), []
    for names, some in done.groupby(keys, sort=False):
        means = some.groupby("label", sort=False)[["score", "passes", "again"]].mean()
        others = means[means["again"] > 0]
        for own in OWN if len(others) else ():
            if own not in means.index:
                continue
            ours = means.loc[own]
            good = others[others["score"] >= ours["score"]]
            best = good.nsmallest(1, "passes") if len(good) else others.nlargest(1, "score")
            best, caught = best.iloc[0], bool(len(good))
            row = {**dict(zip(keys, names, strict=True)), "untrained": own}
            row |= {"score": 100 * ours["score"], "F": ours["passes"], "trained": best.name}
            row |= {"its score": 100 * best["score"], "its F": best["passes"]}
            rows.append(row | {"caught up": caught})
    return pd.DataFrame(rows)


def answer(found: pd.DataFrame) -> str:
    """What training buys, in words, from what `against` gave."""
    lines = []
    for (task, rate), some in found.groupby(["task", "rate"], sort=False):
        text = f"- {called([task])[0]}, {rate:.0%} of the FLOPs removed:"
        for _, row in some.iterrows():
            which = "as good, and cheapest, is" if row["caught up"] else "none caught up, best is"
            text += f" {row['untrained']} has {row['score']:.1f} after {row['F']:.1f} F, {which} "
            text += f"{row['trained']} with {row['its score']:.1f} after {row['its F']:.1f} F;"
        lines.append(text[:-1] + ".")
    each = [
        f"{int(some['caught up'].sum())} of {len(some)} with {own}"
        for own, some in found.groupby("untrained", sort=False)
    ]
    lines.append(
        "\nOf these pairs of task and rate, training with all labels caught up in "
        f"{' and in '.join(each)}."
    )
    return "\n".join(lines)


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
    looks = {name: _look(name) for name in series}
    for line, (task, name) in enumerate(zip(tasks, called(tasks), strict=True)):
        for column, rate in enumerate(rates):
            axis = axes[line, column]
            here = done[(done["task"] == task) & (done["rate"] == rate)]
            axis.set_visible(len(here))
            for one, some in here.groupby(SERIES, sort=False):
                means = some.groupby("again")[["passes", "score"]].mean()
                axis.plot(means["passes"], 100 * means["score"], label=one, **looks[one])
            teacher_line(axis, here)
            axis.set(title=f"{name}, −{rate:.0%} FLOPs", xscale="log", ylabel="score × 100")
            axis.title.set_fontsize("medium")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
            room(axis)
    below(axes, "time (F: plain passes over the sample)")
    share_legend(figure, 3)
    return figure
