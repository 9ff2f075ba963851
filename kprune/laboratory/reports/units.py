"""`16_units`: the heads and neurons that survive in each layer."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kprune.laboratory.figures import WIDTH
from kprune.laboratory.tables import called, named_by


def surviving(runs: pd.DataFrame) -> pd.DataFrame:
    """Surviving heads and neurons of every layer: mean number and share over seeds."""
    rows = [
        {
            **{name: run[name] for name in ("model", "task", "label", "rate")},
            "kind": kind,
            "layer": layer,
            "kept": kept,
            "share": kept / dense,
        }
        for _, run in runs[runs["state"] == "done"].iterrows()
        for kind in ("heads", "neurons")
        for layer, (kept, dense) in enumerate(zip(run[kind], run[f"dense_{kind}"], strict=True), 1)
    ]
    if not rows:
        raise ValueError("None of these runs is done: there are no units to count.")
    keys = [*named_by(runs), "task", "label", "rate", "kind", "layer"]
    return pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)[["kept", "share"]].mean()


def answer(left: pd.DataFrame) -> str:
    """Where units stay, in words, from what `surviving` gave of one method and rate."""
    found = []
    for kind, some in left.groupby("kind", sort=False):
        layers = 100 * some.groupby("layer")["share"].mean()
        most, least = layers.idxmax(), layers.idxmin()
        empty = some[some["share"] == 0].groupby("layer")["task"].nunique()
        tasks = some["task"].nunique()
        text = f"- Of the {kind} {layers.mean():.0f}% stay in the mean over {tasks} tasks: most in "
        text += (
            f"layer {most} ({layers[most]:.0f}%), fewest in layer {least} ({layers[least]:.0f}%)"
        )
        for layer, count in empty.items():
            text += f"; layer {layer} loses all of them on {count} of {tasks} tasks"
        found.append(text + ".")
    return "\n".join(found)


def draw_units(table: pd.DataFrame) -> Figure:
    """Share of heads and of neurons that survive, from `surviving` of one method and rate."""
    figure, axes = plt.subplots(1, 2, figsize=(1.25 * WIDTH, 3.4), sharey=True)
    table = table.assign(task=called(table["task"]))
    for axis, kind, hues in zip(axes, ("heads", "neurons"), ("Blues", "Oranges"), strict=True):
        some = table[table["kind"] == kind]
        grid = some.pivot_table(index="layer", columns="task", values="share", sort=False)
        style = {"cmap": hues, "vmin": 0, "vmax": 100 * some["share"].max(), "fmt": ".0f"}
        style |= {"annot_kws": {"size": "small"}, "cbar_kws": {"label": f"surviving {kind} (%)"}}
        sns.heatmap(100 * grid.sort_index(ascending=False), ax=axis, annot=True, **style)
        axis.set(title=kind.capitalize(), xlabel="", ylabel="layer")
        axis.tick_params(axis="x", rotation=45)
        axis.tick_params(axis="y", rotation=0)
    axes[1].set_ylabel("")
    label, rate = table[["label", "rate"]].iloc[0]
    title = f"{label}, {rate:.0%} of the FLOPs removed"
    figure.suptitle(title, ha="left", x=0.01, fontweight="bold")
    return figure
