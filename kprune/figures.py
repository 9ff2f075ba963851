"""The look of the figures, and the plots that recur.

Every function draws on axes that it makes itself and returns the figure. Colours are seaborn's
colour-blind palette; heads are always blue and neurons always orange.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kprune.encoders import Encoder
from kprune.report import Report
from kprune.sampling import Sample, batches
from kprune.tables import TASK_NAMES
from kprune.weight_tuning import Tuning

BLUE, ORANGE, GREEN = (sns.color_palette("colorblind")[i] for i in (0, 1, 2))
GREY = "0.6"
MARKERS = "osD^vPX*"
COLOURS = {"heads": BLUE, "neurons": ORANGE}
METRIC_NAMES = {"f1": "F1", "spearman": "Spearman's ρ", "matthews": "Matthews' φ"}
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


def lengths(sample: Sample) -> Figure:
    """Histogram of the sample's sequence lengths."""
    counts = [len(example["input_ids"]) for example in sample.examples]
    figure, axes = plt.subplots()
    sns.histplot(x=counts, discrete=max(counts) < 80, ax=axes, color=BLUE)
    mean = sample.tokens / len(counts)
    axes.axvline(mean, color="black", linestyle="--")
    axes.margins(y=0.15)
    axes.annotate(
        f"mean {mean:.1f}",
        (mean, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        fontsize="small",
    )
    axes.set(
        title=f"{len(counts):,} sequences share {sample.tokens:,} tokens",
        xlabel="length (tokens, special tokens included)",
        ylabel="sequences",
    )
    return figure


def padding(sample: Sample, sizes: Sequence[int] = (960, 3840, 15360)) -> Figure:
    """How much of each batch is padding, in drawing order and sorted by length."""
    rows = []
    for size in sizes:
        for order, by_length in (("as drawn", False), ("sorted by length", True)):
            parts = batches(sample.examples, max_tokens=size, by_length=by_length)
            cells = sum(part.inputs["input_ids"].numel() for part in parts)
            rows.append((f"{size:,}", order, 100 * (1 - sample.tokens / cells)))
    table = pd.DataFrame(rows, columns=["size", "order", "padding"])
    figure, axes = plt.subplots()
    sns.barplot(table, x="size", y="padding", hue="order", palette=[GREY, BLUE], ax=axes)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.0f%%", fontsize="small", padding=2)
    axes.set(
        title="Sorting by length saves most of the padding",
        xlabel="batch size (tokens, padding included)",
        ylabel="padding (% of all positions)",
        ylim=(0, max(60, table["padding"].max() * 1.15)),
    )
    axes.legend(title=None)
    return figure


def importance(encoder: Encoder, scores: Sequence, start: int = 0) -> Figure:
    """Heat maps of importance per FLOP: each head of each layer, and neurons sorted within a layer.

    Args:
        encoder: the student.
        scores: importance of the units of each sublayer from `start` up.
        start: number of the first scored sublayer, from 0.
    """
    rows: dict[str, list] = {"MHA": [], "FFN": []}
    labels: dict[str, list] = {"MHA": [], "FFN": []}
    for sublayer, score in zip(encoder.sublayers[start:], scores, strict=True):
        rows[sublayer.kind].append(np.asarray(score.cpu(), dtype=float))
        labels[sublayer.kind].append(sublayer.layer + 1)
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH * 1.25, 3.2), width_ratios=(2, 3))
    tiny = 1e-30
    logs = np.log10(np.concatenate([row for part in rows.values() for row in part]) + tiny)
    seen = logs[logs > np.log10(tiny) + 1]
    low, high = (seen.min(), seen.max()) if len(seen) else (-30, -29)
    for axis, (kind, title) in zip(
        axes, (("MHA", "Heads"), ("FFN", "Neurons, sorted within a layer")), strict=True
    ):
        width = max((len(row) for row in rows[kind]), default=1)
        grid = np.full((len(rows[kind]), width), np.nan)
        for i, row in enumerate(rows[kind]):
            grid[i, : len(row)] = np.log10((row if kind == "MHA" else -np.sort(-row)) + tiny)
        sns.heatmap(
            grid[::-1],
            ax=axis,
            cmap="viridis",
            vmin=low,
            vmax=high,
            yticklabels=labels[kind][::-1],
            xticklabels=width // 6 if kind == "FFN" else 1,
            cbar=kind == "FFN",
            cbar_kws={"label": "importance per FLOP (log10)"},
        )
        axis.set(title=title, xlabel="head" if kind == "MHA" else "rank", ylabel="layer")
        axis.tick_params(axis="both", rotation=0, labelsize="small")
    if rows["MHA"]:
        axes[0].set_xticks(
            np.arange(len(grid_ticks := rows["MHA"][0])) + 0.5, labels=range(1, len(grid_ticks) + 1)
        )
    return figure


