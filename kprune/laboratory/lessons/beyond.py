"""The figures of lesson 08, and what some of them measure."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from kprune.data.batching import Batch
from kprune.encoders import Encoder
from kprune.laboratory.evaluation import DevSet, check_dev, predict, scores
from kprune.laboratory.figures import (
    COLOURS,
    GREY,
    METHODS,
    WIDTH,
    short_name,
    standard_error,
)
from kprune.report import Report
from kprune.surgery import masked

LEAST = 1e-12  # what a logarithmic axis shows of zero


def judged(
    model: PreTrainedModel, dev: DevSet, wanted: Sequence[Tensor], gamma: float
) -> tuple[float, Tensor]:
    """A model's score on a dev set, and its K_pred to outputs that are wanted, one a sequence."""
    kind, found = Encoder(model).kind, predict(model, dev)
    pairs = zip(found, wanted, strict=True)
    lost = [kind.distance(z[None], aim[None], gamma, None) for z, aim in pairs]
    made = scores(dev, found, *check_dev(model, dev))
    return made[dev.task.metric], torch.cat(lost).double().cpu()


def silenced(
    encoder: Encoder, place: int, batches: Sequence[Batch], gamma: float
) -> list[tuple[int, float]]:
    """Units of a sublayer, up to twelve heads or six neurons, and the mean K_pred lost without."""
    sublayer, found = encoder.sublayers[place], []
    inputs = [encoder.run(batch, stop=place) for batch in batches]
    wanted = [
        encoder.run(batch, hidden, place) for batch, hidden in zip(batches, inputs, strict=True)
    ]
    for unit in range(0, sublayer.units, max(1, sublayer.units // (6 if place % 2 else 12))):
        mask, lost = torch.ones(sublayer.units), []
        mask[unit] = 0
        with masked(sublayer, mask):
            for batch, hidden, aim in zip(batches, inputs, wanted, strict=True):
                z = encoder.run(batch, hidden, place)
                lost.append(encoder.kind.distance(z, aim, gamma, batch.mask))
        found.append((unit, torch.cat(lost).mean().item()))
    return found


def gram_of(encoder: Encoder, place: int, batches: Sequence[Batch]) -> Tensor:
    """PᵀP of a sublayer's features over real tokens, float64."""
    found = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        P, _ = encoder.passing(batch, encoder.run(batch, stop=place), place)
        P = P[batch.attention_mask.bool()].double()
        found = found.to(P.device) + P.T @ P
    return found


def after_refit(
    seen: Tensor, unseen: Tensor, W: Tensor, size: int, score: Tensor, share: float
) -> float:
    """Error of the output on unseen text, 0 to 1, with a share of the units, refit on the sample.

    `seen` and `unseen` are PᵀP of both, `size` the features of a unit; the best-scored ones stay.
    """
    best = score.topk(max(1, round(share * len(score)))).indices
    kept = torch.zeros_like(score).index_fill(0, best, 1).bool().repeat_interleave(size)
    inner = seen[kept][:, kept] + 1e-7 * seen.diagonal()[kept].diag()
    rest = W.clone()
    rest[kept] -= torch.linalg.solve(inner, seen[kept] @ W)
    return ((rest * (unseen @ rest)).sum() / (W * (unseen @ W)).sum()).item()


def refit_errors(
    grams: tuple[Tensor, Tensor], W: Tensor, size: int, ways: Mapping[str, Tensor]
) -> pd.DataFrame:
    """`after_refit` × 100 of units chosen by several scores, and of several shares kept."""
    rows = [
        (100 * share, by, 100 * after_refit(*grams, W, size, score, share))
        for by, score in ways.items()
        for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    ]
    return pd.DataFrame(rows, columns=["kept", "by", "error"])


def ranks(table: pd.DataFrame) -> list[float]:
    """Rank correlations of `lost` and `estimate`, of heads and of neurons."""
    parts = (table[table["units"] == kind][["lost", "estimate"]] for kind in COLOURS)
    return [part.corr("spearman").iloc[0, 1] for part in parts]


def foretold(table: pd.DataFrame) -> Figure:
    """K_pred that is lost with a unit over its estimate; columns `units`, `lost`, `estimate`."""
    figure, panels = plt.subplots(1, 2, figsize=(1.25 * WIDTH, 3.6))
    for axes, kind, rank in zip(panels, COLOURS, ranks(table), strict=True):
        some = table[table["units"] == kind]
        x, y = (np.clip(some[name], LEAST, None) for name in ("lost", "estimate"))
        style = {"color": COLOURS[kind], "marker": "so"[kind == "neurons"]}
        axes.scatter(x, y, 28, **style, alpha=0.7, linewidths=0)
        ends = max(x.min(), y.min()), min(x.max(), y.max())
        axes.plot(ends, ends, color=GREY, linestyle="--", zorder=0, label="exact")
        axes.set(
            title=f"{kind.capitalize()}: rank correlation {rank:.2f}",
            xlabel="$K_\\mathrm{pred}$ lost when the unit is silenced",
            xscale="log",
            yscale="log",
        )
        axes.legend(loc="upper left")
    panels[0].set_ylabel("estimate, from one pass")
    return figure


def chosen(table: pd.DataFrame, name: str) -> Figure:
    """Error on unseen text after the refit, by share of units kept; columns `kept`, `by`, `error`.

    `name` is the sublayer's.
    """
    figure, axes = plt.subplots()
    looks = ({"color": GREY}, {"color": METHODS["K-prune"][0]}, {"color": METHODS["K-prune+"][0]})
    for (by, some), look, marker in zip(table.groupby("by", sort=False), looks, "XoD", strict=True):
        axes.plot(some["kept"], some["error"], marker=marker, label=by, **look)
    axes.set(
        yscale="log",
        title="The same refit, of units that were chosen differently",
        xlabel=f"units of the {name} kept (%)",
        ylabel="output error on unseen text (%)",
        ylim=(None, 1.6 * table["error"].max()),
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(title="units chosen")
    return figure


def weights(squares: Sequence[float], worth: Sequence[float]) -> Figure:
    """How much of all sublayers' squared output, and of all units' worth, each sublayer has."""
    figure, axes = plt.subplots(figsize=(1.15 * WIDTH, 3.4))
    places = np.arange(len(squares))
    labels = ("squared output", GREY), ("worth of its units, in $K_\\mathrm{pred}$", "black")
    for side, (label, colour), values in zip((-0.2, 0.2), labels, (squares, worth), strict=True):
        share = 100 * np.asarray(values) / np.sum(values)
        axes.bar(places + side, share, 0.4, color=colour, label=label)
    names = [*map(short_name, places)]
    axes.set_xticks(places, names, rotation=45, fontsize="small")
    axes.grid(axis="x", visible=False)
    axes.set(title="Where outputs are large, and where they matter", ylabel="share of all (%)")
    axes.legend()
    return figure


def copied(with_: Sequence[float], without: Sequence[float], tokens: int) -> Figure:
    """K_pred on unseen text without and with copies, a line for each sample of so many tokens."""
    figure, axes = plt.subplots(figsize=(0.75 * WIDTH, 3.4))
    colour, marker = METHODS["K-prune+"]
    for pair in zip(without, with_, strict=True):
        axes.plot((0, 1), pair, color=colour, marker=marker, alpha=0.5)
    axes.plot((0, 1), (np.mean(without), np.mean(with_)), color="black", marker="_", ms=18)
    axes.set_xticks((0, 1), ("texts alone", "and noised copies"))
    axes.grid(axis="x", visible=False)
    axes.set(
        title=f"Samples of {tokens:,} tokens, and their mean (black)",
        ylabel="mean $K_\\mathrm{pred}$ on the dev set",
        xlim=(-0.4, 1.4),
        ylim=(0, 1.1 * max(*with_, *without)),
    )
    return figure


def survivors(reports: Mapping[str, Report]) -> Figure:
    """Heads and neurons left in each layer, for two methods by name, the second one filled."""
    figure, panels = plt.subplots(1, 2, figsize=(1.25 * WIDTH, 3.2))
    for axes, kind in zip(panels, COLOURS, strict=True):
        for side, face, (name, report) in zip(
            (-0.2, 0.2), ("none", COLOURS[kind]), reports.items(), strict=True
        ):
            left = getattr(report, kind)
            places = np.arange(1, len(left) + 1)
            style = {"facecolor": face, "edgecolor": COLOURS[kind], "linewidth": 1.4}
            axes.bar(places + side, left, 0.36, label=name, **style)
        axes.set(title=f"{kind.capitalize()} that stay", xlabel="layer", xticks=places)
        axes.grid(axis="x", visible=False)
        axes.legend()
    panels[0].set_ylabel("units")
    return figure


def scored(runs: Sequence[tuple[str, float, Tensor]], metric: str, examples: int) -> pd.DataFrame:
    """What `judged` found, by name, with standard errors; scores × 100."""
    rows = {}
    for name, score, lost in runs:
        error = 100 * standard_error(score, examples, metric)
        both = f"{100 * score:.1f}" + f" ± {error:.1f}" * (error > 0)
        rows[name] = both, f"{lost.mean():.3f} ± {lost.std() / len(lost) ** 0.5:.3f}"
    return pd.DataFrame.from_dict(rows, orient="index", columns=[f"{metric} × 100", "K_pred"])
