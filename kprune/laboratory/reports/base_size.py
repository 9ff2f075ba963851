"""`22_base_size`: a deep and wide encoder beside a small one, in scores kept and in passes."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from seaborn.utils import relative_luminance

from kprune.laboratory.figures import WIDTH, panels, share_legend, styles
from kprune.laboratory.reports import comparable, one_machine
from kprune.laboratory.reports.noise import of_score
from kprune.laboratory.reports.units import surviving
from kprune.laboratory.tables import NAMES, called

SMALL = {"textcoords": "offset points", "fontsize": "x-small"}
ROOM = 25.0  # per cent: shorter bars hold no number
KEYS = ["model", "task", "label", "rate"]


def kept(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs with `kept`, what is left of the teacher's score, in per cent; seeds apart.

    `noise` is one standard error of the dev set, in per cent of the teacher's score, too.
    """
    done = runs[runs["state"] == "done"]
    dense = done["dense"].astype(float)
    errors = [of_score(done.loc[[place]]) for place in done.index]
    share = 100 * done["score"].astype(float) / dense
    found = done.assign(kept=share, noise=errors / dense)
    return found[[*KEYS, "seed", "kept", "noise"]]


def draw_kept(shares: pd.DataFrame) -> Figure:
    """Bars of what is kept: a panel for each model and rate, a group for each task.

    A whisker is one standard error of the dev set; a place without a run says so. Values stand in
    their bars, clear of the teacher's line, or beyond those that are too short for it.
    """
    shown = shares.assign(task=called(shares["task"]))
    labels, tasks = (list(dict.fromkeys(shown[name])) for name in ("label", "task"))
    groups = shown.groupby(["rate", "model"], sort=False)
    columns, size = shown["model"].nunique(), (1.45 * WIDTH, 2.5)
    figure, axes = panels(len(groups), columns, size, more=0.7, sharey=True)
    width = 0.84 / len(labels)
    for axis, ((rate, model), here) in zip(axes.flat, groups, strict=False):
        means = here.groupby(["label", "task"])[["kept", "noise"]].mean().fillna(0.0)
        for number, (label, look) in enumerate(styles(labels).items()):
            aside = width * (number - (len(labels) - 1) / 2)
            style = {"width": width, "color": look["color"], "ecolor": "0.2"}
            axis.bar(0, 0, label=label, **style)  # for the legend
            for place, task in enumerate(tasks):
                if (label, task) in means.index:
                    _bar(axis, place + aside, *means.loc[(label, task)], **style)
                else:
                    turned = {"rotation": 90, "ha": "center", "va": "bottom", **SMALL}
                    axis.annotate("not run", (place + aside, 0), (0, 3), **turned)
        axis.axhline(100, color="0.5", linestyle="--", linewidth=1)
        axis.axhline(0, color="black", linewidth=1)
        axis.set_xticks(range(len(tasks)), tasks)
        axis.margins(x=0.02, y=0.1)
        axis.grid(axis="x", visible=False)
        axis.set_title(f"{model}, {rate:.0%} of the FLOPs removed", fontsize="medium")
    for axis in axes[:, 0]:
        axis.set_ylabel("of the teacher's score (%)", fontsize="small")
    share_legend(figure, columns=len(labels))
    least = shown.groupby("label", sort=False)["kept"].min().sort_values(ascending=False)
    words = ", ".join(f"{label} {_whole(share)}%" for label, share in least.items())
    figure.legends[0].set_title(f"The least that each keeps: {words}", {"weight": "bold"})
    return figure


def _bar(axis: plt.Axes, at: float, mean: float, error: float, **style: object) -> None:
    """A bar with its whisker and its value, inside where there is room for it."""
    axis.bar(at, mean, yerr=error or None, **style)
    side, inside = (1 if mean >= 0 else -1), abs(mean) > ROOM
    up = (side > 0) != inside
    words = {"ha": "center", "va": "bottom" if up else "top", **SMALL}
    place = mean + (-error if inside else error) * side
    words["color"] = "white" if inside and relative_luminance(style["color"]) < 0.25 else "black"
    axis.annotate(_whole(mean), (at, place), (0, 2 if up else -2), **words)


