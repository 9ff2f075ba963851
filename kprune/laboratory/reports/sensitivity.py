"""`14_sensitivity`: scores along each hyperparameter."""

import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory import tables
from kprune.laboratory.figures import (
    GREEN,
    GREY,
    MARKERS,
    METRIC_NAMES,
    PALETTE,
    WIDTH,
    panels,
    room,
    share_legend,
)
from kprune.laboratory.records import short
from kprune.laboratory.reports import sampled
from kprune.laboratory.reports.noise import clear, of_score
from kprune.laboratory.tables import called

SYMBOLS = {"gamma": "γ", "lam": "λ", "mu": "μ", "tokens": "tokens"}


def answer(runs: pd.DataFrame) -> str:
    """By how much each hyperparameter moves the score, in words; from `tables.one_at_a_time`.

    What is called noise is not `noise.clear`: from the best value to the worst, seed by seed.
    """
    done = runs[runs["state"] == "done"].astype({"score": float})
    found = []
    for (task, name), some in done.groupby(["task", "parameter"], sort=False):
        score, _ = _means(some)
        middle = some[some["centre"]]
        centre = middle["value"].max()
        seeds = 100 * some.pivot_table("score", "seed", "value")
        range_ = (seeds[score.idxmax()] - seeds[score.idxmin()]).dropna()
        text = f"- {called([task])[0]}, {SYMBOLS.get(name, name)}: {score.min():.1f} (at "
        text += f"{plain(score.idxmin())}) to {score.max():.1f} (at {plain(score.idxmax())})"
        if centre in score:
            text += f", {score[centre]:.1f} at the default {plain(centre)}"
        told = clear(range_, of_score(middle))
        found.append((range_.mean(), text + ("." if told else ", no more than noise.")))
    return "\n".join(text for _, text in sorted(found, key=lambda pair: -pair[0]))


def plain(value: float) -> str:
    """A value without an exponent."""
    return f"{value:,.7f}".rstrip("0").rstrip(".")


def beside(runs: pd.DataFrame, others: pd.DataFrame, where: str) -> str:
    """The centre of `tables.one_at_a_time` beside the whole method in another report, in words.

    `others` are the runs of that report, `where` a link to it; "" where it has no such run.
    """
    found, keys = [], ["task", "model", "rate"]
    ours = runs[runs["centre"] & (runs["state"] == "done")].drop_duplicates("run")
    theirs = others[(others["method"] == "kprune") & (others["state"] == "done")]
    theirs = theirs[theirs["without"] == ""]
    for names, some in ours.groupby(keys, sort=False):
        other = theirs[(theirs[keys] == list(names)).all(axis=1)]
        if other.empty:
            continue
        mine, his = (100 * part["score"].astype(float).mean() for part in (some, other))
        text = f"- K-prune on {called([names[0]])[0]} at {names[2]:.0%}: {mine:.1f} here "
        text += f"({_from(some)}), {his:.1f} in {where} ({_from(other)})."
        same = all({*some[name]} == {*other[name]} for name in ("tokens", "seed"))
        if same and {*some["commit"]} != {*other["commit"]}:
            text += " It is the same run, by two states of the engine."
        found.append(text)
    return "\n".join(found)


def _from(runs: pd.DataFrame) -> str:
    commits = tables.few(dict.fromkeys(map(short, runs["commit"])))
    return f"{sampled(runs)}, at commit {commits}"


def _means(runs: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Of each value: the mean score over seeds × 100, and its standard error (0 of one seed)."""
    by_value = (100 * runs["score"]).groupby(runs["value"])
    return by_value.mean(), by_value.sem().fillna(0.0)


def title(runs: pd.DataFrame) -> str:
    """Which hyperparameter moves the score most, as the title of a figure."""
    done = runs[runs["state"] == "done"].astype({"score": float})
    means = 100 * done.groupby(["task", "parameter", "value"])["score"].mean()
    ranges = means.groupby(["task", "parameter"]).agg(lambda some: some.max() - some.min())
    ranges = ranges.groupby("parameter").max().sort_values(ascending=False)
    first, rest = ranges.index[0], ranges.iloc[1:]
    text = f"{SYMBOLS.get(first, first)} moves the score by {ranges.iloc[0]:.0f} points"
    return text + (f", the others by {rest.max():.0f} at the most" if len(rest) else "")


def draw_sensitivity(runs: pd.DataFrame) -> Figure:
    """Score against each hyperparameter, a line for each task; from `tables.one_at_a_time`.

    A grey band is one standard error of the dev set about the centre's score, a whisker one of the
    mean over seeds; two points are not joined.
    """
    parameters = list(dict.fromkeys(runs["parameter"]))
    figure, axes = panels(len(parameters), 2, (1.15 * WIDTH, 2.8), more=0.6, sharey=True)
    tasks = list(dict.fromkeys(runs["task"]))
    colours = dict(zip(tasks, (GREEN, "black", *PALETTE[4:]), strict=False))
    names = {"gamma": "temperature γ", "lam": "λ", "mu": "μ", "tokens": "sample (tokens)"}
    done = runs[runs["state"] == "done"].astype({"score": float})
    metrics = dict.fromkeys(METRIC_NAMES.get(name, name) for name in done["metric"])
    for axis, name in zip(axes.flat, parameters, strict=False):
        here = done[done["parameter"] == name]
        for (task, some), marker in zip(here.groupby("task", sort=False), MARKERS, strict=False):
            score, error = _means(some)
            style = {"marker": marker, "color": colours.get(task, "black")}
            style |= {"linestyle": "-" if len(score) > 2 else "", "label": called([task])[0]}
            axis.errorbar(score.index, score, error if error.any() else None, **style)
            centre = some[some["centre"]]
            if (error := of_score(centre)) > 0:
                middle = 100 * centre["score"].mean()
                axis.axhspan(middle - error, middle + error, color=GREY, alpha=0.35, linewidth=0)
        values = sorted(set(here["value"]))
        if values and values[0] == 0:
            axis.set_xscale("symlog", linthresh=values[1])
        else:
            axis.set_xscale("log")
        axis.set_xticks(values, [plain(value) for value in values])
        axis.tick_params(labelsize="small")
        axis.minorticks_off()
        axis.margins(x=0.1)
        axis.axvline(here.loc[here["centre"], "value"].max(), color=GREY, linestyle=":", zorder=1)
        axis.set_xlabel(names[name])
    figure.supylabel(f"{' or '.join(metrics)} × 100", fontsize="medium")
    room(axes.flat[0])
    if len(tasks) > 1:
        share_legend(figure, columns=4)
    else:
        words = f"{called(tasks)[0]}: {title(runs)}"
        figure.suptitle(words, ha="left", x=0.01, fontweight="bold", fontsize="medium")
    return figure
