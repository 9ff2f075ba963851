"""The look of the figures, and what they share.

Every function that draws makes its own axes and returns the figure. Heads are always blue and
neurons always orange, and nothing else is; a method has the same colour everywhere.
"""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN = PALETTE[:3]
GREY = "0.6"
MARKERS = "osD^vPX*"
# Colour and marker of methods, as tables call them.
METHODS = {
    "K-prune": (GREEN, "o"),
    "K-prune, λ = 0": ("#6fc3a5", "^"),
    "K-prune+": (PALETTE[4], "D"),
    "Kwon et al.": ("#8c1c13", "s"),  # a red too dark to be taken for the neurons' orange
    "KCM": ("#5a3a1b", "v"),  # as dark, for the same reason
    "magnitude": ("0.45", "P"),
    "random": ("0.7", "X"),
    "first layers": ("0.2", "<"),
    "spaced layers": ("#6b5d00", ">"),  # a yellow dark enough to be seen on white
}
LEAST = 20.0  # points that an axis of scores spans at the least: less would magnify noise
COLOURS = {"heads": BLUE, "neurons": ORANGE}
KINDS = {"MHA": "heads", "FFN": "neurons"}
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
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE[2:], font_scale=0.95)
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


def styles(labels: Iterable[str]) -> dict[str, dict]:
    """Colour and marker of each of these methods, variants ("K-prune without tuning") included."""
    others = zip(PALETTE[3:], "^*psvhX", strict=True)
    found: dict[str, dict] = {}
    for label in dict.fromkeys(labels):
        colour, marker = METHODS.get(label) or next(others, ("black", "h"))
        found[label] = {"color": colour, "marker": marker}
    return found


def greys(count: int) -> list[str]:
    """From light to dark, for what is neither a method nor a kind of unit."""
    return [f"{level:.2f}" for level in np.linspace(0.62, 0.05, count)] if count > 1 else ["0.25"]


def room(axis: plt.Axes, least: float = LEAST, most: float = 100.0) -> None:
    """Widen an axis of scores (× 100) downwards to `least` points, up to `most` at the top."""
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, min(high, most) - least), min(high, most + 1))


def below(axes: np.ndarray, text: str) -> None:
    """Name the x axes, and number them, at the lowest visible panel of each column."""
    for column in axes.T:
        lowest = [axis for axis in column if axis.get_visible()][-1]
        lowest.set_xlabel(text)
        lowest.tick_params(labelbottom=True)


def short_name(place: int) -> str:
    """A sublayer's name where there is little room, by its number from 0: "MHA 1", "FFN 1", …"""
    return f"{[*KINDS][place % 2]} {place // 2 + 1}"


def standard_error(score: float, examples: int, metric: str = "accuracy") -> float:
    """The standard error of a score (0 to 1) on so many examples; 0 for metrics of neither kind.

    Of an accuracy by the binomial law, of a correlation as of pairs that are normal.
    """
    if metric == "accuracy":
        return (score * (1 - score) / examples) ** 0.5
    return (1 - score**2) / (examples - 1) ** 0.5 if metric == "spearman" else 0.0


def teacher_line(axis: plt.Axes, runs: pd.DataFrame) -> None:
    """The dense model's score (× 100) in finished runs, between one standard error up and down.

    Runs of `tables.collect` that tell on how many examples they were scored; else there is no band.
    """
    score = runs["dense"].astype(float).mean()
    axis.axhline(100 * score, color=GREY, linestyle="--", label="teacher")
    axis.update_datalim([(axis.dataLim.x0, 100 * score)])  # so that it is not on the frame
    axis.autoscale_view()
    for _, run in runs[:1].iterrows():
        if examples := run["extra"].get("dev examples"):
            error = standard_error(score, examples, run["metric"])
            low, high = 100 * (score - error), 100 * (score + error)
            axis.axhspan(low, high, color=GREY, alpha=0.2, linewidth=0)


def save(figure: Figure, folder: str | Path, name: str, source: str = "") -> None:
    """Save a figure as PNG and SVG, with its `source` below; the same figure gives the same bytes.

    `tables.source` says where the numbers are from.
    """
    folder = Path(folder)
    if source:
        below = ScaledTranslation(0.05, -0.12, figure.dpi_scale_trans)  # inches
        style = {"va": "top", "fontsize": 7.5, "color": "0.4"}
        figure.text(0, 0, source, transform=figure.transFigure + below, **style)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        part = folder / f".{name}.part.{suffix}"
        figure.savefig(part, metadata=metadata)
        part.replace(folder / f"{name}.{suffix}")


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
    """One legend above for all panels."""
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=columns)
