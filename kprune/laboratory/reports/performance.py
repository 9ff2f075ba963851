"""`15_performance`: what pruning and pruned models cost, from runs of `09_benchmark`."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREEN, GREY, MARKERS, PALETTE, WIDTH, called, panels
from kprune.laboratory.tables import collect, one_at_a_time


def performance(records: str | Path) -> pd.DataFrame:
    """One row for each run of `09_benchmark` that an experiment expects, finished or not.

    Columns as in `collect`; and, of finished runs, `F` (time of pruning in plain forward passes
    over the sample), `limit` (F that the matrix products of the faithful method alone would take;
    none where scores are kept), `memory` (MB above the loaded model), `steps` (F of each), `gains`
    (how many times as long without each idea), `kept` (unit numbers of each sublayer, of a real
    task) and `inference` (a list of batch size, length, and seconds of both models).
    """
    table = collect(records)
    found = {}
    for number, row in table[table["state"] == "done"].iterrows():
        extra = row["extra"]
        limit, one_pass = extra["limit"], extra["pass seconds"]
        products = limit["passes"] * limit["operations"] / limit["rate"] / one_pass
        found[number] = {
            "F": row["passes"],
            "limit": None if row["reuse"] else products,
            "memory": float(extra["peak above the model (MB)"]),
            "steps": {step: spent / one_pass for step, spent in row["steps"].items()},
            **{name: extra.get(name) for name in ("gains", "kept", "inference")},
        }
    added = pd.DataFrame.from_dict(found, orient="index")
    joined = table.drop(columns=["memory", "steps"]).join(added)
    joined.attrs = table.attrs
    return joined


def answer(runs: pd.DataFrame) -> str:
    """Time against the limit and against kept scores, in words, from what `performance` gave.

    Of the runs that take out 80%, at the size of sample that most tasks have.
    """
    real = runs[(runs["state"] == "done") & (runs["layers"] == 0) & (runs["rate"] == 0.8)]
    real = real[(real["multiple"] == 1) & (real["precision"] == "auto")]
    sizes = real.groupby("tokens")["task"].nunique()
    real = real[real["tokens"] == sizes[sizes == sizes.max()].index.max()]
    found = []
    for task, some in real.groupby("task", sort=False):
        kept = some[some["reuse"] > 0]["F"].astype(float)
        for _, run in some[some["reuse"] == 0].iterrows():
            text = f"- {called([task])[0]}, {run['tokens']:,} tokens: {run['F']:.1f} F, "
            text += f"{run['F'] / run['limit']:.1f} times the limit by count, and "
            text += f"{run['memory']:.0f} MB above the model"
            text += f"; with scores kept {kept.mean():.1f} F" if len(kept) else ""
            found.append(text + ".")
    return "\n".join(found)


def growth(runs: pd.DataFrame) -> pd.DataFrame:
    """Time and memory along one axis at a time, from what `performance` gave.

    Rows `axis` ("tokens", "layers", "width", "length"), `value`, `seconds`, `F` and `memory` (MB).
    Tokens vary on the real task that has most sizes of sample; the shape with random weights,
    around the shape that the runs share most.
    """
    done = runs[runs["state"] == "done"]
    real, shaped = done[done["layers"] == 0], done[done["layers"] > 0]
    parts = []
    real = real[(real["reuse"] == 0) & (real["multiple"] == 1) & (real["precision"] == "auto")]
    if len(real):
        groups = [some for _, some in real.groupby(["task", "rate"], sort=False)]
        most = max(groups, key=lambda some: some["tokens"].nunique())
        if most["tokens"].nunique() > 1:
            parts.append(most.assign(axis="tokens", value=most["tokens"]).sort_values("value"))
    if len(shaped):
        varied = one_at_a_time(shaped, ("layers", "width", "length"))
        varied = varied.rename(columns={"parameter": "axis"})
        # A length of 0 stands for those of the task's own sequences.
        parts.append(varied[(varied["axis"] != "length") | (varied["value"] > 0)])
    numbers = ["value", "seconds", "F", "memory"]
    table = pd.concat(parts, ignore_index=True)[["axis", *numbers]]
    return table.astype(dict.fromkeys(numbers, float))


def gains(runs: pd.DataFrame) -> pd.DataFrame:
    """How many times as long pruning's parts take without each idea: `idea`, `task`, `ratio`."""
    each = zip(runs["task"], runs["gains"], strict=True)
    rows = [(idea, task, ratio) for task, gains in each for idea, ratio in gains.items()]
    return pd.DataFrame(rows, columns=["idea", "task", "ratio"])


