"""Lesson 02: its figures, what two of them measure, and what it begins with."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from kprune.data.batching import Batch, collate
from kprune.encoders import Encoder, Sublayer
from kprune.knowledge import Importance, Weighted
from kprune.laboratory.figures import BLUE, COLOURS, GREEN, KINDS, WIDTH
from kprune.mask_search import kpms
from kprune.pruning import steps
from kprune.sampling import Sample
from kprune.state import State
from kprune.surgery import keep_units, masked

LEAST = 1e-30  # what a logarithmic axis shows of zero
FEW = 48  # sequences of a sample, for what is done in float64


def minibatches(sample: Sample, device: torch.device | str = "cpu") -> list[Batch]:
    """A sample in the order of its draw, in minibatches of 32 (of 12 for spans)."""
    rows, size = sample.examples, sample.task.minibatch
    parts = (rows[i : i + size] for i in range(0, len(rows), size))
    return [collate(part, sample.tokenizer.pad_token_id).to(device) for part in parts]


def ones(sublayers: Sequence[Sublayer]) -> list[Tensor]:
    """Masks that leave every feature as it is, [features] of each sublayer."""
    return [torch.ones_like(sublayer.output.weight[0]) for sublayer in sublayers]


def same(own: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Assert that tensors are equal."""
    for one, other in zip(own, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-9 * other.abs().max()
    print("equal to nine digits")


def standing(teacher: Encoder, student: Encoder, sample: Sample, target: int) -> State:
    """Teacher and a student that is pruned below `target`, at the input of that sublayer."""
    state = State(teacher, student, sample)
    state.outputs = [teacher.run(batch) for batch in state.batches]
    for t in range(target):
        state.advance(t)
    return state


def halfway(model: PreTrainedModel, sample: Sample, rate: float, target: int, **options) -> State:
    """K-prune stopped at the input of `target`, in float64 and on the first few of the sample."""
    *_, last = islice(steps(model, sample, rate=rate, **options), target)
    pair = (Encoder(copy.deepcopy(m).double()) for m in (model, last.state.student.model))
    few = replace(sample, examples=sample.examples[:FEW], labels=None)
    return standing(*pair, few, target)


def without_head(teacher: Encoder, sample: Sample, head: int = 0) -> State:
    """A student that lacks a head of its first layer, at the input of that layer's neurons."""
    student = teacher.copy()
    keep_units(student.sublayers[0], torch.arange(student.sublayers[0].units) != head)
    return standing(teacher, student, sample, 1)


def written(heads: Sequence[Tensor]) -> Figure:
    """S_rep of each head, [heads] for each layer from the bottom, and the layers' means."""
    figure, axes = plt.subplots()
    for layer, scores in enumerate(heads, 1):
        y = np.clip(scores.numpy(force=True), LEAST, None)
        labels = ("a head", "mean of the layer") if layer == 1 else (None, None)
        x = layer + np.linspace(-0.25, 0.25, len(y))
        style = {"color": BLUE, "marker": "s", "linewidths": 0, "alpha": 0.8}
        axes.scatter(x, y, 28, **style, label=labels[0])
        x = [layer - 0.35, layer + 0.35]
        axes.plot(x, [y.mean()] * 2, color="black", linewidth=2, label=labels[1])
    least = 1 + int(torch.stack([scores.mean() for scores in heads]).argmin())
    axes.set_xticks(range(1, len(heads) + 1))
    axes.set(
        title=f"What a head writes: least in layer {least}",
        xlabel="layer",
        ylabel="$S_\\mathrm{rep}$ of a head",
        yscale="log",
    )
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower right")
    return figure


@torch.no_grad()
def silenced(
    state: State, gamma: float, S_pred: Sequence[Tensor], S_rep: Sequence[Tensor]
) -> pd.DataFrame:
    """By how much silencing one unit changes the mean K_pred, beside the unit's two scores.

    From the sublayer where `state` stands up: every head, and half as many neurons, evenly
    spaced. Scores are [features] of each of those sublayers.
    """
    student, hidden, rows = state.student, [*state.student_hidden], []

    def lost(start: int) -> float:
        found = []
        for batch, states, wanted in zip(state.batches, hidden, state.outputs, strict=True):
            z = student.run(batch, states, start)
            found.append(state.kind.distance(z, wanted, gamma, batch.mask).sum().item())
        return sum(found) / len(state.sample.examples)

    before = lost(state.place)
    heads = student.sublayers[-2].units
    many = {"MHA": heads, "FFN": max(1, heads // 2)}  # to silence of each sublayer
    for sublayer, *scores in zip(student.sublayers[state.place :], S_pred, S_rep, strict=True):
        scores = [score.view(-1, sublayer.unit_size).mean(1) for score in scores]
        for unit in range(0, sublayer.units, max(1, sublayer.units // many[sublayer.kind])):
            mask = torch.ones(sublayer.units)
            mask[unit] = 0
            with masked(sublayer, mask):
                change = lost(sublayer.place) - before
            rows.append((KINDS[sublayer.kind], *(s[unit].item() for s in scores), change))
        on = sublayer.place, sublayer.place + 1
        hidden = [student.run(b, h, *on) for b, h in zip(state.batches, hidden, strict=True)]
    return pd.DataFrame(rows, columns=["units", "S_pred", "S_rep", "change"])


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of the scores of units with what `silenced` found, by kind of unit."""
    table = table.assign(size=table["change"].abs())
    pairs = {
        "S_pred and size of the change": ("S_pred", "size"),
        "S_pred and change, with its sign": ("S_pred", "change"),
        "S_rep and size of the change": ("S_rep", "size"),
    }
    found = {
        name: {kind: some[one].corr(some[other], "spearman") for kind, some in kinds}
        for kinds in [[*table.groupby("units")]]
        for name, (one, other) in pairs.items()
    }
    return pd.DataFrame(found).rename_axis(None)


def truth(table: pd.DataFrame) -> Figure:
    """Size of the change that silencing a unit makes, over S_pred; hollow where K_pred falls."""
    figure, panels = plt.subplots(1, 2, figsize=(1.25 * WIDTH, 3.6), sharey=True)
    ranks = agreement(table)["S_pred and size of the change"]
    for axes, (kind, some) in zip(panels, table.groupby("units"), strict=True):
        for rises, label in ((True, "K_pred rises"), (False, "K_pred falls")):
            here = some[(some["change"] > 0) == rises]
            x, y = (np.clip(here[n].abs(), LEAST, None) for n in ("S_pred", "change"))
            face = COLOURS[kind] if rises else "none"
            label = f"${label[0]}_{{pred}}${label[6:]}"
            style = {"edgecolors": COLOURS[kind], "marker": "so"[kind == "neurons"]}
            axes.scatter(x, y, 28, facecolors=face, label=label, **style)
        axes.set(
            title=f"{kind.capitalize()}: rank correlation {ranks[kind]:.2f}",
            xlabel="$S_\\mathrm{pred}$, by gradients",
            xscale="log",
            yscale="log",
        )
        axes.legend(loc="upper left", fontsize="small")
    panels[0].set_ylabel("size of the change in $K_\\mathrm{pred}$\nwhen the unit is silenced")
    return figure


def decided(model: PreTrainedModel, sample: Sample, rate: float, **options) -> pd.DataFrame:
    """What the predictive part does in a run: its share of importance, and whom it keeps.

    A row for each target of a run at that rate: the `share` in per cent of all scores from there
    up together and in the `typical` (median) unit's, the units `kept`, and the `saved` among them,
    which representation alone would remove.
    """
    writing = Importance(None, combine=Weighted(options["lam"], options["mu"]))
    rows, alone, length = [], [], sample.length
    budget = (1 - rate) * Encoder(model).flops(length)
    for step in steps(model, sample, rate=rate, **options):
        alone = alone or step.importance  # no gradient is taken at the first
        prices = [sub.unit_flops(length) for sub in step.state.student.sublayers[step.t :]]
        pairs = [*zip(alone, prices, strict=True)]
        costs = torch.cat([torch.full_like(score, price) for score, price in pairs])
        keep, _ = kpms(torch.cat([score / price for score, price in pairs]), costs, budget)
        whole, part = torch.cat(step.importance), torch.cat(alone)
        share, typical = 1 - part.sum() / whole.sum(), (1 - part / whole).median()
        saved = int((step.keep & ~keep[: len(step.keep)]).sum())
        kept = int(step.keep.sum())
        rows.append((rate, step.t, 100 * share.item(), 100 * typical.item(), kept, saved))
        budget -= kept * prices[0]
        if len(prices) > 1:
            alone = writing(step.state, step.t + 1)
    return pd.DataFrame(rows, columns=["rate", "t", "share", "typical", "kept", "saved"])


def decisions(table: pd.DataFrame) -> Figure:
    """The predictive part along a run, by rate: its share of importance, and whom it keeps.

    High points of the highest rate tell how many of how many units were saved: heads are few.
    """
    figure, (shares, saved) = plt.subplots(1, 2, figsize=(1.25 * WIDTH, 3.6))
    styles = zip((GREEN, "0.45"), "os", strict=True)
    table = table.assign(percent=100 * table["saved"] / table["kept"].clip(lower=1))
    runs = sorted(table.groupby("rate"), reverse=True)
    for (rate, run), (colour, marker) in zip(runs, styles, strict=False):
        style = {"color": colour, "marker": marker, "label": f"rate {rate:g}"}
        shares.plot(run["t"], run["share"], **style)
        saved.plot(run["t"], run["percent"], **style)
    _, highest = runs[0]
    rises = highest["percent"].shift(-1, fill_value=0) - highest["percent"]
    for row, rise in zip(highest.itertuples(), rises, strict=True):
        if row.percent < 5:
            continue
        flat = abs(rise) < 5  # else to the right, on that side of the line where it is not
        style = {"xytext": (0, 6) if flat else (6, 0), "textcoords": "offset points"}
        style |= {"ha": "center" if flat else "left", "va": "top" if rise > 5 else "bottom"}
        label = f"{row.saved}/{row.kept}"
        saved.annotate(label, (row.t, row.percent), fontsize="small", **style)
    shares.set(
        title="A small part of all importance …",
        xlabel="target sublayer t",
        ylabel="predictive part of importance (%)",
        ylim=(-3, 103),
    )
    saved.set(
        title="… decides where it is uneven",
        xlabel="target sublayer t (numbers: units saved/kept)",
        ylabel="kept units that representation\nalone would remove (%)",
        ylim=(-3, 103),
    )
    for axes in (shares, saved):
        axes.set_xticks(sorted(set(table["t"])))
        axes.legend()
    return figure