def threshold(scores, costs, kinds: Sequence[str], budget: float, nu: float) -> Figure:
    """The mask search: FLOPs of the units above each threshold, and where the budget cuts.

    Args:
        scores: pooled importance per FLOP, [units].
        costs: FLOPs of each unit, [units].
        kinds: "heads" or "neurons" for each unit.
        budget: FLOPs that may be kept.
        nu: the threshold that KPMS found.
    """
    order = np.argsort(-np.asarray(scores))
    scores, costs = np.asarray(scores)[order], np.asarray(costs, dtype=float)[order]
    kinds = np.asarray(kinds)[order]
    kept = np.cumsum(costs)
    figure, axes = plt.subplots()
    for kind in ("neurons", "heads"):
        here = kinds == kind
        axes.scatter(
            100 * kept[here] / kept[-1],
            np.maximum(scores[here], 1e-30),
            s=30 if kind == "heads" else 5,
            marker="s" if kind == "heads" else "o",
            color=COLOURS[kind],
            label=kind,
            linewidths=0,
            zorder=3 if kind == "heads" else 2,
        )
    share = 100 * budget / kept[-1]
    axes.axvspan(0, share, color=GREEN, alpha=0.12, label="budget")
    if np.isfinite(nu):
        axes.axhline(max(nu, 1e-30), color="black", linestyle="--", linewidth=1)
        axes.annotate("ν", (99, max(nu, 1e-30)), ha="right", va="bottom")
    axes.set(
        yscale="log",
        title="The threshold ν cuts where the kept units fill the budget",
        xlabel="FLOPs of this unit and all above it (% of the pool)",
        ylabel="importance per FLOP",
        xlim=(0, 100),
    )
    axes.legend(loc="upper right")
    return figure


def survivors(encoder_dense: Encoder, report: Report) -> Figure:
    """Share of heads and of neurons that survive in each layer, with their numbers."""
    full = {kind: encoder_dense.units(kind) for kind in ("MHA", "FFN")}
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH * 1.15, 3.2), sharey=True)
    for axis, name, kept, dense in (
        (axes[0], "heads", report.heads, full["MHA"]),
        (axes[1], "neurons", report.neurons, full["FFN"]),
    ):
        layers = np.arange(1, len(kept) + 1)
        axis.barh(layers, np.full(len(kept), 100), color="0.92", label="before")
        axis.barh(
            layers, 100 * np.array(kept) / np.array(dense), color=COLOURS[name], label="after"
        )
        for layer, few, many in zip(layers, kept, dense, strict=True):
            axis.annotate(f"{few} of {many}", (102, layer), va="center", fontsize="small")
        axis.set(title=name.capitalize(), xlabel=f"surviving {name} (%)", xlim=(0, 135))
        axis.set_xticks([0, 25, 50, 75, 100])
        axis.set_yticks(layers)
        axis.grid(axis="y", visible=False)
    axes[0].set_ylabel("layer")
    return figure


def tuning(results: Sequence[Tuning], kinds: Sequence[str]) -> Figure:
    """Relative output error of each sublayer before and after weight-tuning."""
    rows = [
        (f"{kind} {t // 2 + 1}", when, 100 * getattr(result, when))
        for t, (result, kind) in enumerate(zip(results, kinds, strict=True))
        for when in ("before", "after")
    ]
    table = pd.DataFrame(rows, columns=["sublayer", "tuning", "error"])
    figure, axes = plt.subplots(figsize=(WIDTH * 1.15, 3.4))
    sns.barplot(table, x="sublayer", y="error", hue="tuning", palette=[GREY, GREEN], ax=axes)
    axes.set(
        title="Tuning lowers every sublayer's output error",
        xlabel="sublayer, from the embedding upwards",
        ylabel="output error ‖Y − P·W‖² / ‖Y‖² (%)",
    )
    axes.tick_params(axis="x", rotation=45, labelsize="small")
    axes.legend(title="weight-tuning")
    return figure


