"""`15_performance`: what pruning and pruned models cost, from runs of `09_benchmark`."""

from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREY, MARKERS, WIDTH, greys, panels
from kprune.laboratory.tables import called, collect, one_at_a_time

# What each axis is in, under its panels.
AXES = {"tokens": "tokens in all", "width": "hidden size", "length": "tokens of a text"}


def performance(records: str | Path) -> pd.DataFrame:
    """One row for each run of `09_benchmark` that an experiment expects, finished or not.

    Columns as in `collect`; and, of finished runs, `F` (time of pruning in passes: plain forward
    passes over the sample), `limit` (passes that the matrix products of the faithful method alone
    would take; none where scores are kept), `memory` (MB above the loaded model), `steps` (passes
    of each), `gains` (how many times as long without each idea), `kept` (unit numbers of each
    sublayer, of a real task) and `inference` (a list of batch size, length, and seconds of both
    models).
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
            text = f"- {called([task])[0]}, {run['tokens']:,} tokens: {run['F']:.1f} passes, "
            text += f"{run['F'] / run['limit']:.1f} times the limit by count, and "
            text += f"{run['memory']:.0f} MB above the model"
            text += f"; with scores kept {kept.mean():.1f} passes" if len(kept) else ""
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
    parts = [done[:0].assign(axis="", value=0.0)]
    real = real[(real["reuse"] == 0) & (real["multiple"] == 1) & (real["precision"] == "auto")]
    if len(real):
        groups = [some for _, some in real.groupby(["task", "rate"], sort=False)]
        most = max(groups, key=lambda some: some["tokens"].nunique())
        if most["tokens"].nunique() > 1:
            parts.append(most.assign(axis="tokens", value=most["tokens"]).sort_values("value"))
    with suppress(ValueError):  # where none of them varies, as yet
        varied = one_at_a_time(shaped, ("layers", "width", "length"))
        varied = varied.rename(columns={"parameter": "axis"})
        # A length of 0 stands for those of the task's own sequences.
        parts.append(varied[(varied["axis"] != "length") | (varied["value"] > 0)])
    numbers = ["value", "seconds", "F", "memory"]
    table = pd.concat(parts, ignore_index=True)[["axis", *numbers]]
    return table.astype(dict.fromkeys(numbers, float))


def grown(table: pd.DataFrame) -> str:
    """How time and memory grow, in words, from what `growth` gave: from the least to the most."""
    found = []
    for name, some in table.groupby("axis", sort=False):
        first, last = (some.loc[some["value"].agg(end)] for end in ("idxmin", "idxmax"))
        words = [f"{last[what] / first[what]:.2g}" for what in ("value", "seconds", "memory")]
        ends = f"{first['value']:,.0f} to {last['value']:,.0f}"
        found.append(f"{AXES.get(name, name)} (×{words[0]}, {ends}): time ×{words[1]}, ")
        found[-1] += f"memory ×{words[2]}"
    return f"- Growth with {'; with '.join(found)}." if found else ""


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


def alike(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs on samples that were pruned with and without rounding; all of them without such."""
    keys = ["task", "tokens", "seed", "rate"]
    both = runs.groupby(keys)["multiple"].transform("nunique") > 1
    return runs[both] if both.any() else runs


def inference(runs: pd.DataFrame) -> pd.DataFrame:
    """Speed-up of pruned models by batch size and length, mean over runs of `performance`."""
    rows = runs[["rate", "multiple", "inference"]].explode("inference", ignore_index=True)
    work = pd.DataFrame([*rows.pop("inference")]).astype({"length": int, "batch size": int})
    keys = ["rate", "multiple", "length", "batch size"]
    table = rows.join(work).assign(**{"speed-up": work["dense"] / work["pruned"]})
    return table.groupby(keys, as_index=False)["speed-up"].mean()


def in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of `performance` by task, size of sample and precision, as the table shows them."""
    order = ["task", "tokens", "precision", "reuse", "multiple", "rate"]
    return runs.sort_values(order, kind="stable")


def but_for(runs: pd.DataFrame) -> list[str]:
    """In what each run differs from the paper's method, in words."""
    return [
        ", ".join(
            ["in fp32"] * (precision == "full")
            + ["scores kept"] * (reuse > 0)
            + [f"neurons in {multiple}s"] * (multiple > 1)
        )
        for precision, reuse, multiple in zip(
            runs["precision"], runs["reuse"], runs["multiple"], strict=True
        )
    ]


