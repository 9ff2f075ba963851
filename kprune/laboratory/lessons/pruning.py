"""Lesson 04: what pruning leaves, and what a sublayer is worth."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from kprune.encoders import Encoder
from kprune.laboratory.figures import (
    BLUE,
    GREY,
    METRIC_NAMES,
    ORANGE,
    WIDTH,
    room,
    short_name,
    standard_error,
)
from kprune.limits.latency import latencies
from kprune.report import Report


def shapes(encoder: Encoder, layer: int = 0) -> dict[str, str]:
    """Shapes of the weights of one layer, by sublayer and projection."""
    found = {}
    for sublayer in encoder.sublayers[2 * layer : 2 * layer + 2]:
        names = [path.split(".")[-1] for path in sublayer.input_paths]
        names = ["input"] if len(names) == 1 else names
        linears = (*sublayer.inputs, sublayer.output)
        for name, linear in zip((*names, "output"), linears, strict=True):
            found[f"{sublayer.kind}, {name}"] = " × ".join(map(str, linear.weight.shape))
    return found


def shares(dense: PreTrainedModel, pruned: PreTrainedModel, report: Report) -> dict[str, float]:
    """What a pruned model leaves of parameters, FLOPs and time; models are timed in turns."""
    left = {"parameters": report.parameters / report.dense_parameters}
    left["FLOPs"] = report.flops / report.dense_flops
    both, length = {"dense": dense, "pruned": pruned}, round(report.length)
    for size in (1, 32):
        times = latencies(both, batch_size=size, length=length, quiet=True)
        left[f"time, {size} × {length} tokens"] = times["pruned"] / times["dense"]
    return left


def left_of(shares: Mapping[str, float]) -> Figure:
    """What is left of each quantity, as a share of the dense model's, by its name."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.4 * len(shares)))
    names, percent = [*shares], [100 * share for share in shares.values()]
    bars = axes.barh(names, percent, color="0.45", height=0.6)
    axes.bar_label(bars, fmt="%.0f%%", padding=4, fontsize="small")
    axes.axvline(100, color=GREY, linestyle="--")
    style = {"fontsize": "small", "color": "0.35", "va": "top"}
    axes.annotate(" dense", (100, 0.98), xycoords=("data", "axes fraction"), **style)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(
        title="What is left of the dense model",
        xlabel="left (% of the dense model)",
        xlim=(0, max(115, 1.12 * max(percent))),
    )
    return figure


def emptied(scores: Sequence[float], dense: float, examples: int, metric: str) -> Figure:
    """The score without any unit of one sublayer, of each in turn, beside the dense model's.

    Scores are 0 to 1, from the bottom up; they have bars of one standard error, on so many
    `examples`, where it is known.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    errors = [100 * standard_error(score, examples, metric) for score in (*scores, dense)]
    for kind, name, colour in ((0, "without the heads", BLUE), (1, "without the neurons", ORANGE)):
        places = range(kind, len(scores), 2)
        style = {"color": colour, "fmt": "so"[kind], "label": name, "capsize": 3}
        axes.errorbar(
            places, [100 * scores[t] for t in places], [errors[t] for t in places], **style
        )
    axes.axhspan(100 * dense - errors[-1], 100 * dense + errors[-1], color="0.92")
    axes.axhline(100 * dense, color=GREY, linestyle="--", label="dense")
    known = ",\n± one standard error" * (errors[-1] > 0)
    names = [*map(short_name, range(len(scores)))]
    axes.set_xticks(range(len(scores)), names, rotation=45, fontsize="small")
    axes.set(
        title="What the score minds when one sublayer loses all its units",
        xlabel="emptied sublayer, from the embedding upwards",
        ylabel=f"{METRIC_NAMES.get(metric, metric)} (× 100)" + known,
    )
    room(axes)
    axes.legend(fontsize="small")
    return figure
