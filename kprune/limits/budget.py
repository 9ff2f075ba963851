"""What the kept units may cost together: FLOPs, or seconds on this machine."""

import statistics
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.encoders import Encoder, Sublayer
from kprune.limits.table import LatencyTable, measure_candidate, unit_seconds
from kprune.state import State

CORRECTIONS = 3  # candidates timed before the first sublayer is pruned; then one per layer
RECENT = 5  # latest candidates, whose timings correct the budget


class Budget:
    """A limit, of which sublayers spend their share from the bottom up."""

    left: float  # for the sublayers that are not pruned yet

    def price(self, sublayer: Sublayer) -> float:
        """What one of its units costs, on average: scores are divided by it."""
        raise NotImplementedError

    def costs(self, sublayer: Sublayer, scores: Tensor) -> Tensor:
        """What each unit costs if units leave in ascending order of their scores: [units]."""
        return torch.full_like(scores, self.price(sublayer), dtype=torch.float64)

    def affords(self, sublayer: Sublayer) -> int:
        """Units of this sublayer that what is left would pay for."""
        return int(self.left // self.price(sublayer))

    def spend(self, sublayer: Sublayer) -> None:
        """Take off what the units left in a sublayer cost."""
        self.left -= sublayer.units * self.price(sublayer)

    def corrected(self, state: State, t: int, masks: Sequence[Tensor]) -> bool:
        """Whether a search should be made again, since what is left was estimated anew."""
        return False


class Flops(Budget):
    """A limit in FLOPs on one sequence of `length` tokens: exact, so nothing is estimated."""

    def __init__(self, limit: float, length: float):
        self.left, self.length = limit, length

    def price(self, sublayer: Sublayer) -> float:
        return sublayer.unit_flops(self.length)


class Seconds(Budget):
    """A limit in time: a latency table, which is no straight line, corrected by timed candidates.

    ValueError when `speedup` is beyond reach; `multiple` is what neurons will be rounded to.
    """

    def __init__(self, table: LatencyTable, speedup: float, multiple: int = 1):
        self.table, self.speedup, self.multiple = table, speedup, multiple
        self.left = table.budget(speedup)
        self.factors: list[float] = []  # by which timed candidates were slower than the table says
        self.timed = Counter[int]()  # candidates timed at each sublayer

    def price(self, sublayer: Sublayer) -> float:
        return self.table.per_unit(sublayer.place)

    def costs(self, sublayer: Sublayer, scores: Tensor) -> Tensor:
        return unit_seconds(self.table.sublayers[sublayer.place], scores)

    def affords(self, sublayer: Sublayer) -> int:
        return int((self.table.sublayers[sublayer.place] <= self.left).sum()) - 1

    def spend(self, sublayer: Sublayer) -> None:
        self.left -= self.table.sublayers[sublayer.place][sublayer.units].item()

    def corrected(self, state: State, t: int, masks: Sequence[Tensor]) -> bool:
        """Time a candidate with these masks: thrice before the first sublayer, once in a layer."""
        if self.timed[t] == (CORRECTIONS if t == 0 else t % 2):
            return False
        self.timed[t] += 1
        found = measure_candidate(self.table, state.teacher, state.student, masks, self.multiple)
        self.factors.append(self.table.factor(*found))
        # Timings scatter: a median does less. Those of long ago were of other shapes, and of a
        # machine that was busy otherwise.
        factor = statistics.median(self.factors[-RECENT:])
        pruned = [sublayer.units for sublayer in state.student.sublayers[:t]]
        self.left = self.table.left(self.speedup, factor, pruned)
        return True


def most(share: float, encoder: Encoder, length: float) -> float:
    """A share of all FLOPs, as a limit: sums of many units round, and an exact fit fits."""
    return share * encoder.flops(length) * (1 + 1e-12)
