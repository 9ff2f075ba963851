"""Random directions in the outputs, from which one pass back tells the curvature of K_pred."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.data.batching import Batch
from kprune.measuring import Loss
from kprune.outputs import Kind

SEEDS = 1_000_003  # sequences, at most, between the signs of one seed and those of the next


def probes(kind: Kind, batches: Sequence[Batch], gamma: float, seed: int) -> Loss:
    """A number for each sequence, whose gradients' second moment is the curvature of K_pred.

    That is where the student is the teacher; γ is the temperature (`outputs.Kind.probe`).
    """
    signs = draw_signs(kind, batches, seed)

    def probe(number: int, outputs: Tensor) -> Tensor:
        mask = batches[number].mask
        return kind.probe(outputs, outputs.detach(), gamma, mask, signs[number])

    return probe


def draw_signs(kind: Kind, batches: Sequence[Batch], seed: int) -> list[Tensor]:
    """Signs ±1 for each output of each sequence, int8 like the outputs, one tensor for each batch.

    They follow from the seed and the sequence's place in the sample: batching changes nothing.
    """
    generator, by_token = torch.Generator(), kind.name in ("span", "tokens")
    found = []
    for batch in batches:
        length = batch.inputs["input_ids"].shape[1]
        shape = (length, kind.outputs) if by_token else (kind.outputs,)
        rows = []
        for index in batch.index.tolist():
            generator.manual_seed(SEEDS * seed + index)
            rows.append(torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1)
        found.append(torch.stack(rows).to(batch.index.device))
    return found
