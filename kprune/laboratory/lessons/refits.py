"""The figures of lessons 26 and 27, and the sublayer that lesson 26 mends."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from kprune.data.batching import Batch
from kprune.encoders import Encoder
from kprune.laboratory.figures import COLOURS, GREEN, GREY, METHODS, WIDTH, short_name
from kprune.limits.table import SHARES, LatencyTable
from kprune.pruning import steps
from kprune.sampling import Sample
from kprune.state import State
from kprune.surgery import keep_units

PURPLE = METHODS["K-prune+"][0]


def halfway(
    model: PreTrainedModel, sample: Sample, target: int, keep: float, gamma: float
) -> tuple[State, Tensor]:
    """K-prune+ stopped at the input of `target`, whose units are cut; the mask of those kept.

    80% of the FLOPs go below; `keep` is the share of the target's units, the best ones, that stay.
    """
    options = {"rate": 0.8, "method": "kprune+", "without": "copies", "precision": "full"}
    below = steps(model, sample, gamma=gamma, **options)
    step = next(step for step in below if step.t == target - 1)
    below.close()
    scores = step.importance[1]
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[scores.topk(max(1, round(keep * len(scores)))).indices] = True
    keep_units(step.state.student.sublayers[target], kept)
    return step.state, kept


class Place:
    """Text at the input of a sublayer, in the teacher and in a student that is pruned below it."""

    def __init__(
        self,
        teacher: Encoder,
        student: Encoder,
        place: int,
        batches: Sequence[Batch],
        weights: Callable[[int, Batch], Tensor] | None = None,
    ):
        self.encoders, self.place, self.batches = (teacher, student), place, batches
        runs = ([one.run(batch, stop=place) for batch in batches] for one in self.encoders)
        self.hidden = list(zip(*runs, strict=True))
        ones = (torch.ones_like(batch.attention_mask, dtype=torch.float64) for batch in batches)
        self.weights = [weights(place, batch) for batch in batches] if weights else list(ones)
        self.weight = self.tokens(self.weights)  # of each token
        tenth = [(batch.index % 10 == 0)[:, None] for batch in batches]
        pairs = zip(tenth, self.weights, strict=True)
        self.held = self.tokens([some.expand_as(w) for some, w in pairs])

    def tokens(self, values: Sequence[Tensor]) -> Tensor:
        """A row for each token, padding left out."""
        pairs = zip(values, self.batches, strict=True)
        return torch.cat([value[batch.attention_mask.bool()] for value, batch in pairs])

    def passed(self, encoder: Encoder, which: int) -> list[tuple[Tensor, Tensor]]:
        """Features P and X + Sub(X) of each batch; `which` hidden states enter, 0 the teacher's."""
        pairs = zip(self.batches, self.hidden, strict=True)
        return [encoder.passing(batch, both[which], self.place) for batch, both in pairs]

    def rows(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """P and Y: features of `encoder`, and what its output projection should make of them."""
        wanted = self.tokens([total for _, total in self.passed(self.encoders[0], 0)])
        P, total = map(self.tokens, zip(*self.passed(encoder, 1), strict=True))
        return P, wanted - total + P @ encoder.sublayers[self.place].output.weight.T

    def entering(self) -> list[Tensor]:
        """What the sublayer's input projections are given, in teacher and student."""
        return [
            self.tokens(
                [
                    one.reaching(one.sublayers[self.place].inputs[0], batch, both[n], self.place)
                    for batch, both in zip(self.batches, self.hidden, strict=True)
                ]
            )
            for n, one in enumerate(self.encoders)
        ]

    def off(self, encoder: Encoder) -> np.ndarray:
        """Squared errors of the output by sequence: all tokens alike, and by their weights."""
        both = self.passed(self.encoders[0], 0), self.passed(encoder, 1)
        found = []
        for batch, w, (_, wanted), (_, total) in zip(
            self.batches, self.weights, *both, strict=True
        ):
            each = (wanted - total).square().sum(-1) * batch.attention_mask
            found.append(torch.stack([each.sum(1), (each * w).sum(1)], 1))
        return torch.cat(found).cpu().numpy()


def ridges(table: pd.DataFrame, chosen: float) -> Figure:
    """Output error by ridge, a line for each of the other columns, and the ridge that was chosen.

    Errors are 0 to 1; an infinite `chosen` is not shown.
    """
    figure, axes = plt.subplots()
    looks = (("black", "o"), (GREY, "s"), (GREEN, "D"))
    for name, (colour, marker) in zip(table, looks, strict=False):
        axes.plot(table.index, 100 * table[name], color=colour, marker=marker, label=name)
    if np.isfinite(chosen):
        axes.axvline(chosen, color="0.35", linestyle=":")
        style = {"fontsize": "small", "color": "0.35", "ha": "right", "rotation": 90}
        axes.annotate("chosen", (chosen, 0.03), xycoords=("data", "axes fraction"), **style)
    axes.set(
        xscale="log",
        title="A ridge for what a small sample does not say",
        xlabel="ridge ε, relative to the diagonal of $P^\\top P$",
        ylabel="output error (%)",
        ylim=(0, 135 * table.to_numpy().max()),
    )
    axes.legend(title="on sequences", loc="upper left", ncols=3)
    return figure


def token_weights(weights: Sequence[Tensor], words: Sequence[str]) -> Figure:
    """How much each token of one text counts, in every sublayer from the bottom up."""
    grid = pd.DataFrame([w.cpu().tolist()[: len(words)] for w in weights])
    grid.index = [*map(short_name, range(len(grid)))]
    figure, axes = plt.subplots(figsize=(1.15 * WIDTH, 0.8 + 0.27 * len(grid)))
    most = max(2.0, float(np.quantile(grid, 0.98)))
    style = {"vmin": 0.5, "vmax": most}
    style |= {"cbar_kws": {"label": "weight of the token", "extend": "max"}}
    sns.heatmap(grid[::-1], ax=axes, cmap="viridis", **style)
    names = [word.replace("$", r"\$") for word in words]
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=60, ha="right", fontsize="small")
    axes.tick_params(axis="y", rotation=0, labelsize="small")
    axes.set(title="Where an error would move the prediction", xlabel="", ylabel="")
    return figure