def accuracy(table: pd.DataFrame, metric: str, dense: float) -> Figure:
    """Score against the share of FLOPs that is left.

    Args:
        table: one row per run, with the columns `flops` (share left, 0 to 1) and `score`.
        metric: what the score is called.
        dense: the teacher's score.
    """
    figure, axes = plt.subplots()
    axes.axhline(dense, color=GREY, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"teacher {dense:.3f}",
        (0.01, dense),
        xycoords=("axes fraction", "data"),
        va="bottom",
        ha="left",
        fontsize="small",
        color="0.35",
    )
    sns.lineplot(table, x=100 * table["flops"], y="score", marker="o", color=BLUE, ax=axes)
    axes.plot(100, dense, marker="D", color="0.35")
    for _, row in table.iterrows():
        axes.annotate(
            f"{row['score']:.3f}",
            (100 * row["flops"], row["score"]),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    low = min(table["score"].min(), dense)
    axes.set(
        title="Accuracy against cost",
        xlabel="FLOPs left (% of the teacher's)",
        ylabel=f"{METRIC_NAMES.get(metric, metric)} on the dev set",
        xlim=(0, 105),
        ylim=(low - 0.25 * max(dense - low, 0.02), dense + 0.25 * max(dense - low, 0.02)),
    )
    return figure


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Save a figure as PNG and SVG; the same figure gives the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        part = folder / f".{name}.part.{suffix}"
        figure.savefig(part, metadata=metadata)
        part.replace(folder / f"{name}.{suffix}")


def curves(runs: pd.DataFrame) -> Figure:
    """Score against the share of FLOPs gone: a panel for each task, a line for each method.

    Args:
        runs: what `tables.collect` gave; runs that are not done leave gaps.
    """
    tasks, labels = list(dict.fromkeys(runs["task"])), list(dict.fromkeys(runs["label"]))
    styles = dict(zip(labels, sns.color_palette("colorblind", len(labels)), strict=True))
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(1.25 * WIDTH, 0.4 + 2.6 * lines), squeeze=False, sharex=True
    )
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = runs[runs["task"] == task]
        for label, marker in zip(labels, MARKERS, strict=False):
            some = here[here["label"] == label].astype({"score": float})
            score = 100 * some.groupby("rate")["score"].agg(["mean", "std"])
            axis.errorbar(
                100 * score.index,
                score["mean"],
                score["std"].fillna(0),
                color=styles[label],
                marker=marker,
                label=label,
                capsize=2,
            )
        if not (here["state"] == "done").any():
            axis.annotate("no run is done", (0.5, 0.5), xycoords="axes fraction", ha="center")
            axis.set_yticks([])
        axis.set_xticks(100 * np.unique(runs["rate"]))
        axis.axhline(100 * here["dense"].astype(float).mean(), color=GREY, linestyle="--")
        axis.set(title=TASK_NAMES.get(task, task), ylabel=_score_name(here))
        axis.title.set_fontsize("medium")
    for axis in axes[-1]:
        axis.set_xlabel("FLOPs gone (%)")
    _share_legend(figure, axes, len(tasks), columns=5)
    return figure


def speed(best: pd.DataFrame) -> Figure:
    """The speed-up that each method reaches within the allowed loss, on each task.

    Args:
        best: what `tables.fastest` gave.
    """
    table = best.assign(task=[TASK_NAMES.get(task, task) for task in best["task"]])
    tasks, labels = (list(dict.fromkeys(table[name])) for name in ("task", "label"))
    figure, axes = plt.subplots(figsize=(1.25 * WIDTH, 3.6))
    sns.barplot(table, x="task", y="speedup", hue="label", order=tasks, hue_order=labels, ax=axes)
    # The rate behind each bar; where there is none, why: no rate within the loss, or no run.
    step = 0.8 / len(labels)
    for _, row in table.iterrows():
        place = tasks.index(row["task"]) - 0.4 + step * (labels.index(row["label"]) + 0.5)
        text = "no run" if not row["runs"] else "none" if np.isnan(row["rate"]) else ""
        axes.annotate(
            text or f"{row['rate']:.0%}",
            (place, 0 if text else row["speedup"]),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=90,
            fontsize="x-small",
        )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1.2)
    axes.margins(y=0.12)
    axes.set(
        title="Speed-up within the allowed loss, with the rate that gives it",
        xlabel="task",
        ylabel="speed-up over the teacher (×)",
    )
    sns.move_legend(axes, "upper left", bbox_to_anchor=(1, 1), title=None)
    return figure


