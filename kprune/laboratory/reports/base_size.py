"""`22_base_size`: a deep and wide encoder beside a small one, in scores kept and in passes."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import WIDTH, called, panels, share_legend, styles
from kprune.laboratory.tables import NAMES

KEYS = ["model", "task", "label", "rate"]


def kept(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs with `kept`, what is left of the teacher's score, in per cent; seeds apart."""
    done = runs[runs["state"] == "done"]
    share = 100 * done["score"].astype(float) / done["dense"].astype(float)
    return done.assign(kept=share)[[*KEYS, "seed", "kept"]]


def draw_kept(shares: pd.DataFrame) -> Figure:
    """Bars of what is kept: a panel for each model and rate, a group for each task."""
    shown = shares.assign(task=called(shares["task"]))
    labels = list(dict.fromkeys(shown["label"]))
    colours = {label: look["color"] for label, look in styles(labels).items()}
    groups = shown.groupby(["rate", "model"], sort=False)
    figure, axes = panels(len(groups), shown["model"].nunique(), (1.25 * WIDTH, 2.4), sharey=True)
    for axis, ((rate, model), here) in zip(axes.flat, groups, strict=False):
        style = {"hue": "label", "hue_order": labels, "palette": colours, "errorbar": "sd"}
        style |= {"saturation": 1}
        sns.barplot(here, x="task", y="kept", ax=axis, **style)
        axis.get_legend().remove()
        axis.axhline(100, color="0.5", linestyle="--", linewidth=1)
        axis.set(title=f"{model}, {rate:.0%} of the FLOPs gone", xlabel="", ylabel="% of the score")
    share_legend(figure, columns=len(labels))
    return figure


def cost(runs: pd.DataFrame) -> pd.DataFrame:
    """Means of each model and method: `passes` in F, `memory (MB)`, `runs`.

    Of the runs with the most threads: those that shared the machine with others had fewer.
    """
    done = runs[(runs["state"] == "done") & runs["passes"].notna()]
    done = done[done["threads"] == done["threads"].max()]
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
        ahead = lead[lead["model"] == model]["lead"].dropna().astype(float)
        found.append(
            f"- {model}: K-prune+ keeps {ours.min():.1f} to {ours.max():.1f}% of the scores, "
            f"K-prune {theirs.min():.1f} to {theirs.max():.1f}%; K-prune leads the better of the "
            f"others in {(ahead > 0).sum()} of {len(ahead)} pairs of task and rate."
        )
    for label, some in costs.groupby("label", sort=False):
        each = " and ".join(f"{row['passes']:.1f} on {row['model']}" for _, row in some.iterrows())
        found.append(f"- {label} takes, in passes of each model itself, {each}.")
    return "\n".join(found)


def units(runs: pd.DataFrame, method: str = "kprune") -> pd.DataFrame:
    """Shares of heads and neurons that a method leaves in each layer at its highest rate, means."""
    done = runs[(runs["state"] == "done") & (runs["method"] == method)]
    rows = []
    for _, run in done[done["rate"] == done["rate"].max()].iterrows():
        for kind in ("heads", "neurons"):
            for layer, (left, all_) in enumerate(zip(run[kind], run[f"dense_{kind}"], strict=True)):
                share = 100 * left / all_
                rows.append((run["model"], run["task"], kind, layer + 1, share))
    long = pd.DataFrame(rows, columns=["model", "task", "kind", "layer", "share"])
    keys = ["model", "kind", "task"]
    return long.pivot_table("share", keys, "layer", sort=False).round(0)


def weighed(runs: pd.DataFrame) -> pd.DataFrame:
    """K-prune's score and the units left, by μ, for each task and rate with more than one."""
    done = runs[(runs["state"] == "done") & (runs["method"] == "kprune")]
    keys = ["model", "task", "rate"]
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
