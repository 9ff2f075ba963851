"""The look of the figures, and what they share.

Every function that draws makes its own axes and returns the figure. Heads are always blue and
neurons always orange.
"""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory import tables

BLUE, ORANGE, GREEN = (sns.color_palette("colorblind")[i] for i in (0, 1, 2))
GREY = "0.6"
MARKERS = "osD^vPX*"
COLOURS = {"heads": BLUE, "neurons": ORANGE}
METRIC_NAMES = {
    "f1": "F1",
    "f1_micro": "micro F1",
    "f1_macro": "macro F1",
    "spearman": "Spearman's ρ",
    "matthews": "Matthews' φ",
    "average_precision": "average precision",
}
WIDTH = 7.0  # inches: one column of a notebook


def look() -> None:
    """Set seaborn's theme: legible at column width, safe for colour-blind readers."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.95)
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.4),
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "savefig.bbox": "tight",
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "figure.constrained_layout.use": True,
            "svg.hashsalt": "kprune",  # the same figure gives the same file
        }
    )


def called(tasks: Iterable[str]) -> list[str]:
    """What people call tasks, in a figure: a dollar sign there would begin a formula."""
    return [name.replace("$", r"\$") for name in tables.called(tasks)]


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Save a figure as PNG and SVG; the same figure gives the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        part = folder / f".{name}.part.{suffix}"
        figure.savefig(part, metadata=metadata)
        part.replace(folder / f"{name}.{suffix}")


def points(runs: pd.DataFrame, value: str, **words: str) -> Figure:
    """A number of each finished run beside its method, and what the axes are called.

    Colours tell the tasks apart, shapes the rates.
    """
    runs = runs[runs["state"] == "done"].astype({value: float})
    tasks, labels = (list(dict.fromkeys(runs[name])) for name in ("task", "label"))
    # A lane of its own for each task, so that points do not hide one another.
    lanes = 0.7 * ((runs["task"].map(tasks.index) + 0.5) / len(tasks) - 0.5)
    rates = {rate: f"{rate:.0%} gone" for rate in sorted(set(runs["rate"]))}
    names = {"task": called(runs["task"]), "rate": runs["rate"].map(rates)}
    table = runs.assign(place=runs["label"].map(labels.index) + lanes, **names)
    figure, axes = plt.subplots(figsize=(1.25 * WIDTH, 0.9 + 0.55 * len(labels)))
    style = {"hue": "task", "palette": "colorblind", "s": 45, "linewidth": 0}
    style |= {
        "style": "rate",
        "style_order": [*rates.values()],
        "markers": [*MARKERS[: len(rates)]],
    }
    sns.scatterplot(table, x=value, y="place", ax=axes, **style)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(ylabel="", **words)
    sns.move_legend(axes, "upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return figure


def panels(
    count: int, columns: int, size: tuple[float, float], more: float = 0.4, **shared
) -> tuple[Figure, np.ndarray]:
    """A figure of `count` panels, [lines, columns], the rest of the last line hidden.

    `size` is its width and the height of a line in inches, `more` the height besides the lines, and
    `shared` says which axes the panels share.
    """
    columns = min(columns, count)
    lines = -(-count // columns)
    size = size[0], more + size[1] * lines
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, **shared)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes


def share_legend(figure: Figure, columns: int) -> None:
    """One legend below for all panels."""
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns)