def draw_steps(runs: pd.DataFrame) -> Figure:
    """Time of each step in passes, a bar per run, with the limit by count; from `performance`."""
    runs, names = in_order(runs), []
    each = zip(called(runs["task"]), runs["tokens"], runs["rate"], but_for(runs), strict=True)
    for task, tokens, rate, changed in each:
        parts = [task, f"{tokens / 1000:g}K", f"{rate:.0%}", *filter(None, [changed])]
        names.append(", ".join(parts))
    times = pd.DataFrame(list(runs["steps"]), index=names).fillna(0.0)
    shares = times.div(times.sum(axis=1), axis=0)
    unseen = {step: f"{step} (under 1%)" for step in shares if shares[step].max() < 0.01}
    figure, axes = plt.subplots(figsize=(1.3 * WIDTH, 0.6 + 0.32 * len(names)))
    style = {"stacked": True, "width": 0.8, "linewidth": 1, "color": greys(times.shape[1])}
    times.rename(columns=unseen).plot.barh(ax=axes, **style)
    limits, places = runs["limit"].astype(float), range(len(names))
    axes.plot(limits, places, "k|", markersize=12, markeredgewidth=2, label="limit by count")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    most = 100 * shares["knowledge"]
    axes.set(
        title=f"Measuring knowledge takes {most.min():.0f} to {most.max():.0f}% of the time",
        xlabel="time (passes over the sample)",
        ylabel="task, tokens, FLOPs removed",
    )
    axes.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_growth(table: pd.DataFrame) -> Figure:
    """Time and memory along each axis; from `growth`.

    The dashed line is time in proportion, from the first point; fewer than four are not joined.
    """
    names = table["axis"].unique()
    if not len(names):
        figure, axis = plt.subplots(figsize=(WIDTH, 1))
        axis.annotate("nothing varies yet", (0.5, 0.5), xycoords="axes fraction", ha="center")
        axis.set_axis_off()
        return figure
    figure, axes = panels(2 * len(names), len(names), (1.3 * WIDTH, 2.2), more=0, sharex="col")
    for (top, bottom), name in zip(axes.T, names, strict=True):
        here = table[table["axis"] == name].sort_values("value")
        first, last = here.iloc[0], here.iloc[-1]
        end = 1.08 * last["value"]
        for axis, value in ((top, "seconds"), (bottom, "memory")):
            axis.plot(here["value"], here[value], "o-" if len(here) > 3 else "o", color="0.25")
            axis.set(xlim=(0, end), ylim=(0, 1.15 * here[value].max()))
            more = f"{last[value] / first[value]:.2g}× the "
            axis.set_title(more + ("time" if value == "seconds" else "memory"), fontsize="medium")
        if name != "length":  # which leaves the number of tokens as it is
            slope = first["seconds"] / first["value"]
            top.plot([0, end], [0, slope * end], color=GREY, linestyle="--", zorder=1)
        bottom.set_xlabel(f"{AXES.get(name, name)}, ×{last['value'] / first['value']:.2g}")
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
    style = {"palette": greys(count), "markers": [*MARKERS[:count]]}
    style |= {"linestyle": "none", "dodge": 0.3 * (count > 1)}
    sns.pointplot(table, y="idea", x="ratio", hue="task", order=order, ax=axes, **style)
    axes.grid(axis="y", visible=True)
    axes.axvline(1, color=GREY, linewidth=1.2)
    least = table.groupby("idea")["ratio"].min()
    many = f"{(least > 1.5).sum()} of {len(least)} ideas"
    axes.set_title(f"{many} save a third or more on every task", fontsize="medium")
    axes.set(
        xlabel="time of its part without it over time with it (logarithmic)",
        ylabel="",
        xscale="log",
        xlim=(min(1.0, 0.95 * table["ratio"].min()), None),
    )
    axes.set_xticks(range(1, 1 + int(max(2, table["ratio"].max()))))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(title=None)
    return figure


def draw_inference(table: pd.DataFrame) -> Figure:
    """Speed-up against batch size, a line per length and rounding; from `inference`."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    lengths = sorted(set(table["length"]))
    looks = dict(zip(lengths, zip(greys(len(lengths)), MARKERS, strict=False), strict=True))
    for (length, multiple), here in table.groupby(["length", "multiple"]):
        shade, marker = looks[length]
        style = {"marker": marker, "color": shade, "linestyle": "--" if multiple > 1 else "-"}
        style["label"] = f"{length} tokens" + (f", neurons in {multiple}s" * (multiple > 1))
        style["markerfacecolor"] = "white" if multiple > 1 else shade
        axes.plot(here["batch size"].astype(str), here["speed-up"], **style)
    ideal = 1 / (1 - table["rate"].iloc[0])
    axes.axhline(ideal, color=GREY, linestyle=":", linewidth=1.8, label="ideal, 1/(1 − rate)")
    ends = [table["batch size"].min(), table["batch size"].max()]
    small, large = (table.loc[table["batch size"] == size, "speed-up"] for size in ends)
    words = f"{_times(small)} at batch size {ends[0]}, {_times(large)} at {ends[1]}; "
    axes.set_title(f"{words}the ideal is {ideal:.3g}×", fontsize="medium")
    axes.set(
        xlabel="batch size (sequences)",
        ylabel="speed-up over the teacher (×)",
        ylim=(0, 1.1 * ideal),
    )
    axes.legend(title=None)
    return figure


def _times(some: pd.Series) -> str:
    low, high = f"{some.min():.1f}", f"{some.max():.1f}"
    return f"{low}×" if low == high else f"{low} to {high}×"
