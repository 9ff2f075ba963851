"""How K_pred curves where a sublayer's output is off, by one pass up and down the dense model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.data.batching import Batch, on_device
from kprune.encoders import Encoder
from kprune.engine.least_squares import ROWS
from kprune.knowledge import check_finite, zeros
from kprune.measuring import BACK_TOO, Slopes, differentiated, over_batches
from kprune.plus.probes import probes
from kprune.state import State

RANKED = 20_000  # tokens, about, that are looked at: so-many-th sequences of a larger sample


class Curvature:
    """Sums over a sample, of all sublayers, in float32 or wider.

    Where the output of a sublayer is off by δ at a token, K_pred grows by about ½·(δᵀg)², with g
    the gradient of a probe there (`probes`). `grams` are A = PᵀP of the features and `slopes`
    G = Σ g·gᵀ, each over `tokens` of `samples` sequences; as in K-FAC they are taken for
    independent, so that an error ΔW of the output projection costs tr(ΔWᵀ·A·ΔW·G) / (2 · tokens ·
    samples) a sequence.

    Where the output is a mean over tokens, their errors add up instead: g is nearly the same in all
    of a sequence, and what attention brings in much alike. There G is scaled for A·G to have the
    trace that it stands for, that of the weights' own gradients p·gᵀ, summed in each sequence.
    """

    def __init__(self, state: State, gamma: float, seed: int):
        student, examples = state.student, state.seen.examples
        every = -(-state.seen.tokens // RANKED)
        some = replace(state.seen, examples=examples[::every], labels=None)
        self.samples, self.tokens = len(some.examples), some.tokens
        batches = on_device(some, student.device)
        sizes = [
            (sub, sub.output.in_features, sub.output.out_features) for sub in student.sublayers
        ]
        self.grams = [zeros(sub, features, features) for sub, features, _ in sizes]
        self.slopes = [zeros(sub, d, d) for sub, _, d in sizes]
        self.pools = state.kind.pools
        self.squares = [zeros(sub) for sub in student.sublayers]  # Σ ‖Σ p·gᵀ‖², if it pools
        # ‖g‖ of each token, a row for each sequence.
        longest = max(len(example["input_ids"]) for example in examples)
        self.norms = [zeros(sub, self.samples, longest) for sub, *_ in sizes]
        self.row = torch.full((len(examples),), self.samples, device=student.device)
        self.row[::every] = torch.arange(self.samples, device=student.device)
        check_finite([self.add(*found) for found in passes(state, batches, gamma, seed)])
        if self.pools:
            for gram, outer, squares in zip(self.grams, self.slopes, self.squares, strict=True):
                taken = gram.trace() * outer.trace() / self.tokens
                outer *= squares / taken.clamp(min=torch.finfo(outer.dtype).tiny)

    def add(self, batch: Batch, parts: list[Slopes]) -> Tensor:
        """Add what a batch leaves behind; tells whether its outputs are finite."""
        ids = batch.inputs["input_ids"]
        real = torch.ones_like(ids, dtype=torch.bool) if batch.mask is None else batch.mask
        features = [P for part in reversed(parts) for P in part.features]
        slopes = [g for part in reversed(parts) for g in part.slopes]
        sums = zip(self.grams, self.slopes, self.squares, self.norms, features, slopes, strict=True)
        for gram, outer, squares, norms, P, g in sums:
            P, g = (x * real[:, : x.shape[1], None] for x in (P.to(gram.dtype), g.to(gram.dtype)))
            norms[batch.index, : g.shape[1]] = g.norm(dim=-1)
            if self.pools:
                squares += ((P @ P.mT) * (g @ g.mT)).sum()
            for total, x in ((gram, P), (outer, g)):
                for rows in x.flatten(0, 1).split(ROWS):
                    total.addmm_(rows.T, rows)
        return parts[0].outputs.isfinite().all()

    def weights(self, place: int, batch: Batch) -> Tensor:
        """How much a batch's tokens count in tuning a sublayer, [batch, length].

        Half of it is the same for all, and half goes by the slope there, relative to the mean of
        those that are not zero; 1 in sequences that were not looked at.
        """
        return self._weights[place][self.row[batch.index], : batch.inputs["input_ids"].shape[1]]

    @cached_property
    def _weights(self) -> list[Tensor]:
        found = []
        for norms in self.norms:
            mean = norms.sum() / (norms > 0).sum().clamp(min=1)
            relative = norms / mean.clamp(min=torch.finfo(norms.dtype).tiny)
            found.append(F.pad(0.5 + 0.5 * relative, (0, 0, 0, 1), value=1.0))
        return found


def passes(
    state: State, batches: Sequence[Batch], gamma: float, seed: int
) -> Iterator[tuple[Batch, list[Slopes]]]:
    """Each batch, and what it leaves behind, in ranking precision: stretches from the top down."""
    probe = probes(state.kind, batches, gamma, seed)

    def one(encoder: Encoder, number: int, stretch: int) -> list[Slopes]:
        loss = partial(probe, number)
        parts = differentiated(encoder, 0, batches[number], None, loss, stretch, at_outputs=True)
        return list(parts)

    return zip(batches, over_batches(state, 0, batches, one, BACK_TOO), strict=True)