def relative(errors: np.ndarray, plain: np.ndarray) -> tuple[float, float]:
    """The sum of squared errors by sequence over that of others, and its standard error."""
    whole = plain.sum()
    ratio = errors.sum() / whole
    return ratio, ((errors - ratio * plain) ** 2).sum() ** 0.5 / whole


def brought(found: Mapping[str, np.ndarray], plain: str) -> Figure:
    """Errors of refits on unseen text in per cent of the plain one's, with standard errors.

    Arrays are squared errors by sequence, in two columns: all tokens alike, and weighted.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 1.1 + 0.45 * len(found)))
    base, places = found[plain], np.arange(len(found))
    kinds = ("all tokens alike", GREEN, "o", -0.13), ("by what they cost", PURPLE, "D", 0.13)
    for column, (label, colour, marker, side) in enumerate(kinds):
        pairs = [relative(errors[:, column], base[:, column]) for errors in found.values()]
        ratio, spread = np.array(pairs).T
        style = {"color": colour, "fmt": marker, "label": label, "capsize": 3}
        axes.errorbar(100 * ratio, places + side, xerr=100 * spread, **style)
    axes.axvline(100, color=GREY, linestyle="--", zorder=0)
    axes.set_yticks(places, [*found])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(
        title="What each refit brings to one sublayer",
        xlabel="output error on unseen text (% of the paper's), ± one standard error",
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", title="tokens count")
    return figure


def lost_without(lost: Mapping[str, Tensor], whole: str) -> Figure:
    """By how much K_pred on the dev set grows without each ingredient, with standard errors.

    Tensors are K_pred of each text; differences are of the same texts.
    """
    names = [name for name in lost if name != whole]
    gaps = [lost[name] - lost[whole] for name in names]
    figure, axes = plt.subplots(figsize=(WIDTH, 1 + 0.4 * len(names)))
    errors = [(gap.std() / len(gap) ** 0.5).item() for gap in gaps]
    style = {"color": PURPLE, "fmt": "D", "capsize": 3}
    axes.errorbar([gap.mean().item() for gap in gaps], range(len(names)), xerr=errors, **style)
    axes.axvline(0, color=GREY, linestyle="--", zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(y=0.15)
    axes.grid(axis="y", visible=False)
    axes.set(
        title="What a whole run loses without one of them",
        xlabel="growth of mean $K_\\mathrm{pred}$ on the dev set, ± one standard error",
    )
    return figure


def shapes(speed: Mapping[str, float], ideal: float) -> Figure:
    """How many times as fast one pruned model is, at batches of several shapes."""
    figure, axes = plt.subplots(figsize=(WIDTH, 1 + 0.4 * len(speed)))
    bars = axes.barh([*speed], [*speed.values()], color="0.45", height=0.6)
    axes.bar_label(bars, fmt="%.1f", padding=4, fontsize="small")
    axes.axvline(ideal, color=GREY, linestyle="--")
    style = {"fontsize": "small", "color": "0.35", "rotation": 90, "ha": "right", "va": "top"}
    axes.annotate("as its FLOPs say", (ideal, 0.97), xycoords=("data", "axes fraction"), **style)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(
        title="The same FLOPs, other times",
        xlabel="times as fast as the dense model",
        ylabel="sequences × tokens",
        xlim=(0, 1.1 * max(ideal, *speed.values())),
    )
    return figure


def latencies(table: LatencyTable) -> Figure:
    """What heads and neurons add to the time of a layer, marked where copies were timed."""
    figure, axes = plt.subplots()
    for row, (kind, colour) in zip(table.sublayers[:2], COLOURS.items(), strict=True):
        units = len(row) - 1
        share, seconds = 100 * np.arange(units + 1) / units, 1000 * row.numpy()
        axes.plot(share, seconds, color=colour, label=kind)
        timed = sorted({round(part * units) for part in SHARES})
        style = {"color": colour, "marker": "so"[kind == "neurons"], "linestyle": ""}
        axes.plot(share[timed], seconds[timed], **style)
    axes.set(
        title=f"What units add to one layer, {table.batch_size} × {table.length} tokens",
        xlabel="units left (%), timed at the marks",
        ylabel="time (ms)",
        ylim=(0, None),
    )
    axes.legend()
    return figure


def widths(seconds: Mapping[int, float], multiple: int) -> Figure:
    """Time of an FFN by its number of neurons, those marked that are multiples of some number."""
    figure, axes = plt.subplots()
    sizes, times = np.array([*seconds]), 1000 * np.array([*seconds.values()])
    axes.plot(sizes, times, color=COLOURS["neurons"], linewidth=1)
    for here, face, label in (
        (sizes % multiple == 0, COLOURS["neurons"], f"multiples of {multiple}"),
        (sizes % multiple != 0, "white", "others"),
    ):
        style = {"facecolors": face, "edgecolors": COLOURS["neurons"], "zorder": 3}
        axes.scatter(sizes[here], times[here], 36, label=label, **style)
    falls = (np.diff(times) < 0).any()
    axes.set(
        title="Some widths take longer than wider ones" if falls else "Wider takes longer",
        xlabel="neurons of one FFN",
        xticks=sizes[sizes % multiple == 0],
        ylabel="time (ms)",
        ylim=(0, None),
    )
    axes.legend(loc="lower right")
    return figure
