"""A latency table: seconds of every sublayer on this machine, by its number of units."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kprune.data.checks import rounded_down
from kprune.encoders import Encoder
from kprune.engine.sharing import sharing_weights
from kprune.limits.latency import checked_batch, latencies
from kprune.surgery import keep_units
from kprune.variations import to_multiple

SHARES = tuple(eighth / 8 for eighth in range(9))  # of the units, at which a model is timed


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of every sublayer of an encoder on this machine, by its number of units."""

    batch_size: int  # sequences
    length: int  # tokens per sequence
    whole: float  # seconds of one forward pass of the whole model, measured
    # The seconds that n = 0 … N units of each add, [N + 1]; never falling, 0 at the start.
    sublayers: tuple[Tensor, ...]

    @property
    def fixed(self) -> float:
        """Seconds that stay when every unit is gone: embeddings, norms, residual sums, the head."""
        return self.whole - sum(seconds[-1].item() for seconds in self.sublayers)

    def per_unit(self, t: int) -> float:
        """Mean seconds of a unit of sublayer `t`, from 0; 1 where it has none or takes no time."""
        seconds = self.sublayers[t]
        return seconds[-1].item() / max(len(seconds) - 1, 1) or 1.0

    def predict(self, units: Sequence[int]) -> float:
        """Seconds of a forward pass of the model with so many units in each sublayer."""
        parts = zip(self.sublayers, units, strict=True)
        return self.fixed + sum(seconds[n].item() for seconds, n in parts)

    def budget(self, speedup: float) -> float:
        """Seconds that the units may take for the model to be `speedup` times as fast."""
        most = self.whole / self.fixed if self.fixed > 0 else float("inf")
        if not 1 < speedup < most:
            raise ValueError(
                f"speedup is how many times as fast the pruned model shall be, above 1; on this "
                f"machine, at batches of {self.batch_size} × {self.length} tokens, what cannot be "
                f"pruned leaves room for less than {rounded_down(most, 1)}; got {speedup}."
            )
        return self.whole / speedup - self.fixed

    def factor(self, measured: float, units: Sequence[int]) -> float:
        """How much longer a model's units take than the sum of sublayers timed apart says."""
        if not (summed := self.predict(units) - self.fixed):
            return 1.0
        # A candidate as fast as no units at all is a bad measurement.
        return min(max((self.whole / measured - self.fixed) / summed, 0.25), 4.0)

    def left(self, speedup: float, factor: float, units: Sequence[int]) -> float:
        """Of the `budget`, what is left for the last sublayers; at least 0 seconds of the table."""
        taken = sum(row[n].item() for row, n in zip(self.sublayers, units, strict=False))
        return max(self.budget(speedup) / factor - taken, 0.0)


def measure_candidate(
    table: LatencyTable,
    dense: Encoder,
    student: Encoder,
    masks: Sequence[Tensor],
    multiple: int = 1,
    repeats: int = 5,
) -> tuple[float, list[int]]:
    """How many times as fast as the dense model a half-pruned one will be, and all its units."""
    candidate = Encoder(sharing_weights(student.model))
    candidate.model.config._attn_implementation = dense.model.config._attn_implementation
    sublayers = candidate.sublayers
    for sublayer, keep in zip(sublayers[len(sublayers) - len(masks) :], masks, strict=True):
        if sublayer.kind == "FFN":  # which neurons they are makes no difference to time
            keep = to_multiple(keep, keep.float(), multiple, sublayer.units)
        keep_units(sublayer, keep)
    models = {"dense": dense.model, "candidate": candidate.model}
    found = latencies(models, table.batch_size, table.length, repeats, quiet=True)
    return found["dense"] / found["candidate"], [sublayer.units for sublayer in sublayers]


def measure_latencies(
    model: PreTrainedModel, batch_size: int, length: int, repeats: int = 7, progress: bool = True
) -> LatencyTable:
    """Time a model with fewer and fewer units, on the device that it is on.

    Copies of the model with no, an eighth, … all heads, and the same for neurons, pass in turns;
    the shortest of each one's `repeats` passes is shared out evenly over the sublayers, and linear
    in between. Where an eighth is no whole number of heads it stands at the share that the copy
    really has. The model, dense or pruned, is not changed. ValueError when the batch is empty,
    too long, or larger than memory.
    """
    batch_size, length = checked_batch(model, batch_size, length)
    sublayers = Encoder(model).sublayers
    # Each kind on its own, without the other: their times add up.
    wanted = [("MHA", share) for share in SHARES] + [("FFN", share) for share in SHARES[1:]]
    models = {"whole": model}
    models |= {f"{kind} {share}": _cut_to(model, kind, share) for kind, share in wanted}
    found = latencies(models, batch_size, length, repeats, progress, quiet=True)
    empty = found[f"MHA {SHARES[0]}"]
    curves, counts = {}, {}
    for kind in ("MHA", "FFN"):
        copies = [f"{kind} {share}" for share in SHARES[1:]]
        curves[kind] = np.maximum.accumulate([0.0, *(found[name] - empty for name in copies)])
        counts[kind] = [0, *(sum(Encoder(models[name]).units(kind)) for name in copies)]
    scale = (found["whole"] - empty) / max(curves["MHA"][-1] + curves["FFN"][-1], 1e-12)
    rows = []
    for sublayer in sublayers:
        alike = counts[sublayer.kind][-1]
        share = np.linspace(0, 1, sublayer.units + 1) if sublayer.units else np.zeros(1)
        different, which = np.unique(counts[sublayer.kind], return_index=True)
        seconds = np.interp(share, different / max(alike, 1), curves[sublayer.kind][which])
        rows.append(torch.from_numpy(scale * seconds * sublayer.units / max(alike, 1)))
    return LatencyTable(batch_size, length, found["whole"], tuple(rows))


def _cut_to(model: PreTrainedModel, kind: str, share: float) -> PreTrainedModel:
    """A copy with this share of the units of one kind in each layer, and none of the other."""
    encoder = Encoder(sharing_weights(model))
    for sublayer in encoder.sublayers:
        count = round(share * sublayer.units) if sublayer.kind == kind else 0
        keep_units(sublayer, torch.arange(sublayer.units) < count)
    return encoder.model  # of a family that shares layers not the copy above


def unit_seconds(seconds: Tensor, scores: Tensor) -> Tensor:
    """What each unit of a sublayer costs, if units leave in ascending order of their scores."""
    costs = torch.empty(len(scores), dtype=torch.float64, device=scores.device)
    costs[scores.argsort()] = seconds.diff().flip(0).to(costs)  # the first to leave comes first
    return costs
