"""Predictive knowledge as Fisher information: not zero where the student equals the teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.data.batching import Batch
from kprune.knowledge import by_unit, zeros
from kprune.measuring import Loss, Measured
from kprune.state import State

SEEDS = 1_000_003  # sequences, at most, between the signs of one seed and those of the next


class FisherSums:
    """Squared mask gradients, summed over samples; half their mean is the score."""

    def __init__(self, state: State, t: int):
        self.sublayers, self.samples = state.student.sublayers[t:], len(state.sample.examples)
        self.totals = [zeros(sub, sub.units).double() for sub in self.sublayers]

    def add(self, batch: Batch, found: Measured) -> None:
        for total, sub, own in zip(self.totals, self.sublayers, found.gradients, strict=True):
            total += by_unit(sub, own.double()).square().sum(0)

    def per_unit(self) -> list[Tensor]:
        return [total / (2 * self.samples) for total in self.totals]


@dataclass
class Fisher:
    """S_pred as the Fisher information of each mask variable, per sample.

    One pass back from a random direction in the outputs gives it (`outputs.Kind.probe`).
    """

    gamma: float = 2.0  # temperature γ of the teacher's distribution
    seed: int = 0  # of the probes' signs
    signs: list[Tensor] | None = None  # of each batch, drawn once
    sums = FisherSums

    def loss(self, state: State, t: int) -> Loss:
        def probe(number: int, outputs: Tensor) -> Tensor:
            teacher = state.outputs[number] if t else outputs.detach()
            mask = state.batches[number].mask
            return state.kind.probe(outputs, teacher, self.gamma, mask, self.signs[number])

        if self.signs is None:
            self.signs = draw_signs(state, self.seed)
        return probe


def draw_signs(state: State, seed: int) -> list[Tensor]:
    """Signs ±1 for each output of each sequence, int8 like the outputs, one tensor for each batch.

    They follow from the seed and the sequence's place in the sample: batching changes nothing.
    """
    kind, generator = state.kind, torch.Generator()
    by_token = kind.name in ("span", "tokens")
    found = []
    for batch in state.batches:
        length = batch.inputs["input_ids"].shape[1]
        shape = (length, kind.outputs) if by_token else (kind.outputs,)
        rows = []
        for index in batch.index.tolist():
            generator.manual_seed(SEEDS * seed + index)
            rows.append(torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1)
        found.append(torch.stack(rows).to(state.student.device))
    return found
