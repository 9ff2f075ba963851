"""`13_ablation`: what each ingredient brings."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREY, LEAST, METHODS, WIDTH, panels
from kprune.laboratory.reports.noise import clear, of_score
from kprune.laboratory.tables import NAMES, called, few


def losses(runs: pd.DataFrame) -> pd.DataFrame:
    """The variants' runs with `loss`: points below the whole method of their seed, if both are
    done; and with `noise`, one standard error of the dev set at the whole method's score.
    """
    keys = ["model", "task", "rate", "seed"]
    score = pd.to_numeric(runs["score"], errors="coerce").where(runs["state"] == "done")
    whole = runs["without"] == ""
    by = score[whole].set_axis(pd.MultiIndex.from_frame(runs.loc[whole, keys]))
    found = by.reindex(pd.MultiIndex.from_frame(runs.loc[~whole, keys])).to_numpy() - score[~whole]
    groups = runs[whole].groupby(keys[:-1])
    errors = pd.Series({name: of_score(some) for name, some in groups}, dtype=float)
    place = pd.MultiIndex.from_frame(runs.loc[~whole, keys[:-1]])
    return runs[~whole].assign(loss=100 * found, noise=errors.reindex(place).to_numpy())


def answer(variants: pd.DataFrame) -> str:
    """What matters most on each task and what does not, in words, from `losses`.

    What is called noise is not `noise.clear`.
    """
    found = []
    for (task, rate), some in variants.groupby(["task", "rate"], sort=False):
        lost = by_variant(some)
        if not lost:
            continue
        error = some["noise"].mean()
        text = f"- {called([task])[0]} at {rate:.0%}: "
        points = {name: f"{each.mean():.1f}" for name, each in lost.items()}
        told = {name: clear(each, error) for name, each in lost.items()}
        first, *others = leaders(lost, error) or [""]
        if others:
            named = [f"*{name}* ({points[name]})" for name in others]
            text += f"most is lost without *{first}*, {points[first]} points, which noise does not "
            text += f"tell from what is lost without {few(named, 9)}"
        elif first:
            text += f"*{first}* matters most, {points[first]} points are lost without it"
        else:
            text += "of no ingredient is it clear that the method loses without it"
        if little := [f"*{name}* ({points[name]})" for name in lost if not told[name]]:
            text += f"; {few(little, 9)} cannot be told from noise"
        for name, each in lost.items():
            if told[name] and each.mean() < 0:
                text += f"; without *{name}* the method is {-each.mean():.1f} points *better*"
        found.append(text.replace("(-", "(−") + ".")
    return "\n".join(found)


def by_variant(variants: pd.DataFrame) -> dict[str, pd.Series]:
    """Losses of one task and rate by seed, for what is left out; the largest mean first."""
    groups = variants.dropna(subset="loss").groupby("without", sort=False)
    lost = {name: some.set_index("seed")["loss"] for name, some in groups}
    return dict(sorted(lost.items(), key=lambda pair: -pair[1].mean()))


def leaders(lost: dict[str, pd.Series], error: float) -> list[str]:
    """What is missed most for certain, and what else is that noise does not tell from it."""
    missed = [name for name in lost if lost[name].mean() > 0 and clear(lost[name], error)]
    return [
        name
        for name in missed
        if name == missed[0] or not clear((lost[missed[0]] - lost[name]).dropna(), error)
    ]


def draw_ingredients(runs: pd.DataFrame) -> Figure:
    """What each ingredient brings on each task: points lost without it, from `losses`.

    All tasks have one scale, of half of `LEAST` points at the least, so that none magnifies noise;
    the grey band is one standard error of the dev set, a whisker one of the mean over seeds. An
    ingredient that no finished run was without has no bar.
    """
    several = runs["rate"].nunique() > 1
    names = zip(called(runs["task"]), runs["rate"], strict=True)
    variants = runs.assign(
        task=[task + (f" at {rate:.0%}" if several else "") for task, rate in names]
    )
    variants = variants.dropna(subset="loss")
    colour, _ = METHODS[NAMES[variants["method"].iloc[0]]]
    tasks, order = (list(dict.fromkeys(variants[name])) for name in ("task", "without"))
    size = 1.25 * WIDTH, 0.5 + 0.36 * len(order)
    figure, axes = panels(len(tasks), 3, size, more=0.5, sharex=True, sharey=True)
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = variants[variants["task"] == task]
        lost = dict(list(here.groupby("without")["loss"]))
        if (noise := here["noise"].mean()) > 0:
            axis.axvspan(-noise, noise, color=GREY, alpha=0.5, linewidth=0)
        axis.axvline(0, color="black", linewidth=1)
        for place, name in enumerate(order):
            if name in lost:
                _bar(axis, place, lost[name], colour)
        first = leaders(by_variant(here), here["noise"].mean())
        words = f"most is lost\nwithout {' or '.join(first)}"
        words = words if 0 < len(first) < 3 else "noise hides\nwhat matters most"
        axis.set_title(f"{task}: {words}", fontsize="small")
        axis.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].set(ylim=(len(order) - 0.4, -0.6))
    for axis in axes[:, 0]:
        axis.set_ylabel("without")
    low, high = axes[0, 0].get_xlim()
    low, high = low - 0.1 * (high - low) * (low < 0), high + 0.2 * (high - low)
    axes[0, 0].set_xlim(low, max(high, low + LEAST / 2))
    words = ["points below the whole method"]
    words += ["grey: one standard error of the dev set"] * bool(variants["noise"].notna().any())
    words += ["dots: seeds, whiskers: of their mean"] * bool(variants["seed"].nunique() > 1)
    figure.supxlabel("; ".join(words), fontsize="medium")
    return figure


def _bar(axis: plt.Axes, place: int, lost: pd.Series, colour: str) -> None:
    """A bar, its value in the right margin, and of several seeds their own values and a whisker."""
    mean, error = lost.mean(), lost.sem() if len(lost) > 1 else 0.0
    axis.barh(place, mean, height=0.7, color=colour, xerr=error or None, ecolor="0.25")
    if len(lost) > 1:
        axis.plot(lost, [place + 0.2] * len(lost), "o", color="0.25", markersize=3)
    margin = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "center"}
    axis.text(0.99, place, f"{mean:.1f}".replace("-", "−"), fontsize="small", **margin)