def _whole(number: float) -> str:
    return f"{number:.0f}".replace("-", "−")


def cost(runs: pd.DataFrame) -> pd.DataFrame:
    """Means of each model and method: `passes`, `memory (MB)`, `runs`.

    Of one device, and there of the runs with the most threads, since those that shared the machine
    with others had fewer; of the tasks, rates and seeds that all methods of a model have done.
    """
    done = runs[(runs["state"] == "done") & runs["passes"].notna()]
    done = one_machine(done[done["threads"] == done["threads"].max()], lambda _: None)
    done = comparable(done, ["model"], ["task", "rate", "seed"])
    numbers = done.astype({"passes": float, "memory": float})
    means = numbers.groupby(["model", "label"], sort=False).agg(
        passes=("passes", "mean"), memory=("memory", "mean"), runs=("run", "count")
    )
    return means.reset_index().rename(columns={"memory": "memory (MB)"})


def answer(shares: pd.DataFrame, lead: pd.DataFrame, costs: pd.DataFrame) -> str:
    """Depth and width, in words, from what `kept`, `accuracy.lead` and `cost` gave."""
    found = []
    for model, some in shares.groupby("model", sort=False):
        ours = some[some["label"] == NAMES["kprune+"]]["kept"]
        theirs = some[some["label"] == NAMES["kprune"]]["kept"]
        ahead = lead[lead["model"] == model].dropna(subset="lead")
        clear = ((ahead["lead"].astype(float) > 0) & (ahead["beyond noise"] == "yes")).sum()
        found.append(
            f"- {model}: K-prune+ keeps {ours.min():.1f} to {ours.max():.1f}% of the scores, "
            f"K-prune {theirs.min():.1f} to {theirs.max():.1f}%; K-prune leads the better of the "
            f"others by more than noise in {clear} of {len(ahead)} pairs of task and rate."
        )
    for label, some in costs.groupby("label", sort=False):
        each = " and ".join(f"{row['passes']:.1f} on {row['model']}" for _, row in some.iterrows())
        found.append(f"- {label} takes, in passes of each model itself, {each}.")
    return "\n".join(found)


def units(runs: pd.DataFrame, method: str = "kprune") -> pd.DataFrame:
    """Shares of heads and neurons that a method leaves in each layer at its highest rate, means."""
    done = runs[(runs["state"] == "done") & (runs["method"] == method)]
    models = done[done["rate"] == done["rate"].max()].groupby("model", sort=False)
    left = pd.concat([surviving(some).assign(model=model) for model, some in models])
    left = left.assign(share=100 * left["share"])
    return left.pivot_table("share", ["model", "kind", "task"], "layer", sort=False).round(0)


def weighed(runs: pd.DataFrame) -> pd.DataFrame:
    """K-prune's score and the units left, by μ, for each task and rate with more than one; of
    the first seed of each.
    """
    done = runs[(runs["state"] == "done") & (runs["method"] == "kprune")]
    keys = ["model", "task", "rate"]
    done = done.sort_values("seed", kind="stable").drop_duplicates([*keys, "mu"])
    several = done[done.groupby(keys)["mu"].transform("nunique") > 1]
    rows = [
        {
            "model": run["model"],
            "task": called([run["task"]])[0],
            "rate": f"{run['rate']:.0%}",
            "μ": f"{run['mu']:g}",
            "score": f"{100 * run['score']:.1f}",
            "heads left": f"{sum(run['heads'])} of {sum(run['dense_heads'])}",
            "neurons left": f"{sum(run['neurons']):,} of {sum(run['dense_neurons']):,}",
        }
        for _, run in several.sort_values([*keys, "mu"]).iterrows()
    ]
    return pd.DataFrame(rows)
