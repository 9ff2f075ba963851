"""The figures of single runs: 09 times one, 21 serves its model, 23 trains it again."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import (
    GREY,
    METRIC_NAMES,
    WIDTH,
    room,
    standard_error,
    styles,
    teacher_line,
)
from kprune.laboratory.tables import NAMES


def ideas(ratios: Mapping[str, float]) -> Figure:
    """Time without each idea over the time with it, most first, as bars that begin at 1."""
    names = sorted(ratios, key=ratios.__getitem__, reverse=True)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.36 * len(names)))
    bars = axes.barh(names, [ratios[name] - 1 for name in names], 0.6, left=1, color=GREY)
    labels = [f"{ratios[name]:.2f}" for name in names]
    axes.bar_label(bars, labels, padding=4, fontsize="small")
    axes.axvline(1, color="0.35", linewidth=1.2)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(
        title=f"Most is won by {names[0]}",
        xlabel="time without it, over time with it",
        xlim=(min(0.95, 0.85 * min(ratios.values())), 1.08 * max(ratios.values())),
    )
    return figure


def served(table: pd.DataFrame, examples: int, method: str) -> Figure:
    """Accuracy × 100 by size of what is served, a named point for each row of `table`.

    Its columns are `accuracy` and `size (MB)`, its last row what is pruned and all else; names of
    what `method` pruned begin with "pruned" and stand above their points, the others below.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    label = NAMES.get(method, method)
    colour = styles([label])[label]["color"]
    for name, row in table.iterrows():
        ours, size, score = name.startswith("pruned"), row["size (MB)"], row["accuracy"]
        error = 100 * standard_error(score / 100, examples)
        look = {"fmt": "D" if ours else "s", "color": colour if ours else "0.45", "capsize": 3}
        axes.errorbar(size, score, error, ms=7, **look)
        style = {"ha": "center", "va": "bottom" if ours else "top"}
        style |= {"xytext": (0, 18 if ours else -18), "textcoords": "offset points"}
        axes.annotate(name, (size, score), fontsize="small", **style)
    sizes, scores = table["size (MB)"], table["accuracy"] / 100
    alike = scores.iloc[0] - scores.iloc[-1] < 2 * standard_error(scores.iloc[0], examples)
    axes.set(
        xscale="log",
        xlim=(0.6 * sizes.min(), 1.4 * sizes.max()),
        xlabel="graph and tokenizer (MB, logarithmic)",
        ylabel="accuracy × 100, ± one standard error",
        title=f"{sizes.iloc[0] / sizes.iloc[-1]:.1f} times smaller"
        + (", at nearly the same accuracy" if alike else ""),
    )
    low, high = axes.get_xlim()
    ticks = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
    axes.set_xticks([tick for tick in ticks if low < tick < high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.margins(y=0.15)
    room(axes)
    return figure


def bought(
    points: Mapping[str, tuple[float, float]],
    dense: float,
    metric: str,
    examples: int,
    method: str,
) -> Figure:
    """Score (0 to 1) against time in passes, a named point for each state of a model.

    The last one is after training, if there is more than one; beside the `dense` model's score.
    """
    figure, axes = plt.subplots()
    label = NAMES.get(method, method)
    style = styles([label])[label]
    teacher = {"dense": dense, "metric": metric, "extra": {"dev examples": examples}}
    teacher_line(axes, pd.DataFrame([teacher]))
    for number, (name, (passes, score)) in enumerate(points.items()):
        error = 100 * standard_error(score, examples, metric)
        face = style["color"] if number or len(points) == 1 else "white"
        look = {"color": style["color"], "fmt": style["marker"], "mfc": face, "capsize": 3}
        axes.errorbar(passes, 100 * score, error, ms=8, **look)
        words = {"xytext": (8, -8), "textcoords": "offset points", "va": "top"}
        axes.annotate(f"{label}, {name}", (passes, 100 * score), fontsize="small", **words)
    most = max(passes for passes, _ in points.values()) or 1.0
    (_, first), *_ = points.values()
    *_, (spent, last) = points.values()
    title = f"{100 * (last - first):+.1f} points in {spent:.1f} passes"
    axes.set(
        title=f"{name.capitalize()}: {title}" if len(points) > 1 else f"Pruned by {label}",
        xlabel="time (passes)",
        ylabel=f"{METRIC_NAMES.get(metric, metric)} × 100, ± one standard error",
        xlim=(-0.07 * most, 1.5 * most),
    )
    axes.margins(y=0.1)
    room(axes)
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(handles, ["teacher, ± one standard error"], loc="lower right", fontsize="small")
    return figure