def cost(runs: pd.DataFrame) -> Figure:
    """Time of pruning of each method, one point per run."""
    figure = _points(runs[runs["state"] == "done"], "passes")
    figure.axes[0].set(
        title="What pruning costs",
        xlabel="time of pruning (F: plain forward passes over the sample)",
    )
    return figure


def steps(runs: pd.DataFrame) -> Figure:
    """Time of each step in F, a bar per run, with the limit by count; from `tables.performance`."""
    names = [
        f"{TASK_NAMES.get(run['task'], run['task'])}, {run['rate']:g}, "
        f"{run['tokens'] / 1000:g}K{', reuse' if run['reuse'] else ''}"
        f"{', in {}s'.format(run['multiple']) if run['multiple'] > 1 else ''}"
        f"{', full' if run['precision'] == 'full' else ''}"
        for _, run in runs.iterrows()
    ]
    shares = pd.DataFrame(list(runs["steps"]), index=names).fillna(0.0)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6 + 0.34 * len(names)))
    left = np.zeros(len(names))
    for step in shares:
        axes.barh(names, shares[step], left=left, label=step)
        left += shares[step].to_numpy()
    axes.plot(
        runs["limit"].astype(float), names, "k|", markersize=12, markeredgewidth=2, label="limit"
    )
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(
        title="Where the time goes",
        xlabel="time (F: plain forward passes over the sample)",
        ylabel="task, rate, tokens",
    )
    axes.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def growth(table: pd.DataFrame) -> Figure:
    """Time and memory along each axis; from `tables.growth`."""
    names = list(dict.fromkeys(table["axis"]))
    figure, axes = plt.subplots(
        2, len(names), figsize=(1.2 * WIDTH, 4.2), squeeze=False, sharex="col"
    )
    labels = {"seconds": "time (s)", "memory": "peak memory (MB)"}
    for column, name in enumerate(names):
        here = table[table["axis"] == name]
        for row, (value, label) in enumerate(labels.items()):
            ax = axes[row, column]
            ax.plot(here["value"], here[value], "o-", color=(BLUE, ORANGE)[row])
            ax.set(xlim=(0, None), ylim=(0, 1.15 * here[value].max()))
            if not column:
                ax.set_ylabel(label)
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel(name)
        axes[1, column].xaxis.set_major_formatter(
            lambda value, _: f"{value / 1000:g}K" if value >= 10_000 else f"{value:g}"
        )
    return figure


def gains(table: pd.DataFrame) -> Figure:
    """A bar per idea and task: time without it over time with it; from `tables.gains`."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    table = table.assign(task=[TASK_NAMES.get(task, task) for task in table["task"]])
    order = table.groupby("idea")["ratio"].mean().sort_values(ascending=False).index
    sns.barplot(table, y="idea", x="ratio", hue="task", order=order, ax=axes)
    axes.axvline(1, color=GREY, linewidth=1.2)
    axes.set(
        title="What each idea brings, measured alone",
        xlabel="time without it over time with it (logarithmic)",
        ylabel="",
        xscale="log",
        xlim=(min(1.0, 0.95 * table["ratio"].min()), None),
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.legend(title=None)
    return figure


def inference(table: pd.DataFrame) -> Figure:
    """Speed-up against batch size, a line per length and rounding; from `tables.inference`."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for number, ((length, multiple), here) in enumerate(table.groupby(["length", "multiple"])):
        axes.plot(
            here["batch size"].astype(str),
            here["speed-up"],
            marker=MARKERS[number],
            label=f"{length} tokens" + (f", neurons in {multiple}s" if multiple > 1 else ""),
        )
    ideal = 1 / (1 - table["rate"].iloc[0])
    axes.axhline(ideal, color=GREY, linestyle="--", linewidth=1.2, label="ideal, 1/(1 − rate)")
    axes.set(
        title="Speed-up of the pruned model",
        xlabel="batch size (sequences)",
        ylabel="speed-up over the teacher (×)",
        ylim=(0, 1.1 * ideal),
    )
    axes.legend(title=None)
    return figure


