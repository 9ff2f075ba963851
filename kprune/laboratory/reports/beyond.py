"""`18_beyond`: K-prune+ beside K-prune."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import MARKERS, WIDTH, called, panels, share_legend
from kprune.laboratory.tables import NAMES, named_by


def recovered(runs: pd.DataFrame) -> pd.DataFrame:
    """The share of K-prune's loss that K-prune+ recovers, from the seeds that both have done.

    Runs of two teachers do not compare: theirs may differ by less than a tenth of a point.

    For each task and rate `seeds`, the mean `teacher`, `K-prune` and `K-prune+` (× 100) and
    `recovered` (%), empty where K-prune loses less than a point: a share of so little is noise.
    """
    rows = named_by(runs, "task", "rate")
    whole = runs[(runs["without"] == "") & (runs["state"] == "done")]
    whole = whole.astype({"score": float, "dense": float})
    names = [NAMES["kprune"], NAMES["kprune+"]]
    pairs = whole.pivot_table(index=[*rows, "seed"], columns="label", values=["score", "dense"])
    found, teachers = (pairs[what].reindex(columns=names) for what in ("score", "dense"))
    same = (teachers[names[0]] - teachers[names[1]]).abs() < 0.001
    found = 100 * found.assign(teacher=teachers[names[0]])[same].dropna()
    groups = found.groupby(level=rows, sort=False)
    means = groups.mean().assign(seeds=groups.size())[["seeds", "teacher", *names]]
    lost = means["teacher"] - means[names[0]]
    gained = means[names[1]] - means[names[0]]
    means["recovered (%)"] = (100 * gained / lost).where(lost >= 1)
    return means.reset_index()


def draw_beside(runs: pd.DataFrame) -> Figure:
    """Score of each method on each task, a panel per rate: a point per run, the teacher a dash."""
    done = runs[runs["state"] == "done"]
    tasks, labels = (list(dict.fromkeys(runs[name])) for name in ("task", "label"))
    rates = sorted(set(runs["rate"]))
    size = 1.25 * WIDTH, 0.45 * len(tasks)
    figure, axes = panels(len(rates), len(rates), size, more=1.2, sharex=True, sharey=True)
    for axis, rate in zip(axes.flat, rates, strict=True):
        here = done[done["rate"] == rate]
        for number, label in enumerate(labels):
            some = here[here["label"] == label]
            height = [tasks.index(task) + 0.3 * (number + 1) / len(labels) for task in some["task"]]
            style = {"color": sns.color_palette()[number], "alpha": 0.6, "label": label}
            axis.plot(100 * some["score"].astype(float), height, MARKERS[number], **style)
        teacher = 100 * here.astype({"dense": float}).groupby("task")["dense"].mean()
        places = [tasks.index(task) + 0.2 for task in teacher.index]
        axis.plot(teacher, places, "|", color="black", markersize=18, label="teacher")
        axis.set(title=f"−{rate:.0%} FLOPs", xlabel="score × 100")
        axis.title.set_fontsize("medium")
    axes[0, 0].set_yticks([place + 0.2 for place in range(len(tasks))], called(tasks))
    axes[0, 0].set_ylim(len(tasks) - 0.3, -0.3)
    share_legend(figure, len(labels) + 1)
    return figure
