"""`18_beyond`: K-prune+ beside K-prune."""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import WIDTH, panels, room, share_legend, styles, teacher_line
from kprune.laboratory.reports.noise import UNKNOWN, at_most
from kprune.laboratory.tables import NAMES, called, named_by

OWN = [NAMES["kprune"], NAMES["kprune+"]]


def recovered(runs: pd.DataFrame) -> pd.DataFrame:
    """The share of K-prune's loss that K-prune+ recovers, from the seeds that both have done.

    Runs of two teachers do not compare: theirs may differ by less than a tenth of a point.

    For each task and rate `seeds`, the mean `teacher`, `K-prune` and `K-prune+` (× 100) and
    `recovered` (%), empty where K-prune loses less than two standard errors of the dev set: a
    share of so little is noise.
    """
    rows = named_by(runs, "task", "rate")
    whole = runs[(runs["without"] == "") & (runs["state"] == "done")]
    whole = whole.astype({"score": float, "dense": float})
    pairs = whole.pivot_table(index=[*rows, "seed"], columns="label", values=["score", "dense"])
    found, teachers = (pairs[what].reindex(columns=OWN) for what in ("score", "dense"))
    same = (teachers[OWN[0]] - teachers[OWN[1]]).abs() < 0.001
    found = 100 * found.assign(teacher=teachers[OWN[0]])[same].dropna()
    groups = found.groupby(level=rows, sort=False)
    means = groups.mean().assign(seeds=groups.size())[["seeds", "teacher", *OWN]]
    lost = means["teacher"] - means[OWN[0]]
    gained = means[OWN[1]] - means[OWN[0]]
    errors = {key: at_most(some, "dense") for key, some in whole.groupby(rows)}
    bar = 2 * pd.Series(errors, dtype=float).reindex(means.index).fillna(UNKNOWN)
    means["recovered (%)"] = (100 * gained / lost).where(lost >= bar)
    return means.reset_index()


def unlike(runs: pd.DataFrame, others: pd.DataFrame) -> str:
    """The tasks whose teacher scores otherwise in two experiments, and what is known of why."""
    found = []
    mine, theirs = (some[some["state"] == "done"] for some in (runs, others))
    for task in dict.fromkeys(mine["task"]):
        one, other = mine[mine["task"] == task], theirs[theirs["task"] == task]
        scores = [100 * some["dense"].astype(float).mean() for some in (one, other)]
        if other.empty or abs(scores[0] - scores[1]) < 0.05:
            continue
        text = f"- {called([task])[0]}: {scores[0]:.1f} here, {scores[1]:.1f} there"
        reasons = [
            f"{what} {' or '.join(here)}, not {' or '.join(there)}"
            for what, told in TOLD.items()
            if (here := told(one)) != (there := told(other))
        ]
        found.append(text + (f" ({'; '.join(reasons)})." if reasons else "."))
    return "\n".join(found)


def _told(name: str, usual: str, text: str) -> Callable[[pd.DataFrame], list[str]]:
    """What a parameter's values are called."""

    def told(runs: pd.DataFrame) -> list[str]:
        values = sorted(set(runs[name]))
        return [text.format(value) if value > (name == "every") else usual for value in values]

    return told


# What may set two teachers' scores apart.
TOLD = {
    "training rows:": _told("examples", "all", "{:,.0f}"),
    "passes over the training set:": _told("epochs", "the recipe's", "{:g}"),
    "rows of the dev set:": _told("every", "all", "one in {:.0f}"),
}


def answer(won: pd.DataFrame) -> str:
    """How much is recovered, in words, from what `recovered` gave."""
    found, share = [], "recovered (%)"
    for rate, some in won.groupby("rate"):
        ahead = some[OWN[1]] - some[OWN[0]]
        text = f"- With {rate:.0%} of the FLOPs removed K-prune+ is ahead on "
        text += (
            f"{(ahead > 0).sum()} of {len(some)} tasks, by {ahead.mean():.1f} points in the mean"
        )
        if len(shares := some.dropna(subset=share)):
            low, high = shares.loc[shares[share].idxmin()], shares.loc[shares[share].idxmax()]
            least, most = called([low["task"], high["task"]])
            text += f"; of what K-prune loses it wins back {shares[share].mean():.0f}%"
            if len(shares) > 1:
                of = "" if len(shares) == len(some) else f" of the {len(shares)} where it is clear"
                text += f" in the mean{of} ({low[share]:.0f} on {least} to "
                text += f"{high[share]:.0f} on {most})"
            else:
                text += f" on {most}, the one task where that is more than noise"
        found.append(text + ".")
    if won.groupby("rate")["task"].agg(frozenset).nunique() > 1:
        found.append("\nNot the same tasks were run at each rate: compare no mean across rates.")
    return "\n".join(found)


def draw_beside(runs: pd.DataFrame) -> Figure:
    """Score of both methods, a panel for each task: a line joins runs on the same sample."""
    done = runs[runs["state"] == "done"].astype({"score": float, "dense": float})
    tasks = list(dict.fromkeys(done["task"]))
    rates = sorted(set(done["rate"]))
    looks = styles([*OWN, *done["label"]])
    figure, axes = panels(len(tasks), 4, (1.3 * WIDTH, 2.4), more=0.6)
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = done[done["task"] == task]
        teacher_line(axis, here)
        for place, rate in enumerate(rates):
            pairs = here[here["rate"] == rate].pivot_table(
                index="seed", columns="label", values="score", sort=False
            )
            x = [
                place + 0.36 * (number / max(1, len(looks) - 1) - 0.5)
                for number in range(len(looks))
            ]
            points = 100 * pairs.reindex(columns=[*looks])
            axis.plot(x, points.T, color="0.75", linewidth=1, zorder=1)
            for (label, look), at in zip(looks.items(), x, strict=True):
                style = {"linestyle": "", "markersize": 5, "alpha": 0.75, **look}
                axis.plot(
                    [at] * len(points), points[label], label=label if not place else None, **style
                )
        axis.set_xticks(range(len(rates)), [f"{100 * rate:.0f}" for rate in rates])
        axis.set(title=called([task])[0], xlim=(-0.5, len(rates) - 0.5))
        axis.grid(axis="x", visible=False)
        axis.title.set_fontsize("medium")
        axis.margins(y=0.1)
        room(axis)
    for axis in axes[:, 0]:
        axis.set_ylabel("score × 100")
    for axis in axes.flat[len(tasks) - 4 : len(tasks)]:
        axis.set_xlabel("FLOPs removed (%)")
    share_legend(figure, len(looks) + 1)
    pairs = done.pivot_table("score", ["task", "rate", "seed"], "label")
    if {*OWN} <= {*pairs} and len(both := pairs[OWN].dropna()):
        ahead = f"{OWN[1]} is ahead in {(both[OWN[1]] > both[OWN[0]]).sum()} of {len(both)} pairs"
        figure.legends[0].set_title(f"{ahead} on the same sample", {"weight": "bold"})
    return figure