def ingredients(
    runs: pd.DataFrame,
    x: str = "loss",
    y: str = "without",
    xlabel: str = "points below the whole method",
) -> Figure:
    """What each ingredient brings on each task: points lost without it, or gained by it alone.

    Args:
        runs: what `tables.losses` or `tables.alone` gave.
        x: the column of the points.
        y: the column of the ingredients.
        xlabel: what the points are.
    """
    several = runs["rate"].nunique() > 1
    variants = runs.assign(
        task=[
            TASK_NAMES.get(task, task) + (f" at {rate:.0%}" if several else "")
            for task, rate in zip(runs["task"], runs["rate"], strict=True)
        ],
    )
    tasks = list(dict.fromkeys(variants["task"]))
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    order = list(dict.fromkeys(variants[y]))
    # A scale for each task: one that loses fifty points would hide the others' two.
    figure, axes = plt.subplots(
        lines, columns, figsize=(1.25 * WIDTH, 0.4 + 2.2 * lines), squeeze=False, sharey=True
    )
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = variants[variants["task"] == task]
        sns.barplot(here, x=x, y=y, order=order, color=BLUE, errorbar="sd", ax=axis)
        axis.axvline(0, color="black", linewidth=1)
        axis.set(title=task, xlabel=xlabel, ylabel=y)
        axis.title.set_fontsize("medium")
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    return figure


