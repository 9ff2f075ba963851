"""`12_cost`: what each method takes in time and memory, and what of it the mask search."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import MARKERS, WIDTH, below, panels, share_legend, styles
from kprune.laboratory.reports import comparable, cut_short
from kprune.laboratory.tables import called


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Median seconds and passes and the largest peak (MB) of each method at each rate.

    Over the tasks that all methods at a rate have done; runs of `09_benchmark` as `tables.collect`
    gives them.
    """
    done = comparable(runs, ["rate"], ["task"]).astype({"seconds": float, "passes": float})
    peaks = done["extra"].map(lambda extra: float(extra["peak above the model (MB)"]))
    each = done.assign(method=done["label"], peak=peaks).groupby(["method", "rate"], sort=False)
    medians = {name: (name, "median") for name in ("seconds", "passes")}
    found = each.agg(tasks=("task", "nunique"), **medians, peak=("peak", "max")).reset_index()
    return found.rename(columns={"peak": "peak (MB)"}).sort_values("rate", kind="stable")


def draw(runs: pd.DataFrame) -> Figure:
    """Passes that pruning takes: a panel for each task, a row for each method, a mark each rate."""
    done = runs[runs["state"] == "done"].astype({"passes": float})
    tasks, rates = list(dict.fromkeys(done["task"])), sorted(set(done["rate"]))
    looks = {label: look["color"] for label, look in styles(done["label"]).items()}
    size = (1.25 * WIDTH, 0.6 + 0.5 * len(looks))
    figure, axes = panels(len(tasks), 3, size, sharex=True, sharey=True)
    for axis, task in zip(axes.flat, tasks, strict=False):
        for at, rate in enumerate(rates):
            axis.plot([], [], MARKERS[at], color="0.3", label=f"{rate:.0%} of the FLOPs removed")
            here = done[(done["task"] == task) & (done["rate"] == rate)]
            lane = 0.6 * ((at + 0.5) / len(rates) - 0.5)  # of its own, so that none hides another
            for place, (label, colour) in enumerate(looks.items()):
                some = here.loc[here["label"] == label, "passes"]
                axis.plot(some, [place + lane] * len(some), MARKERS[at], color=colour, markersize=6)
        axis.set_title(called([task])[0], fontsize="medium")
        axis.set_yticks(range(len(looks)), [*looks])
        axis.grid(axis="y", visible=False)
    axes.flat[0].invert_yaxis()
    below(axes, "passes over the sample")
    share_legend(figure, columns=3)
    return figure


def answer(runs: pd.DataFrame, search: pd.DataFrame, rows: Sequence[str]) -> str:
    """K-prune's passes beside the others', its search beside theirs, and all peaks, in words.

    `runs` as for `summary`; `search` the milliseconds of all searches of a run, as
    `tables.summarise` gives them, with the columns `rows` that name a row.
    """
    each = summary(runs)
    passes = each.pivot(index="rate", columns="method", values="passes")
    found = []
    for rate, row in passes.dropna(subset="K-prune").iterrows():
        others = [
            f"{row['K-prune'] / value:.1f} times that of {name} ({value:.1f})"
            for name, value in row.drop("K-prune").items()
            if value >= 0.1
        ]
        text = f"- With {rate:.0%} of the FLOPs removed K-prune takes {row['K-prune']:.1f} passes"
        found.append(", ".join([text, *others]) + ".")
    found.append(cut_short(runs))
    times = search.pivot_table(index=[*rows], columns="label", values="mean")
    ours = times["K-prune"]
    done = runs[(runs["state"] == "done") & (runs["label"] == "K-prune")]
    share = 100 * (done["search"] / done["seconds"]).astype(float)
    text = f"- All searches of K-prune together take {ours.min():.0f} to {ours.max():.0f} ms, "
    text += f"{share.min():.2f} to {share.max():.2f}% of its time"
    for name in times.columns.drop("K-prune"):
        ratio = (times[name] / ours).dropna()
        text += f"; those of {name} {ratio.min():.1f} to {ratio.max():.1f} times as long"
    peaks = each.groupby("method")["peak (MB)"].max().sort_values(ascending=False)
    told = ", ".join(f"{name} {peak:.0f} MB" for name, peak in peaks.items())
    found += [text + ".", f"- The largest peaks above the model: {told}."]
    return "\n".join(filter(None, found))