def precision(runs: pd.DataFrame) -> pd.DataFrame:
    """What low precision of the ranking passes changes, from what `performance` gave.

    A row for each run in full precision that has a counterpart: `task`, `tokens`, `rate`; `F` and
    `score` of both, the full one's with the suffix " (full)"; and, of the units that the full one
    keeps, the shares that the other keeps, too, `same heads` and `same neurons`.
    """
    alike = ["model", "task", "rate", "tokens", "seed", "reuse", "multiple"]
    done = runs[(runs["state"] == "done") & (runs["layers"] == 0)]
    full, low = (done[done["precision"] == name] for name in ("full", "auto"))
    both = low.merge(full, on=alike, suffixes=("", " (full)"))
    for kind, first in (("heads", 0), ("neurons", 1)):
        shares = []
        for one, other in zip(both["kept (full)"], both["kept"], strict=True):
            sublayers = [*zip(one[first::2], other[first::2], strict=True)]
            shared = sum(len({*mine} & {*theirs}) for mine, theirs in sublayers)
            shares.append(shared / max(1, sum(len(mine) for mine, _ in sublayers)))
        both[f"same {kind}"] = shares
    shown = ["F (full)", "F", "score (full)", "score", "same heads", "same neurons"]
    return both[["task", "tokens", "rate", *shown]].astype(dict.fromkeys(shown, float))


def inference(runs: pd.DataFrame) -> pd.DataFrame:
    """Speed-up of pruned models by batch size and length, mean over runs of `performance`."""
    rows = runs[["rate", "multiple", "inference"]].explode("inference", ignore_index=True)
    work = pd.DataFrame([*rows.pop("inference")]).astype({"length": int, "batch size": int})
    keys = ["rate", "multiple", "length", "batch size"]
    table = rows.join(work).assign(**{"speed-up": work["dense"] / work["pruned"]})
    return table.groupby(keys, as_index=False)["speed-up"].mean()


def draw_steps(runs: pd.DataFrame) -> Figure:
    """Time of each step in F, a bar per run, with the limit by count; from `performance`."""
    order = ["task", "precision", "reuse", "multiple", "rate", "tokens"]
    runs, names = runs.sort_values(order, kind="stable"), []
    for task, (_, run) in zip(called(runs["task"]), runs.iterrows(), strict=True):
        parts = [task, f"{run['rate']:g}", f"{run['tokens'] / 1000:g}K"]
        parts += ["reuse"] if run["reuse"] else []
        parts += [f"in {run['multiple']}s"] if run["multiple"] > 1 else []
        names.append(", ".join([*parts, *(["full"] if run["precision"] == "full" else [])]))
    shares = pd.DataFrame(list(runs["steps"]), index=names).fillna(0.0)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6 + 0.34 * len(names)))
    colours = [PALETTE[i] for i in (2, 3, 4, 8, 7)][: shares.shape[1]]
    shares.plot.barh(stacked=True, width=0.8, linewidth=1, color=colours, ax=axes)
    limits = runs["limit"].astype(float)
    axes.plot(limits, range(len(names)), "k|", markersize=12, markeredgewidth=2, label="limit")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(
        title="Where the time goes",
        xlabel="time (passes over the sample)",
        ylabel="task, rate, tokens",
    )
    axes.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_growth(table: pd.DataFrame) -> Figure:
    """Time and memory along each axis; from `growth`."""
    names = table["axis"].unique()
    figure, axes = panels(2 * len(names), len(names), (1.2 * WIDTH, 2.1), more=0, sharex="col")
    for (top, bottom), name in zip(axes.T, names, strict=True):
        here = table[table["axis"] == name]
        for axis, value, color in ((top, "seconds", GREEN), (bottom, "memory", PALETTE[4])):
            axis.plot(here["value"], here[value], "o-", color=color)
            axis.set(xlim=(0, 1.08 * here["value"].max()), ylim=(0, 1.15 * here[value].max()))
        top.set_title(name)
        bottom.set_xlabel(name)
        bottom.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}K" if x >= 10_000 else f"{x:g}")
    axes[0, 0].set_ylabel("time (s)")
    axes[1, 0].set_ylabel("peak memory (MB)")
    return figure


def draw_gains(table: pd.DataFrame) -> Figure:
    """A mark per idea and task: time without it over time with it; from `gains`."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    table = table.assign(task=called(table["task"]))
    order = table.groupby("idea")["ratio"].mean().sort_values(ascending=False).index
    count = table["task"].nunique()
    style = {"palette": PALETTE[2 : 2 + count], "markers": [*MARKERS[:count]]}
    style |= {"linestyle": "none", "dodge": 0.3 * (count > 1)}
    sns.pointplot(table, y="idea", x="ratio", hue="task", order=order, ax=axes, **style)
    axes.grid(axis="y", visible=True)
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


def draw_inference(table: pd.DataFrame) -> Figure:
    """Speed-up against batch size, a line per length and rounding; from `inference`."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for (keys, here), marker in zip(table.groupby(["length", "multiple"]), MARKERS, strict=False):
        length, multiple = keys
        label = f"{length} tokens" + (f", neurons in {multiple}s" if multiple > 1 else "")
        axes.plot(here["batch size"].astype(str), here["speed-up"], marker=marker, label=label)
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