def beside(runs: pd.DataFrame) -> Figure:
    """Score of each method on each task, a panel per rate: a point per run, the teacher a dash.

    Args:
        runs: what `tables.collect` gave; runs that are not done leave gaps.
    """
    done = runs[runs["state"] == "done"]
    tasks, labels = (list(dict.fromkeys(runs[name])) for name in ("task", "label"))
    rates = sorted(set(runs["rate"]))
    figure, axes = plt.subplots(
        1,
        len(rates),
        figsize=(1.25 * WIDTH, 1.2 + 0.45 * len(tasks)),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for axis, rate in zip(axes.flat, rates, strict=True):
        here = done[done["rate"] == rate]
        for number, label in enumerate(labels):
            some = here[here["label"] == label]
            height = [tasks.index(task) + 0.3 * (number + 1) / len(labels) for task in some["task"]]
            axis.plot(
                100 * some["score"].astype(float),
                height,
                MARKERS[number],
                color=sns.color_palette()[number],
                alpha=0.6,
                label=label,
            )
        teacher = 100 * here.astype({"dense": float}).groupby("task")["dense"].mean()
        places = [tasks.index(task) + 0.2 for task in teacher.index]
        axis.plot(teacher, places, "|", color="black", markersize=18, label="teacher")
        axis.set(title=f"−{rate:.0%} FLOPs", xlabel="score × 100")
        axis.title.set_fontsize("medium")
    axes[0, 0].set_yticks(
        [place + 0.2 for place in range(len(tasks))],
        [TASK_NAMES.get(task, task) for task in tasks],
    )
    axes[0, 0].set_ylim(len(tasks) - 0.3, -0.3)
    _share_legend(figure, axes, len(rates), len(labels) + 1)
    return figure


def sensitivity(runs: pd.DataFrame) -> Figure:
    """Score against each hyperparameter, a line for each task.

    Args:
        runs: what `tables.one_at_a_time` gave.
    """
    parameters = list(dict.fromkeys(runs["parameter"]))
    figure, axes = plt.subplots(
        -(-len(parameters) // 2),
        2,
        figsize=(1.15 * WIDTH, 2.8 * -(-len(parameters) // 2)),
        squeeze=False,
    )
    names = {"gamma": "temperature γ", "lam": "λ", "mu": "μ", "tokens": "sample (tokens)"}
    for axis, name in zip(axes.flat, parameters, strict=False):
        here = runs[(runs["parameter"] == name) & (runs["state"] == "done")]
        for (task, some), marker in zip(here.groupby("task", sort=False), MARKERS, strict=False):
            score = 100 * some.astype({"score": float}).groupby("value")["score"].mean()
            axis.plot(score.index, score, marker=marker, label=TASK_NAMES.get(task, task))
        values = sorted(set(here["value"]))
        if values and values[0] == 0:
            axis.set_xscale("symlog", linthresh=values[1])
        else:
            axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values], rotation=45)
        axis.minorticks_off()
        axis.axvline(here.loc[here["centre"], "value"].max(), color=GREY, linestyle=":")
        axis.set(xlabel=names[name], ylabel="score × 100")
    _share_legend(figure, axes, len(parameters), columns=4)
    return figure


def units(table: pd.DataFrame) -> Figure:
    """Share of heads and of neurons that survive in each layer of each task.

    Args:
        table: what `tables.units` gave, of one method and rate.
    """
    figure, axes = plt.subplots(1, 2, figsize=(1.25 * WIDTH, 3.4), sharey=True)
    for axis, kind, hues in zip(axes, ("heads", "neurons"), ("Blues", "Oranges"), strict=True):
        some = table[table["kind"] == kind]
        some = some.assign(task=[TASK_NAMES.get(task, task) for task in some["task"]])
        grid = some.pivot_table(index="layer", columns="task", values="share", sort=False)
        sns.heatmap(
            100 * grid.sort_index(ascending=False),
            ax=axis,
            cmap=hues,
            vmin=0,
            vmax=100 * some["share"].max(),
            annot=True,
            fmt=".0f",
            annot_kws={"fontsize": "small"},
            cbar_kws={"label": f"surviving {kind} (%)"},
        )
        axis.set(title=kind.capitalize(), xlabel="", ylabel="layer")
        axis.tick_params(axis="x", rotation=45)
        axis.tick_params(axis="y", rotation=0)
    axes[1].set_ylabel("")
    return figure


def search_time(runs: pd.DataFrame) -> Figure:
    """Milliseconds of the mask search of each method, one point per run."""
    done = runs[(runs["state"] == "done") & (runs["search"] > 0)]
    figure = _points(done.assign(milliseconds=1000 * done["search"]), "milliseconds")
    figure.axes[0].set(
        xscale="log",
        title="How long the mask search takes",
        xlabel="all mask searches of a run (ms)",
    )
    return figure


def _score_name(runs: pd.DataFrame) -> str:
    """What the score of a task's runs is called on an axis."""
    metric = next(iter(runs["metric"].dropna()), "score")
    return f"{METRIC_NAMES.get(metric, metric)} × 100"


def _points(runs: pd.DataFrame, value: str) -> Figure:
    """A number of each run beside its method: colours tell the tasks apart, shapes the rates."""
    tasks, labels = (list(dict.fromkeys(runs[name])) for name in ("task", "label"))
    rates = sorted(set(runs["rate"]))
    colours = sns.color_palette("colorblind", len(tasks))
    figure, axes = plt.subplots(figsize=(1.25 * WIDTH, 0.9 + 0.55 * len(labels)))
    for _, run in runs.iterrows():
        task = tasks.index(run["task"])
        # A lane of its own for each task, so that points do not hide one another.
        place = labels.index(run["label"]) + 0.7 * ((task + 0.5) / len(tasks) - 0.5)
        marker = MARKERS[rates.index(run["rate"]) % len(MARKERS)]
        axes.plot(float(run[value]), place, marker, color=colours[task], markersize=6)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    keys = [
        Line2D([], [], color=colour, linewidth=4, label=TASK_NAMES.get(task, task))
        for task, colour in zip(tasks, colours, strict=True)
    ]
    keys += [
        Line2D([], [], color="0.3", marker=marker, linestyle="", label=f"{rate:.0%} gone")
        for rate, marker in zip(rates, MARKERS, strict=False)
    ]
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return figure


def _share_legend(figure: Figure, axes: np.ndarray, used: int, columns: int) -> None:
    """Hide the panels beyond those used; one legend below for all."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns)
